"""Curation: what is in a folder, what it shows, which split it is in, what leaks, and who it must not name."""
