"""Held-out sources: train a router without a whole site, and see what it makes of that site's images."""
