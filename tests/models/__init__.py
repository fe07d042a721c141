"""Looking at a model."""
