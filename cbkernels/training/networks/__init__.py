"""The networks that the command line trains."""
