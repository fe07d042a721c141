"""What a killed removal goes on from, beside the folders of ``prune_blocks``: accuracies, healings, outcomes.

All the rest of a removal follows from these quickly and in the same way, so it is done again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._version import __version__
from ...files.folders import delete_files
from ...files.json_files import read_json_object
from ...files.typed_json import required
from ...runs.folder import RunFolder
from ...runs.schema import PROGRESS, PRUNING_FILES, RemovalState
from ...surgery.pruning.progress import checksum
from ..trained_run import TrainedRun


class RemovalProgress:
    """Accuracies by name, in ``progress.json``.

    Args:
        folder: the removal's.
        run: what is cut.
        resume: take over what the file holds, if there is one.

    Raises:
        ValueError: the file is damaged, or of another run.
    """

    def __init__(self, folder: RunFolder, run: TrainedRun, *, resume: bool) -> None:
        self.folder = folder
        self.healings: dict[str, dict[str, list[dict[str, Any]]]] = {}
        """Ranking -> number of blocks that were gone -> lines of the history."""
        self.outcomes: dict[str, dict[str, Any]] = {}
        """Ranking -> what ``pruned`` returned of it."""
        self._of = {"version": __version__, "weights": checksum(run.model.state_dict())}
        self._accuracies: dict[str, float] = {}
        if not resume:
            delete_files(folder.path, (PROGRESS, *PRUNING_FILES))
        elif (folder.path / PROGRESS).exists():
            self._load()

    def accuracy(self, key: str, evaluate: Callable[[], float]) -> float:
        """The known one, or what ``evaluate`` returns."""
        if key not in self._accuracies:
            self._accuracies[key] = evaluate()
        return self._accuracies[key]

    def save(self) -> None:
        """Write the file."""
        parts = {"accuracies": self._accuracies, "healings": self.healings, "outcomes": self.outcomes}
        self.folder.write_json(PROGRESS, {"of": self._of, **parts})

    def _load(self) -> None:
        path = self.folder.path / PROGRESS
        try:
            content = read_json_object(path)
            state = required(RemovalState, content, path)
        except ValueError as error:
            raise ValueError(f"{error}; start again with --overwrite") from error
        self._accuracies = dict(state.accuracies)
        self.healings, self.outcomes = (dict(content.get(name, {})) for name in ("healings", "outcomes"))
        differs = next((key for key in self._of if state.of.get(key) != self._of[key]), None)
        if differs is not None:
            raise ValueError(f"{path} is of other {differs}; start again with --overwrite")
