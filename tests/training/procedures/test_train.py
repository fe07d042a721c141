"""``cbkernels train`` and its run folder: files, determinism, kills, divergence, options, refusals, reading it."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="training: NOT TESTED HERE (no safetensors)")

from cbkernels.command_line import main  # noqa: E402
from cbkernels.commands import training_command  # noqa: E402
from cbkernels.files import whole_files  # noqa: E402
from cbkernels.files.checkpoints import load_checkpoint, save_checkpoint  # noqa: E402
from cbkernels.training.config import TrainConfig, from_dict, to_dict  # noqa: E402
from cbkernels.training.data.samples import AsGiven, divided  # noqa: E402
from cbkernels.training.loop.epochs import Training  # noqa: E402
from cbkernels.training.loop.measured_epochs import MeasuredTraining  # noqa: E402
from cbkernels.training.procedures.train import train  # noqa: E402
from cbkernels.training.trained_run import accuracy_of, fit, load_trained  # noqa: E402
from cbkernels.wording import percent  # noqa: E402

FNN = TrainConfig(
    depth=4, width=6, train_size=200, test_size=60, batch_size=32, epochs=3, probe_size=50, learning_rate=0.01,
    device="cpu",
)  # fmt: skip
RESNET = TrainConfig(
    model="resnet", blocks=(1, 1, 0, 0), width_multiplier=1 / 16, train_size=64, test_size=30, batch_size=16, epochs=2,
    probe_size=20, augmentation="cifar", optimizer="sgd", learning_rate=0.05, validation_share=0.2, threads=1,
    device="cpu",
)  # fmt: skip
VGG = replace(RESNET, model="vgg", epochs=1)
TINY = replace(FNN, depth=2, train_size=64, epochs=2)
OPTIONS = ["--depth=4", "--width=6", "--train-size=200", "--test-size=60", "--batch-size=32", "--epochs=1"]
TIMES = ("seconds_training", "seconds_measuring", "seconds_evaluating", "measuring_share", "latency_ms",
         "latency_ms_p10", "latency_ms_p90")  # fmt: skip
"""All fields that may differ between two runs of one config."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainConfig], Path]:
    """The folder of a finished run, made once for every config."""
    made: dict[TrainConfig, Path] = {}

    def folder_of(config: TrainConfig) -> Path:
        if config not in made:
            made[config] = tmp_path_factory.mktemp("finished") / "run"
            train(config, made[config])
        return made[config]

    return folder_of


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def history_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def table_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def result_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "result.json").read_text()))


def weights_of(folder: Path) -> dict[str, Any]:
    return dict(load_checkpoint(folder / "checkpoint.safetensors")["measured"]["training"]["model"])


def assert_same_run(one: Path, other: Path) -> None:
    """All but times, bit for bit."""
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())
    assert timeless(result_of(one)) == timeless(result_of(other))
    assert timeless(history_of(one)) == timeless(history_of(other))
    for name in ("config.json", "layers.csv", *(["margins.csv"] if (one / "margins.csv").exists() else [])):
        assert (one / name).read_text() == (other / name).read_text(), name
    left, right = weights_of(one), weights_of(other)
    assert list(left) == list(right)
    assert all(left[name].equal(right[name]) for name in left)


# --- files ----------------------------------------------------------------------------------------


def test_files_of_a_run(finished: Any) -> None:
    folder = finished(FNN)
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.safetensors", "config.json", "env.json", "history.jsonl", "layers.csv", "result.json",
    ]  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    about = [config.pop(name) for name in ("command", "version", "schema")]
    assert about == ["train", result_of(folder)["version"], "cbkernels run 1"]
    assert config == to_dict(FNN)
    environment = json.loads((folder / "env.json").read_text())
    assert {"version", "backends", "compiler", "torch", "torch_threads", "cpus", "device"} <= set(environment)
    assert (environment["torch_threads"], environment["device"]) == (1, "cpu")


