"""Files on disk: arrays, JSON, and writing a file whole."""
