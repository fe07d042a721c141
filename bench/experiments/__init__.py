"""The experiments of docs/experiments.md: each file is one, ``python -m bench.experiments.NAME --help``.

Every training is a run folder of the command line, skipped when it is there already; pictures are drawn from those.
"""
