"""Many trainings in several processes, each into its run folder; what has a result is not run again."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from cbkernels.training.config import AutotuneConfig, TrainConfig

Task = tuple[TrainConfig, Path]
SECONDS = "seconds.json"
"""What a run took of a processor, which what else runs on the machine hardly changes; in its folder."""


def run_all(tasks: list[Task], workers: int) -> list[dict[str, Any]]:
    """The results of all tasks, in their order; several workers are processes of one thread each."""
    todo = [task for task in tasks if not (task[1] / "result.json").exists()]
    if workers == 1:
        _tell((_run(*task) for task in todo), len(todo))
    else:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        with ProcessPoolExecutor(workers) as pool:
            started = [pool.submit(_run, *task) for task in todo]
            _tell((future.result() for future in as_completed(started)), len(todo))
    return [json.loads((folder / "result.json").read_text()) for _, folder in tasks]


def _tell(lines: Iterable[str], count: int) -> None:
    for done, line in enumerate(lines, 1):
        print(f"{done} of {count}: {line}", file=sys.stderr, flush=True)


def _run(config: TrainConfig, folder: Path) -> str:
    from cbkernels.training import autotune_configured, train

    began = time.process_time()
    tunes = isinstance(config, AutotuneConfig)
    result = (
        autotune_configured(config, folder, overwrite=True)
        if isinstance(config, AutotuneConfig)
        else train(config, folder, overwrite=True)
    )
    (folder / SECONDS).write_text(json.dumps({"process_seconds": time.process_time() - began}))
    last = result["after"] if tunes else result
    return f"{folder}: {result['status']}, {'-' if last is None else last['test_accuracy']}"
