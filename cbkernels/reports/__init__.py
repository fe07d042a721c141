"""What was measured, as objects, text, files and pictures; needs no torch."""
