"""What a killed removal goes on from: every accuracy that was found, and what fine-tuning ended with.

All the rest of a removal follows from these quickly and in the same way, so it is done again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from ..._version import __version__
from ...files.json_files import read_json_object
from ...runs.folder import RunFolder
from ...runs.schema import PROGRESS
from ...runs.stored_runs import MACHINE
from ..config import RemoveConfig, to_dict
from ..trained_run import TrainedRun


class RemovalProgress:
    """Accuracies by name, in ``progress.json``.

    Args:
        folder: the removal's.
        run: what is cut.
        config: how.
        resume: take over what the file holds, if there is one.

    Raises:
        ValueError: the file is damaged, or of another run or config.
    """

    healed: dict[str, Any] | None = None
    """Accuracy and history of the fine-tuned network, once it is exported."""

    def __init__(self, folder: RunFolder, run: TrainedRun, config: RemoveConfig, *, resume: bool) -> None:
        self.folder = folder
        options = {name: value for name, value in to_dict(config).items() if name not in MACHINE}
        self._of: dict[str, Any] = {"version": __version__, "weights": _checksum(run), "config": options}
        self._accuracies: dict[str, float] = {}
        if not resume:
            (folder.path / PROGRESS).unlink(missing_ok=True)
        elif (folder.path / PROGRESS).exists():
            self._load()

    def accuracy(self, key: str, evaluate: Callable[[], float]) -> float:
        """The known one, or what ``evaluate`` returns."""
        if key not in self._accuracies:
            self._accuracies[key] = evaluate()
        return self._accuracies[key]

    def save(self) -> None:
        """Write the file."""
        self.folder.write_json(PROGRESS, {"of": self._of, "accuracies": self._accuracies, "healed": self.healed})

    def _load(self) -> None:
        path = self.folder.path / PROGRESS
        content = read_json_object(path)
        try:
            of, accuracies, healed = content["of"], content["accuracies"], content["healed"]
            self._accuracies = {str(key): float(value) for key, value in accuracies.items()}
            self.healed = None if healed is None else {key: healed[key] for key in ("accuracy", "history")}
            differs = next((key for key in self._of if of[key] != self._of[key]), None)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({str(error)[:100]}); start again with --overwrite") from error
        if differs is not None:
            raise ValueError(f"{path} is of other {differs}; start again with --overwrite")


def _checksum(run: TrainedRun) -> str:
    digest = hashlib.sha256()
    for name, tensor in run.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
