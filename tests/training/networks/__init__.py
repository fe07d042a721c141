"""The networks of the command line."""
