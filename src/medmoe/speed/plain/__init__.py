"""Plain references: each thing done as its published description or the usual tool does it, without our shortcuts."""
