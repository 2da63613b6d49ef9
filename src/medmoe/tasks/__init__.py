"""Tasks: what a model is evaluated on."""
