"""Subcommands: each file has ``add_parser(subparsers)`` and ``run(arguments) -> exit code``."""
