"""Reports and histories."""
