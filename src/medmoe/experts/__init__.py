"""Experts: the router, the pyramid expert, and the sparse dispatch between them."""
