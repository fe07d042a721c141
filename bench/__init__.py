"""Benchmarks: `python -m bench` or `pytest bench`; BENCH=quick|tiny for less. Read next: regimes.py, race.py."""
