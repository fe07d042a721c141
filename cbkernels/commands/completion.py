"""``cbkernels completion SHELL``: what a shell reads to complete commands, options and names."""

from __future__ import annotations

import argparse
from typing import Any

from ..lazy import require_package

SHELLS = ("bash", "zsh", "fish")
_DESCRIPTION = """\
Print what a shell reads to complete the commands of cbkernels, their options and the names that these take.

  bash   eval "$(cbkernels completion bash)"     in ~/.bashrc
  zsh    eval "$(cbkernels completion zsh)"      in ~/.zshrc, behind compinit
  fish   cbkernels completion fish | source      in ~/.config/fish/config.fish"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "completion", help="print what bash, zsh or fish read to complete commands", description=_DESCRIPTION
    )
    parser.add_argument("shell", choices=SHELLS, metavar=f"{{{','.join(SHELLS)}}}", help="the shell")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    print(_argcomplete().shellcode(["cbkernels"], shell=arguments.shell))
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that asks, and end the process."""
    _argcomplete().autocomplete(parser)


def _argcomplete() -> Any:
    return require_package("argcomplete", "completion")
