"""Figures of findings and of runs."""
