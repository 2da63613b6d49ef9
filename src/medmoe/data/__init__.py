"""Data: sources yield samples, transforms shape them, the loader batches them."""
