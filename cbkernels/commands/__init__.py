"""Subcommands: each file has ``add_parser(subparsers)`` and ``run(arguments) -> exit code``.

Except ``training_command.py``, which holds what those that train have in common.
"""
