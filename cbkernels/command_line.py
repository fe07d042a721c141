"""The command ``cbkernels``: one subcommand a file in ``commands/``.

Results go to stdout, progress and errors to stderr. Only the standard library is imported before a subcommand
runs, not even NumPy, so ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from ._version import __version__
from .commands import autotune, demo, info, measure, remove, report, repr, train
from .tables import shown

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_EPILOG = """\
exit codes: 0 done; 1 an error, wrong usage included (one sentence on stderr);
2 (of measure) a layer is above --fail-above or NaN; 130 interrupted."""


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one sentence and exit code 1; argparse's 2 belongs to --fail-above."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"cbkernels: error: {shown(message)}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; None takes ``sys.argv``.

    Returns:
        The exit code: 0 done, 1 error, 2 a layer above ``--fail-above``, 130 interrupted, 141 nobody
        reads the output.

    Raises:
        SystemExit: after ``--help`` and ``--version`` (0) and on wrong usage (1).
    """
    parsed = _parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more on exit; that must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (ImportError, MemoryError, OSError, TypeError, ValueError) as error:
        print(f"cbkernels: error: {shown(_sentence(error))}", file=sys.stderr)
        return EXIT_ERROR
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cbkernels",
        description="Which layers of a neural network make samples indistinguishable?",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cbkernels {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (info, measure, train, autotune, remove, repr, report, demo):
        subparser = module.add_parser(commands)
        subparser.set_defaults(run=module.run)
        if subparser.epilog is None:
            subparser.epilog = _EPILOG
        subparser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _sentence(error: Exception) -> str:
    """The error on one line, with the file's name where the system knows it."""
    if isinstance(error, MemoryError):
        return f"not enough memory: {error}" if str(error) else "not enough memory"
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename is not None else ""
        return f"{named}{error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
