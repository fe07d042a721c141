"""Training: data, networks, the papers' recipe. Needs torch, except for the data."""
