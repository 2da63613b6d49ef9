"""Heads: what a model says beside its embeddings."""
