"""Many cut models, loaded again by one fresh process: ``python -m tests.models.zoo.fresh FOLDER NAME...``.

The fresh process builds every model with other weights, applies the files, and writes what the models return.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from .entries import Entry
from .promises import loaded, same, saved

ROOT = Path(__file__).resolve().parents[3]
_ANSWERS = "answers.pt"


class FreshProcess:
    """Saves the entries' cut models in this process and loads them in another one."""

    def __init__(self, entries: list[Entry], folder: Path) -> None:
        self._here: dict[str, list[torch.Tensor] | None] = {}
        self._refused: dict[str, Exception] = {}
        for entry in entries:
            try:
                self._here[entry.name] = saved(entry, str(folder / entry.name.replace("/", "_")))
            except Exception as error:  # told by the test of this entry
                self._refused[entry.name] = error
        names = [name for name, answer in self._here.items() if answer is not None]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        done = subprocess.run(
            [sys.executable, "-m", "tests.models.zoo.fresh", str(folder), *names], cwd=ROOT, capture_output=True,
            text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        self._there: dict[str, list[torch.Tensor] | str] = torch.load(folder / _ANSWERS, weights_only=True)

    def require_same(self, entry: Entry) -> None:
        """Fail unless the other process got what this one got."""
        if entry.name in self._refused:
            raise self._refused[entry.name]
        here = self._here[entry.name]
        if here is not None:
            there = self._there[entry.name]
            assert not isinstance(there, str), there
            assert same(here, there)


def main(folder: str, names: list[str]) -> None:
    from .catalogue import CATALOGUE
    from .libraries import missing

    answers: dict[str, list[torch.Tensor] | str] = {}
    warnings.simplefilter("ignore")
    for name in names:
        entry = CATALOGUE[name]
        assert missing(entry.library) is None
        try:
            answers[name] = loaded(entry, os.path.join(folder, name.replace("/", "_")))
        except Exception as error:  # told by the test of this entry
            answers[name] = f"{type(error).__name__}: {error}"
    torch.save(answers, os.path.join(folder, _ANSWERS))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
