"""The command ``cbkernels``: one subcommand a file in ``commands/``.

Results go to stdout, progress and errors to stderr. Only the standard library is imported before a subcommand
runs, not even NumPy, so ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

from ._version import __version__
from .commands import autotune, completion, demo, info, measure, remove, report, repr, scan, train
from .commands.output import Output
from .stopping import Stop
from .tables import shown

EXIT_ERROR = 1

_EPILOG = """\
exit codes: 0 done; 1 an error, wrong usage included (one sentence on stderr); 130 interrupted, 143 terminated."""
_NO_MEMORY = re.compile(r"out of memory|not enough memory|DefaultCPUAllocator|ALLOC_FAILED|bad_alloc", re.I)
"""What torch, which has no error of its own for it on a CPU, says of memory."""


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one sentence and exit code 1; argparse's 2 belongs to --fail-above."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Each subcommand refuses what it does not know itself, and names the option that is nearest."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            near = [f" (the nearest option is {option})" for option in map(self._nearest, unknown) if option]
            self.error(f"unrecognized arguments: {' '.join(unknown)}{near[0] if near else ''}")
        return parsed, unknown

    def _nearest(self, typed: str) -> str | None:
        """The option of which these are the initials, --lr say, else one that is spelt alike."""
        named = typed.partition("=")[0]
        if not named.startswith("-"):
            return None
        shown_ones = (action for action in self._actions if action.help != argparse.SUPPRESS)
        options = [option for action in shown_ones for option in action.option_strings if option.startswith("--")]
        initials = {"".join(word[0] for word in option[2:].split("-")): option for option in reversed(options)}
        return initials.get(named.strip("-")) or next(iter(difflib.get_close_matches(named, options, 1)), None)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"cbkernels: error: {shown(message)}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, as a function of the process that calls it.

    Args:
        arguments: without the program's name; None takes ``sys.argv``.

    Returns:
        The exit code: 0 done, 1 error, 2 a layer above ``--fail-above``, 130 interrupted. Whether anybody reads
        the output changes nothing.

    Raises:
        SystemExit: after ``--help`` and ``--version`` (0) and on wrong usage (1).
    """
    return run(arguments, Stop())


def run(arguments: Sequence[str] | None, stop: Stop) -> int:
    """``main``, with what has the process's signals."""
    out: Any = Output(sys.stdout)
    errors: Any = Output(sys.stderr, whole_lines=True)
    with redirect_stdout(out), redirect_stderr(errors), warnings.catch_warnings():
        warnings.showwarning = _warned
        try:
            parser = _parser()
            if "_ARGCOMPLETE" in os.environ:  # a shell asks
                completion.complete(parser)
            parsed = parser.parse_args(arguments)
            stop.advice = lambda: _goes_on(parsed)
            return _run(parsed, stop)
        finally:
            out.close_down()
            if out.failure is not None and not isinstance(out.failure, BrokenPipeError):
                print(f"cbkernels: stdout: {_sentence(out.failure)}; what was printed is not whole", file=errors)
            errors.close_down()


def _run(parsed: argparse.Namespace, stop: Stop) -> int:
    try:
        code: int = parsed.run(parsed)
        return code
    except BaseException as error:
        if stop.is_asked_for or isinstance(error, KeyboardInterrupt):  # imports make other errors of an interrupt
            print(stop.line(), end="", file=sys.stderr)
            return stop.exit_code
        if not isinstance(error, (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError)):
            raise
        is_memory = isinstance(error, MemoryError) or (
            isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
        )
        said = _of_memory(str(error), parsed.less_memory) if is_memory else _as_typed(_sentence(error), parsed.usage())
    print(f"cbkernels: error: {shown(said)}", file=sys.stderr)
    return EXIT_ERROR


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    """A line like that of an error, without the place in the code."""
    print(f"cbkernels: warning: {shown(' '.join(str(message).split()))}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cbkernels",
        description="Which layers of a neural network make samples indistinguishable?",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(goes_on=None, less_memory="give it less to do at once")
    parser.add_argument("--version", action="version", version=f"cbkernels {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (info, measure, scan, train, autotune, remove, repr, report, demo, completion):
        subparser = module.add_parser(commands)
        subparser.set_defaults(run=module.run, usage=subparser.format_help)
        if subparser.epilog is None:
            subparser.epilog = _EPILOG
        subparser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _goes_on(parsed: argparse.Namespace) -> str:
    """How to go on with what was interrupted, where a command says so and has begun."""
    if parsed.goes_on is None or parsed.out is None:
        return ""
    begun, advice = parsed.goes_on
    return advice.format(out=parsed.out) if Path(parsed.out, begun).exists() else ""


def _as_typed(said: str, usage: str) -> str:
    """An error of the library with the options as they are typed in place of its arguments, ``image_size`` say.

    A name of one word is also an ordinary word: only one that the sentence begins with is an option.
    """
    for option in sorted(set(re.findall(r"--(?!no-)[a-z][a-z-]*", usage)), key=len, reverse=True):
        name = option[2:].replace("-", "_")
        places = rf"^{name}(?= is )|(?<=a run with ){name}\b|(?<=only ){name}(?= may)"
        said = re.sub(rf"(?<![\w./'\"-]){name}(?![\w./'\"-])" if "_" in name else places, option, said)
    return said


def _of_memory(said: str, less: str) -> str:
    size = re.search(r"allocate (\d\S* \w+)", said)
    return f"not enough memory{f' for {size[1]}' if size else ''}; {less}"


def _sentence(error: Exception) -> str:
    """The error on one line, with the file's name where the system knows it."""
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename is not None else ""
        return f"{named}{error.strerror}"
    said = str(error).partition("\nException raised from ")[0]  # torch goes on with its own stack
    return " ".join(said.split()) or type(error).__name__
