"""``cbkernels train``: one network on one data set, measured every epoch, into a run folder.

Read next: ``training/loop/measured_epochs.py`` (an epoch), ``training/loop/measuring.py`` (what is measured),
``runs/log.py`` (what is written).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..._version import __version__
from ...files.folders import output_path
from ...ranks import device_named, joined
from ...runs.folder import RunFolder
from ...runs.log import RunLog
from ...runs.stored_runs import open_folder
from ..config import TrainConfig, to_dict
from ..configured import data_set_of, environment, network_of, require_apart_from_data, settled, threads_of
from ..data.samples import samples_of
from ..loop.epochs import Training
from ..loop.estimate import Estimate
from ..loop.measured_epochs import MeasuredTraining, progress_line, times
from ..loop.measuring import cost_of
from ..loop.repr_cycles import cycles_of
from ..loop.schedules import SCHEDULES
from ..trained_run import teacher_of

Show = Callable[[str, int, int], None]
"""Gets a line of progress, the epoch, and how many there are."""


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    sisters: Sequence[str | os.PathLike[str]] = (),
    show: Show = lambda status, epoch, epochs: None,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Train one network, measure it after every epoch, write the run folder.

    Args:
        config: what and how.
        out: the run folder; made if it is missing.
        resume: go on after the last epoch that was written; the result is that of an undisturbed run. The config may
            have more epochs than before where its schedule does not depend on their number.
        overwrite: delete the run that is in the folder.
        sisters: folders of other runs on the same data, which are looked for where these found them.
        show: called after every epoch, on rank 0, with a line of progress, the epoch, and the number of epochs.
        say: called once, on rank 0, with how long the training will take, after its first batches.

    Returns:
        What ``result.json`` holds, on every rank.

    Raises:
        ValueError: an option, the data or the checkpoint do not fit; ``out`` holds another run or foreign files, is
            written by another process, or is the teacher's folder, inside of it or around it.
        OSError: ``out`` cannot be written, or the data are missing; what was written of the run is whole.
        ImportError: safetensors, or what the data set needs, is missing.
    """
    out, device = output_path(out, config.distill_from), device_named(config.device)
    with joined(device) as ranks, settled(threads_of(config)), ExitStack() as opened:
        samples = samples_of(data_set_of(config, *[out] * resume, *sisters), config, device)
        require_apart_from_data(out, samples)
        model = network_of(config, config.architecture, samples)
        training = Training(model, config, samples, ranks, teacher_of(config, device))
        measured = MeasuredTraining("train", 0, training, model.block_names(), overlap=True)
        folder, log, content = _opened(opened, out, config, measured, resume, overwrite)
        if content is not None:
            measured.load_state(content["measured"])
        began = measured.epoch
        while measured.goes_on(config.epochs):
            if ranks.is_first and measured.epoch == max(0, began):
                training.after_batch = _estimate(measured, config, say)
            line = measured.next_epoch(log)
            if not measured.has_diverged:  # the last good weights stay
                with ranks.failing_together():
                    log.save({"architecture": config.architecture.to_dict(), "measured": measured.state()})
            if ranks.is_first:
                show(progress_line(line, config.epochs), line["epoch"], config.epochs)
        log.write()
        log.close()
        result = _result(config, measured, log)
        if folder is not None:
            folder.write_json("result.json", result)
    return result


def _opened(
    opened: ExitStack, out: Path, config: TrainConfig, measured: MeasuredTraining, resume: bool, overwrite: bool
) -> tuple[RunFolder | None, RunLog, dict[str, Any] | None]:
    """The run folder (rank 0's), its log, and the last checkpoint of a run that goes on."""
    folder, content, ranks = None, None, measured.training.ranks
    with ranks.failing_together():
        if ranks.is_first:
            stored, grows = to_dict(config), _grows(config)
            folder = opened.enter_context(
                open_folder(out, "train", stored, resume=resume, overwrite=overwrite, grows=grows)
            )
            folder.write_json("env.json", environment(measured.training.samples))
        log = RunLog(folder, tensorboard=config.tensorboard)
        content = log.load() if resume else None
    return folder, log, ranks.told_by_first(content)


def _estimate(measured: MeasuredTraining, config: TrainConfig, say: Callable[[str], object]) -> Estimate:
    beside = (measured.seconds["measuring"] + measured.seconds["evaluating"]) / (measured.epoch + 1)
    return Estimate(config.epochs - measured.epoch, beside, measured.training.samples.device, say)


def _grows(config: TrainConfig) -> dict[str, str]:
    """The epochs of a run may become more, unless what it has done already would have been different."""
    depends = SCHEDULES[config.schedule].ends
    return {"epochs": f"the schedule {config.schedule} depends on their number" if depends else ""}


def _result(config: TrainConfig, measured: MeasuredTraining, log: RunLog) -> dict[str, Any]:
    summary, samples = measured.summary(log), measured.training.samples
    trained = "its only epoch was" if measured.epoch == 1 else f"all {measured.epoch} epochs were"
    reason = f"{trained} trained{samples.chance_note(summary['test_accuracy'])}"
    if measured.has_diverged:
        reason = (
            f"the loss of epoch {measured.epoch} is {measured.loss}; lower --learning-rate "
            f"(the checkpoint holds the weights of epoch {measured.epoch - 1})"
        )
    return {
        "command": "train", "version": __version__, "status": "diverged" if measured.has_diverged else "trained",
        "reason": reason, "seed": config.seed, "dataset": samples.name,
        "architecture": config.architecture.to_dict(), "name": str(config.architecture),
        **summary,
        **({"repr": cycles_of(log.history, config)} if config.repr else {}),
        "cost": cost_of(measured.training.model, samples, config),
        "ranks": measured.training.ranks.size, **times(measured.seconds),
    }  # fmt: skip
