"""Objectives: pure functions from an output and a batch to a loss."""
