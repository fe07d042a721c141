"""Removing as many residual blocks as a model can do without, by rank, with healing and a guard."""
