"""Encoders: images to feature pyramids, reports to word features."""
