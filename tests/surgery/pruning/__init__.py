"""Pruning: rankings, strategies, healing, the log."""