def test_history_has_a_line_for_every_epoch(finished: Any) -> None:
    lines = history_of(finished(FNN))
    assert [tuple(line) for line in lines] == [(
        "run", "round", "seed", "epoch", "train_loss", "test_accuracy", "validation_accuracy", "learning_rate",
        "weight_amplitude", "num_conflicting_layers", "first_conflicting", "most_conflicting_rows", "mean_entropy",
        "seconds_training", "seconds_measuring", "seconds_evaluating",
    )] * 4  # fmt: skip
    assert [(line["run"], line["round"], line["epoch"]) for line in lines] == [("train", 0, e) for e in range(4)]
    assert lines[0]["train_loss"] is None
    assert all(0 < line["train_loss"] < 10 for line in lines[1:])
    assert all(0 <= line["test_accuracy"] <= 1 and line["validation_accuracy"] is None for line in lines)
    assert all(line["seconds_training"] > 0 for line in lines[1:])


def test_layers_are_complete_and_agree_with_the_history(finished: Any) -> None:
    folder = finished(FNN)
    rows = table_of(folder / "layers.csv")
    columns = ["run", "round", "epoch", "layer", "num_rows", "num_bundles", "num_conflicting", "entropy", "grid"]
    assert list(rows[0]) == columns
    assert [(r["run"], r["round"], r["epoch"], r["layer"]) for r in rows] == [
        ("train", "0", str(epoch), f"hidden.{layer}") for epoch in range(4) for layer in range(4)
    ]
    for line in history_of(folder):
        of_epoch = [r for r in rows if r["epoch"] == str(line["epoch"])]
        conflicting = [r["layer"] for r in of_epoch if int(r["num_conflicting"])]
        assert line["num_conflicting_layers"] == len(conflicting)
        assert line["first_conflicting"] == (conflicting[0] if conflicting else None)
        grid = f"float32 lr=0.01 batch_size=32 w={line['weight_amplitude']!r}"
        assert {r["grid"] for r in of_epoch} == {grid}
    assert {r["num_rows"] for r in rows} == {"50"}
    assert all((float(r["entropy"]) > 0) == (int(r["num_conflicting"]) > 0) for r in rows)
    means = {
        f"hidden.{i}": np.mean([float(r["entropy"]) for r in rows if r["layer"] == f"hidden.{i}"]) for i in range(4)
    }
    assert result_of(folder)["entropy_mean"] == pytest.approx(means)


def test_result(finished: Any) -> None:
    result, lines = result_of(finished(FNN)), history_of(finished(FNN))
    assert list(result) == [
        "command", "version", "status", "reason", "seed", "dataset", "architecture", "name", "epochs", "test_accuracy",
        "validation_accuracy", "mean_test_accuracy", "chance_accuracy", "entropy_mean", "num_conflicting_layers",
        "first_conflicting", "equality", "cost", "ranks", "seconds_training", "seconds_measuring", "seconds_evaluating",
        "measuring_share",
    ]  # fmt: skip
    assert (result["command"], result["status"], result["seed"], result["epochs"]) == ("train", "trained", 0, 3)
    assert result["architecture"] == {"blocks": [4], "model": "fnn", "width": 6, "width_multiplier": 1.0}
    assert result["test_accuracy"] == lines[-1]["test_accuracy"]
    assert result["mean_test_accuracy"] == pytest.approx(np.mean([line["test_accuracy"] for line in lines[1:]]))
    assert {"parameters", "macs", "flops", "latency_ms", "latency_ms_p10", "latency_ms_p90", "peak_memory_bytes",
            "device"} <= set(result["cost"])  # fmt: skip
    assert result["cost"]["parameters"] == 65 * 6 + 3 * 7 * 6 + 7 * 10
    assert "float32 update grid, lr=0.01 batch_size=32" in result["equality"]
    share = result["seconds_measuring"] / (result["seconds_measuring"] + result["seconds_training"])
    assert result["measuring_share"] == pytest.approx(share)


def test_last_epochs_are_ten(tmp_path: Path) -> None:
    train(replace(FNN, depth=2, width=16, epochs=12, probe_size=2), tmp_path / "run")
    tested = [line["test_accuracy"] for line in history_of(tmp_path / "run")]
    assert len(set(tested)) > 3
    assert result_of(tmp_path / "run")["mean_test_accuracy"] == pytest.approx(np.mean(tested[-10:]))


