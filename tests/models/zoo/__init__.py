"""Tiny models of many libraries, and what a practitioner would call their blocks: see ``entries.py``."""
