"""The parts of ``surgery.py``: what may be removed, what remains, the optimizer, the files."""
