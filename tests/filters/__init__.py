"""RePr."""
