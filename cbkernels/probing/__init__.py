"""Looking into a user's model by running it: samples, layers, residual blocks, cost. ``monitor.py`` is the way in."""
