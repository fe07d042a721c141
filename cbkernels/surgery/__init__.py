"""Changing a model: what a removal takes away, the edits that can be undone, the files that keep them."""
