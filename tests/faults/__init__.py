"""Faults planted in the Python package: does the suite still notice them? Run by ``make mutate-python``."""
