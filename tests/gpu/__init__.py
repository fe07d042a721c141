"""Tests that need an NVIDIA GPU; `make gpu-check` runs them, elsewhere each says NOT TESTED HERE."""
