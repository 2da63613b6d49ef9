"""Importers: the layouts in which public data sets lie on people's disks, each to the rows of a manifest."""
