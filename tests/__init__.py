"""Tests of cbkernels; ``cases.py`` holds the hand-made answers."""
