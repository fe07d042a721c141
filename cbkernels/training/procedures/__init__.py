"""One procedure a file, named like its command."""
