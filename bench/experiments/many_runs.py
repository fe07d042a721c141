"""Many trainings in several processes, each into its run folder; what has a result is not run again."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from cbkernels.training.config import AutotuneConfig, TrainConfig

Task = tuple[TrainConfig, Path]


def run_all(tasks: list[Task], workers: int) -> list[dict[str, Any]]:
    """The results of all tasks, in their order; one process and one thread each."""
    todo = [task for task in tasks if not (task[1] / "result.json").exists()]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(workers) as pool:
        for done, future in enumerate(as_completed([pool.submit(_run, *task) for task in todo]), 1):
            print(f"{done} of {len(todo)}: {future.result()}", file=sys.stderr, flush=True)
    return [json.loads((folder / "result.json").read_text()) for _, folder in tasks]


def _run(config: TrainConfig, folder: Path) -> str:
    from cbkernels.training import autotune_configured, train

    tunes = isinstance(config, AutotuneConfig)
    result = (
        autotune_configured(config, folder, overwrite=True)
        if isinstance(config, AutotuneConfig)
        else train(config, folder, overwrite=True)
    )
    last = result["after"] if tunes else result
    return f"{folder}: {result['status']}, {'-' if last is None else last['test_accuracy']}"
