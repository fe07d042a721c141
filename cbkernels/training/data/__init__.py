"""Data sets: where they come from, how images are read, prepared and augmented."""
