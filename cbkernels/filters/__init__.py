"""RePr: which filters are the worst, masks that drop them, new values that bring them back. Knows no bundles."""
