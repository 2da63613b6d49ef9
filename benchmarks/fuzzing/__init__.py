"""Cases of the fuzz campaign: damaged and hostile files, made from a seed, and what reading them may do."""
