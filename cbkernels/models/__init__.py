"""Looking at a model: its probe batch, layers, residual blocks and cost; nothing here changes it."""
