"""Writes into a document what its own code prints and draws: figures that nobody types, from one run on one machine.

A chaotic training gives other figures on every kind of processor: a document's text says what holds on all of them, and
fenced blocks show one run. The words of a fence say where its lines come from: ``text printed by this block`` (of
python, right above), ``text printed by cbkernels ...`` (that command), ``text machine`` (where all of it ran). Pictures
that the run leaves replace those of the same name beside the document; tests/house/test_readme.py runs documents too.
    python -m bench.document_outputs docs/tutorial.md
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from .record import machine, versions

FENCED = re.compile(
    r"^(?P<not_run><!-- not run: [^\n]*-->\s*)?```(?P<words>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
PICTURE = re.compile(r"!\[[^\]]*\]\((?P<path>[^)\s]*\.png)\)")
PRINTED = "text printed by "


def main() -> None:
    """Rewrite the documents that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", nargs="+", type=Path, metavar="DOCUMENT")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="torch's threads (default 1)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    os.environ.update(OMP_NUM_THREADS=str(given.threads), MPLBACKEND="Agg")
    for document in given.documents:
        with tempfile.TemporaryDirectory() as folder:
            write(document, Path(folder))
        print(f"{document}: written anew")


def write(document: Path, folder: Path) -> None:
    """Run the document's code in ``folder`` and write the document, and its pictures, when all of it has run."""
    text = document.read_text(encoding="utf-8")
    with inside(folder):
        text = FENCED.sub(Filling(), text)
    for picture in PICTURE.finditer(text):
        old = document.parent / picture["path"]
        # the run's heatmap.png is the document's images/tutorial-heatmap.png
        new = [drawn for drawn in sorted(folder.rglob("*.png")) if f"-{old.name}".endswith(f"-{drawn.name}")]
        if new:
            shutil.copyfile(new[0], old)
        print(f"{old}: {'drawn anew' if new else 'left as it is, for this run drew none of that name'}")
    document.write_text(text, encoding="utf-8")


class Filling:
    """What stands in each fenced block, from first to last; python blocks are run in one namespace."""

    def __init__(self) -> None:
        self._namespace: dict[str, object] = {"__name__": "__document__"}
        self._printed = ""

    def __call__(self, block: re.Match[str]) -> str:
        words, body = block["words"], block["body"]
        if block["not_run"]:
            return block[0]
        if words == "python":
            with contextlib.redirect_stdout(io.StringIO()) as stdout:
                exec(compile(body, body.partition("\n")[0], "exec"), self._namespace)
            self._printed = stdout.getvalue()
        elif words == "text machine":
            body = where()
        elif words.startswith(f"{PRINTED}this block"):
            body = self._printed
        elif words.startswith(PRINTED):
            body = said_by(shlex.split(words.removeprefix(PRINTED)))
        lines = "".join(f"{line.rstrip()}\n" for line in body.splitlines())
        return f"```{words}\n{lines}```"


def said_by(command: list[str]) -> str:
    """The standard output of a command of ours."""
    assert command[0] == "cbkernels", f"{command[0]} is no command of this package"
    done = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def where() -> str:
    """One line: what decides a training's last bits, and with them its figures."""
    threads, version = torch.get_num_threads(), versions()
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{machine()['cpu']}, {threads} thread{'s' * (threads > 1)}, torch {version['torch']} (ATen {capability}), "
        f"NumPy {version['numpy']}, cbkernels {version['cbkernels']}\n"
    )


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The current folder, until the end of the block."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == "__main__":
    main()
