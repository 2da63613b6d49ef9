"""Recipes: one file per system, each a complete configuration."""
