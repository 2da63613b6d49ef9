"""Ablations: grids of recipes over seeds and data sizes, run resumably and compared item by item."""