# --- the same again, and after a kill ---------------------------------------------------------------


@pytest.mark.parametrize("config", [FNN, RESNET], ids=["fnn", "resnet"])
def test_two_runs_are_one(finished: Any, tmp_path: Path, config: TrainConfig) -> None:
    torch.manual_seed(12345)  # which must not matter
    before = torch.get_rng_state()
    train(config, tmp_path / "run")
    assert before.equal(torch.get_rng_state()), "a caller's random numbers go on as before"
    assert_same_run(tmp_path / "run", finished(config))


def test_another_seed_is_another_run(finished: Any, tmp_path: Path) -> None:
    train(replace(FNN, seed=1), tmp_path / "run")
    assert history_of(tmp_path / "run")[0]["weight_amplitude"] != history_of(finished(FNN))[0]["weight_amplitude"]


class Killed(BaseException):
    """Passes by everything that catches errors, as a kill does."""


@pytest.mark.parametrize(
    "config",
    [FNN, RESNET, replace(FNN, schedule="onecycle"), replace(RESNET, schedule="cosine", warmup_epochs=0.5)],
    ids=["fnn", "resnet", "fnn, onecycle", "resnet, cosine"],
)
def test_killed_after_every_epoch(finished: Any, tmp_path: Path, config: TrainConfig) -> None:
    """One run, killed as often as it has epochs; it goes on where it was and trains no epoch twice."""
    seen: list[str] = []

    def killed_once_an_epoch(status: str, *_: int) -> None:
        seen.append(status.split(",")[0])
        raise Killed

    for _ in range(config.epochs + 1):
        with pytest.raises(Killed):
            train(config, tmp_path / "run", resume=True, show=killed_once_an_epoch)
    train(config, tmp_path / "run", resume=True, show=lambda status, *_: pytest.fail(f"trained again: {status}"))
    assert seen == [f"epoch {epoch} of {config.epochs}" for epoch in range(config.epochs + 1)]
    assert_same_run(tmp_path / "run", finished(config))


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_every_file(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Killed before or after the n-th file is renamed, for every n; then resumed to the end."""
    config = replace(TINY, margin=True)
    replace_file = whole_files.os.replace
    count = [0]

    def counted(source: Any, target: Any) -> None:
        count[0] -= 1
        if when == "before" and count[0] == 0:
            raise Killed
        replace_file(source, target)
        if count[0] == 0:
            raise Killed

    monkeypatch.setattr(whole_files.os, "replace", counted)
    reference = finished(config)
    for n in range(1, 100):
        run, count[0] = tmp_path / f"run{n}", n
        try:
            train(config, run)
        except Killed:
            count[0] = 0
            train(config, run, resume=True)
            assert_same_run(run, reference)
        else:
            break
    assert n == 2 + 3 * 4 + 3 + 1 + 1, "config and env, every epoch, the tables, the result"


def test_asides_of_a_kill_are_swept(finished: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(TINY, run, show=kill)
    (run / ".layers.csv.4711.aside").write_text("half a tab")
    train(TINY, run, resume=True)
    assert_same_run(run, finished(TINY))


def kill(status: str, *_: int) -> None:
    raise Killed


def test_resuming_a_finished_run_changes_nothing(finished: Any, tmp_path: Path) -> None:
    train(TINY, tmp_path / "run")
    train(TINY, tmp_path / "run", resume=True, show=lambda status, *_: pytest.fail("trained again"))
    assert_same_run(tmp_path / "run", finished(TINY))


def test_a_run_goes_on_to_more_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What comes of it is the run of so many epochs, also with a warm-up and after a kill on the way."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = [*OPTIONS[:-1], "--warmup-epochs", "0.5", "--threads", "1", "--device", "cpu"]
    assert main(["train", *options, "--epochs", "1", "--out", str(run)]) == 0
    longer = from_dict(TrainConfig, {**read_options(run), "epochs": 3})
    with pytest.raises(Killed):
        train(longer, run, resume=True, show=lambda status, epoch, epochs: kill(status) if epoch == 2 else None)
    with pytest.raises(ValueError, match="did not finish"):
        load_trained(run)
    assert main(["train", "--resume", "--out", str(run)]) == 0  # the folder knows how many
    assert main(["train", *options, "--epochs", "3", "--out", str(whole)]) == 0
    assert_same_run(run, whole)
    assert load_trained(run).config.epochs == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 1}, r"with epochs 2, not 1; .* \(only epochs may grow\)"),
        ({"epochs": 3, "seed": 1}, r"with seed 0, not 1; .* \(only epochs may grow\)"),
        ({"epochs": 3, "schedule": "cosine"}, "with epochs 2, not 3; .*the schedule cosine depends on their number"),
    ],
)
def test_what_a_run_cannot_go_on_with(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    first = replace(TINY, schedule=change.get("schedule", "constant"))
    train(first, tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match=said):
        train(replace(first, **change), tmp_path / "run", resume=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


@pytest.mark.slow
def test_what_train_trains_by_default_learns(tmp_path: Path) -> None:
    """Its 50 layers of 10 were at 20 % after as many epochs."""
    assert train(TrainConfig(epochs=20, device="cpu"), tmp_path / "run")["test_accuracy"] > 0.6


def read_options(run: Path) -> dict[str, Any]:
    content = json.loads((run / "config.json").read_text())
    return {name: value for name, value in content.items() if name not in ("command", "version", "schema")}


# --- folders that hold a run ------------------------------------------------------------------------


def test_a_run_is_not_overwritten_by_accident(finished: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(TINY, run)
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    with pytest.raises(ValueError, match=r"holds a run already; pass --resume to go on with it, --overwrite"):
        train(TINY, run)
    other = replace(TINY, depth=3)
    with pytest.raises(ValueError, match=r"holds a run with depth 2, not 3; leave that option out"):
        train(other, run, resume=True)
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before
    train(replace(other, margin=True), run, overwrite=True)
    train(other, run, overwrite=True)
    assert not (run / "margins.csv").exists(), "files of the run before are gone"
    assert result_of(run)["architecture"]["blocks"] == [3]


def test_killed_while_overwriting(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is half deleted is never taken for a run to go on with."""
    other = replace(TINY, seed=9)
    unlink, left = Path.unlink, [0]

    def counted(self: Path, missing_ok: bool = False) -> None:
        if not self.name.endswith(".aside"):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        unlink(self, missing_ok)

    for n in range(1, 9):
        run = tmp_path / f"run{n}"
        train(replace(other, epochs=1), run)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", counted)
            left[0] = n
            with pytest.raises(Killed):
                train(TINY, run, overwrite=True)
        with pytest.raises(ValueError, match="holds a run with"):
            train(TINY, run, resume=True)
        train(TINY, run, overwrite=True)
        assert_same_run(run, finished(TINY))


def test_machine_options_may_change(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(TINY, tmp_path / "run", show=kill)
    train(replace(TINY, device="auto", threads=1), tmp_path / "run", resume=True)
    assert result_of(tmp_path / "run")["status"] == "trained"


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "history.jsonl", "layers.csv"])
def test_damaged_files_are_not_gone_on_with(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(TINY, run, show=kill)
    file = run / name
    for content in (file.read_bytes()[: len(file.read_bytes()) // 2], b"\xff\xfe"):
        file.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"{name}.*(damaged|cannot be read|lines and its checkpoint)|not fit"
        ) as said:
            train(TINY, run, resume=True)
        assert re.search(
            "; (bring .* or train again; nothing was loaded|bring .*start again with --overwrite)$", str(said.value)
        )
        assert file.read_bytes() == content


def test_a_run_whose_checkpoint_is_gone_does_not_begin_anew(tmp_path: Path) -> None:
    """It did, without a word; one line of the history is there before the first checkpoint."""
    run = tmp_path / "run"
    train(TINY, run)
    (run / "checkpoint.safetensors").unlink()
    there = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(
        ValueError, match=r"checkpoint.safetensors is gone, .*; bring it back, or start again with --ov"
    ):
        train(TINY, run, resume=True)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == there
    history = (run / "history.jsonl").read_text().splitlines(keepends=True)
    (run / "history.jsonl").write_text(history[0])
    train(TINY, run, resume=True)
    assert len((run / "history.jsonl").read_text().splitlines()) == len(history) > 1


def test_checkpoints_of_other_networks_are_refused(tmp_path: Path) -> None:
    for name, config in (("run", TINY), ("other", replace(TINY, width=9))):
        with pytest.raises(Killed):
            train(config, tmp_path / name, show=kill)
    file = tmp_path / "run" / "checkpoint.safetensors"
    file.write_bytes((tmp_path / "other" / "checkpoint.safetensors").read_bytes())
    with pytest.raises(ValueError, match="the checkpoint is that of another network"):
        train(TINY, tmp_path / "run", resume=True)
    file.rename(tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match=r"holds 'checkpoint.safetensors' and no config.json"):
        train(TINY, tmp_path, resume=True)


# --- divergence -------------------------------------------------------------------------------------


def diverge_in_epoch_two(monkeypatch: pytest.MonkeyPatch) -> None:
    train_epoch = Training.train_epoch

    def diverging(self: Training) -> float:
        loss = train_epoch(self)
        if self.epoch < 2:
            return loss
        with torch.no_grad():
            for weights in self.model.parameters():
                weights.fill_(math.nan)
        return math.nan

    monkeypatch.setattr(Training, "train_epoch", diverging)


def test_diverged_runs_keep_the_last_good_weights(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge_in_epoch_two(monkeypatch)
    result = train(replace(FNN, margin=True), tmp_path / "run")
    assert result["status"] == "diverged"
    assert result["reason"].startswith("the loss of epoch 2 is nan; lower --learning-rate")
    lines = history_of(tmp_path / "run")
    assert [line["train_loss"] is None for line in lines] == [True, False, True]
    assert all(line.pop("least_margin_bits") > 0 for line in lines[:2])
    assert timeless(lines[:2]) == timeless(history_of(finished(FNN))[:2])
    assert lines[2]["num_conflicting_layers"] is None, "a diverged network never looks healthy"
    content = load_checkpoint(tmp_path / "run" / "checkpoint.safetensors")["measured"]["training"]
    assert content["epoch"] == 1
    assert all(weights.isfinite().all() for weights in content["model"].values())
    again = train(replace(FNN, margin=True), tmp_path / "run", resume=True)
    assert timeless(again) == timeless(result)


def test_diverged_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_report: None) -> None:
    arguments = ["train", *OPTIONS, "--learning-rate=1e6", "--optimizer=sgd", "--out", str(tmp_path / "run")]
    assert main([*arguments, "--json"]) == 1
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result == result_of(tmp_path / "run")
    assert (result["status"], result["epochs"]) == ("diverged", 1)
    errors = [line for line in said.err.splitlines() if line.startswith("cbkernels: error")]
    assert len(errors) == 1
    assert errors[0].startswith("cbkernels: error: the training diverged: the loss of epoch 1 is ")
    assert main([*arguments, "--overwrite"]) == 1
    assert "diverged" in capsys.readouterr().out


@pytest.fixture
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the seconds that pictures take; reports have tests of their own."""
    monkeypatch.setattr(training_command, "write_report", lambda folders, out: None)


# --- what is measured -------------------------------------------------------------------------------


def test_what_if_adds_rows_and_decides_nothing(finished: Any, tmp_path: Path) -> None:
    train(replace(FNN, what_if=("bfloat16", "float16")), tmp_path / "run")
    rows, plain = table_of(tmp_path / "run" / "layers.csv"), table_of(finished(FNN) / "layers.csv")
    assert [row for row in rows if row["grid"].startswith("float32 ")] == plain
    for dtype in ("bfloat16", "float16"):
        of_type = [row for row in rows if row["grid"].startswith(f"{dtype} lr=0.01 ")]
        assert [(row["epoch"], row["layer"]) for row in of_type] == [(row["epoch"], row["layer"]) for row in plain]
    coarse = [row for row in rows if row["grid"].startswith("bfloat16 ")]
    assert sum(int(row["num_bundles"]) for row in coarse) < sum(int(row["num_bundles"]) for row in plain)
    mine, theirs = result_of(tmp_path / "run"), result_of(finished(FNN))
    assert timeless(mine) == timeless(theirs)


def test_margins(tmp_path: Path) -> None:
    train(replace(TINY, margin=True), tmp_path / "run")
    rows = table_of(tmp_path / "run" / "margins.csv")
    assert list(rows[0]) == ["run", "round", "epoch", "layer", "margin", "bits", "grid"]
    keys = [{k: row[k] for k in ("run", "round", "epoch", "layer", "grid")} for row in rows]
    layers = table_of(tmp_path / "run" / "layers.csv")
    assert keys == [{k: row[k] for k in ("run", "round", "epoch", "layer", "grid")} for row in layers]
    assert all(float(row["margin"]) >= 0 for row in rows)
    for row, layer in zip(rows, layers, strict=True):
        if int(layer["num_conflicting"]):
            assert float(row["bits"]) < 0 or float(row["margin"]) == 0


def test_branches_of_residual_blocks_are_measured(finished: Any) -> None:
    rows = table_of(finished(RESNET) / "layers.csv")
    assert {row["layer"] for row in rows} == {"stages.0.0.branch", "stages.1.0.branch"}
    assert len(table_of(finished(RESNET) / "margins.csv")) == len(rows) == 2 * 3
    assert {row["layer"] for row in table_of(finished(VGG) / "layers.csv")} == {"stages.0.0", "stages.1.0"}


def test_a_network_without_blocks_is_trained(tmp_path: Path) -> None:
    result = train(replace(VGG, blocks=(0, 0, 0, 0)), tmp_path / "run")
    assert (result["status"], result["entropy_mean"], result["num_conflicting_layers"]) == ("trained", {}, None)


def test_held_back_samples(finished: Any) -> None:
    run = load_trained(finished(RESNET))
    assert len(run.train_indices) + len(run.validation_indices) == 64
    assert not set(run.train_indices) & set(run.validation_indices)
    labels = run.data.train_labels
    for label in range(10):
        members, held_back = (labels == label).sum(), (labels[run.validation_indices] == label).sum()
        assert held_back == round(0.2 * members)
    assert set(run.samples.probe_indices.tolist()) <= set(run.train_indices)
    last = history_of(finished(RESNET))[-1]
    held_back = run.validation_indices
    images, labels = run.data.train_images[held_back], labels[held_back]
    assert accuracy_of(run.model, images, labels, run.preparation) == last["validation_accuracy"]


# --- how it is trained ------------------------------------------------------------------------------


def test_tensorboard_files(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard: NOT TESTED HERE (missing)"
    )
    train(replace(TINY, tensorboard=True), tmp_path / "run")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    assert {"train/round 0/train_loss", "train/round 0/test_accuracy"} <= set(tags)
    seen = [(e.step, e.value) for e in events.Scalars("train/round 0/test_accuracy")]
    expected = [(line["epoch"], line["test_accuracy"]) for line in history_of(tmp_path / "run")]
    assert seen == [(epoch, pytest.approx(value)) for epoch, value in expected]


def test_amp_trains_in_bfloat16_and_keeps_float32_weights(finished: Any, tmp_path: Path) -> None:
    train(replace(FNN, amp=True), tmp_path / "run")
    losses = [[line["train_loss"] for line in history_of(f)][1:] for f in (tmp_path / "run", finished(FNN))]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert {weights.dtype for weights in weights_of(tmp_path / "run").values()} == {torch.float32}


def test_compiled_training_is_the_same(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the backend that only traces, so that results are equal and nothing has to be compiled."""
    compiled = []

    def traced(module: Any) -> Any:
        compiled.append(module)
        return compile_(module, backend="eager")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    train(replace(FNN, compile=True), tmp_path / "run")
    assert len(compiled) == 1
    assert timeless(history_of(tmp_path / "run")) == timeless(history_of(finished(FNN)))
    assert list(weights_of(tmp_path / "run")) == list(weights_of(finished(FNN)))


def training_of(config: TrainConfig, count: int) -> tuple[Training, list[Any]]:
    """A training of one convolution on images in three colours; and a list that gets every batch it is given."""
    images = torch.arange(count * 48.0).reshape(count, 3, 4, 4) / (count * 48)
    samples = divided((images, torch.arange(count) % 2), None, AsGiven(), config, torch.device("cpu"))
    layers = torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    training = Training(torch.nn.Sequential(*layers), config, samples)
    seen: list[Any] = []
    training.model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    return training, seen


@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_last(channels_last: bool) -> None:
    training, seen = training_of(replace(FNN, channels_last=channels_last, batch_size=8), 24)
    training.train_epoch()
    assert len(seen) == 3
    for each in (*seen, training.model[0].weight, training.model[0].weight.grad):
        assert each.is_contiguous(memory_format=torch.channels_last) is channels_last


def test_epochs_have_orders_of_their_own_and_drop_the_last_partial_batch() -> None:
    epochs = []
    for seed in (0, 0, 1):
        training, seen = training_of(replace(FNN, batch_size=8, seed=seed), 30)
        training.train_epoch()
        training.train_epoch()
        assert [len(batch) for batch in seen] == [8] * 6
        epochs += [[float(x) for batch in seen[first : first + 3] for x in batch[:, 0, 0, 0]] for first in (0, 3)]
    assert all(len(set(epoch)) == 24 for epoch in epochs), "no sample twice"
    assert (epochs[0], epochs[1]) == (epochs[2], epochs[3])
    assert len({tuple(epoch) for epoch in epochs}) == 4, "another order in every epoch, and with every seed"


# --- the command line -------------------------------------------------------------------------------


def test_json_is_all_that_stdout_gets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *OPTIONS, "--out", str(tmp_path / "run"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == result_of(tmp_path / "run")
    assert [line.split(",")[0] for line in said.err.splitlines()][:3:2] == ["epoch 0 of 1", "epoch 1 of 1"]
    assert (tmp_path / "run" / "report.html").stat().st_size > 1000


def test_text_says_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], quick_report: None) -> None:
    assert main(["train", *OPTIONS, "--out", str(tmp_path / "run")]) == 0
    out, result = capsys.readouterr().out, result_of(tmp_path / "run")
    reached = f"{100 * result['test_accuracy']:.1f} % (chance"
    for words in ("fnn, 4 layers of 6", "trained: its only epoch was trained", reached, "Files: "):
        assert words in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dataset", "no_such_set"], "no_such_set"),
        (["--dataset", "/no/such/folder"], "/no/such/folder"),
        (["--dataset", "mnist", "--data-dir", "/no/such/folder"], "/no/such/folder"),
        (["--epochs", "0"], "--epochs is 0; it must be at least 1"),
        (["--learning-rate", "nan"], "--learning-rate is nan; it must be finite"),
        (["--validation-share", "1"], "--validation-share is 1.0; it must be at least 0 and below 1"),
        (["--batch-size", "5000"], "training samples do not fill one batch of 5000; lower --batch-size"),
        (["--device", "gpu"], "--device is 'gpu'; name one such as"),
        (["--model", "vgg", "--blocks", "1", "2"], "--blocks is [1, 2]; vgg has 4 stages"),
        (["--config", "/no/such/file"], "/no/such/file: No such file"),
        (["--optimizer", "adam"], "invalid choice: 'adam'"),
        (["--depth", "ten"], "invalid int value: 'ten'"),
        (["--resume", "--overwrite"], "not allowed with argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_one_sentence_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], said: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    try:
        code = main(["train", *options, "--out", str(tmp_path / "run")])
    except SystemExit as end:
        code = end.code  # type: ignore[assignment]
    assert code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cbkernels: error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("mine")
    assert main(["train", *OPTIONS, "--out", str(tmp_path / "run")]) == 1
    assert capsys.readouterr().err == f"cbkernels: error: {tmp_path / 'run'}: File exists\n"
    assert (tmp_path / "run").read_text() == "mine"


# --- a run, read again ------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [FNN, RESNET, VGG], ids=["fnn", "resnet", "vgg"])
def test_trained_networks_are_loaded(finished: Any, config: TrainConfig) -> None:
    run = load_trained(finished(config))
    assert run.config == config
    assert run.architecture == config.architecture
    assert run.result == result_of(finished(config))
    assert not run.model.training
    assert (run.learning_rate, run.batch_size, run.device) == (
        config.learning_rate,
        config.batch_size,
        torch.device("cpu"),
    )
    images, labels = run.data.test_images, run.data.test_labels
    assert accuracy_of(run.model, images, labels, run.preparation) == run.result["test_accuracy"]
    assert math.isnan(accuracy_of(run.model, images[:0], labels[:0], run.preparation))


def test_unfinished_foreign_and_damaged_runs_are_not_loaded(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a folder; name one that cbkernels train or cbkernels auto"):
        load_trained(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"config.json does not exist"):
        load_trained(tmp_path)
    run = tmp_path / "run"
    with pytest.raises(Killed):
        train(TINY, run, show=kill)
    with pytest.raises(ValueError, match="holds a run that did not finish; finish it with --resume"):
        load_trained(run)
    train(TINY, run, resume=True)
    good = (run / "config.json").read_text()
    for content, said in (
        (good.replace('"train"', '"remove"'), "holds a run of 'remove'"),
        (good.replace('"width": 6', '"width": 7'), "is not that of this run"),
        (good.replace('"seed": 0', '"seed": -1'), "seed is -1"),
        ("{", "holds no JSON"),
        (good.replace('"command"', '"architecture": {}, "command"'), "holds a network of your own"),
    ):
        (run / "config.json").write_text(content)
        with pytest.raises(ValueError, match=said):
            load_trained(run)
    (run / "config.json").write_text(good)
    load_trained(run)
    result = (run / "result.json").read_text()
    (run / "result.json").write_text(result.replace('"trained"', '"exhausted"'))
    with pytest.raises(ValueError, match="ended as 'exhausted', without a trained network"):
        load_trained(run)
    (run / "result.json").write_text(result[:50])
    with pytest.raises(ValueError, match=r"cannot be used: result\.json is left out: it is damaged: it holds no JSON"):
        load_trained(run)
    (run / "result.json").write_text(result)
    save_checkpoint(run / "checkpoint.safetensors", {"architecture": TINY.architecture.to_dict()})
    with pytest.raises(ValueError, match="is not that of this run"):
        load_trained(run)
    (run / "checkpoint.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_trained(run)


def test_fit_trains_on_with_the_recipe_of_a_run(finished: Any) -> None:
    state = torch.get_rng_state()
    runs = [load_trained(finished(FNN)) for _ in range(3)]
    shown: list[Any] = []
    lines = [fit(runs[0].model, runs[0], epochs=2, seed=5, on_epoch=shown.append)]
    lines += [fit(run.model, run, epochs=2, seed=seed) for run, seed in zip(runs[1:], (5, 6), strict=True)]
    assert shown == lines[0]
    assert [(line["run"], line["epoch"]) for line in lines[0]] == [("finetune", epoch) for epoch in range(3)]
    assert timeless(lines[0]) == timeless(lines[1])
    assert timeless(lines[0]) != timeless(lines[2])
    assert lines[0][0]["test_accuracy"] == runs[0].result["test_accuracy"]
    assert not runs[0].model.training
    assert state.equal(torch.get_rng_state())


def test_measured_training_counts_epochs(finished: Any) -> None:
    run = load_trained(finished(FNN))
    measured = MeasuredTraining("train", 0, Training(run.model, run.config, run.samples), [])
    assert measured.epoch == -1
    assert not measured.has_diverged


def test_the_accuracy_on_samples_held_back_is_in_the_table_and_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *OPTIONS, "--validation-share=0.2", "--out", str(tmp_path / "held")]) == 0
    result = json.loads((tmp_path / "held" / "result.json").read_text())
    last = json.loads((tmp_path / "held" / "history.jsonl").read_text().splitlines()[-1])
    assert result["validation_accuracy"] == last["validation_accuracy"]
    printed = capsys.readouterr().out
    assert re.search(rf"^validation accuracy +{percent(result['validation_accuracy'])}$", printed, re.MULTILINE)
    assert "its only epoch was trained" in printed
    assert main(["train", *OPTIONS, "--out", str(tmp_path / "none")]) == 0
    assert "validation" not in capsys.readouterr().out
