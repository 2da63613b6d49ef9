"""Sources: each yields `Sample`s by index."""
