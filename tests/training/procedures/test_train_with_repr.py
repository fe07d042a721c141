"""RePr in the trainer and on the command line: events, kills, cycles, the comparison. See ``filters/test_repr.py``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="RePr in the trainer: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="RePr in the trainer: NOT TESTED HERE (no safetensors)")

from cbkernels.command_line import main  # noqa: E402
from cbkernels.training import AutotuneConfig, TrainConfig, autotune_configured, load_trained, train  # noqa: E402
from cbkernels.training.loop.repr_cycles import cycles_of  # noqa: E402
from cbkernels.training.procedures.compare_repr import compare, verdict  # noqa: E402

SMALL: dict[str, Any] = {
    "model": "cnn", "depth": 2, "width": 8, "epochs": 8, "train_size": 200, "test_size": 100, "threads": 1,
    "probe_size": 64, "learning_rate": 0.01,
}  # fmt: skip
CYCLES: dict[str, Any] = {"repr_full_epochs": 2, "repr_reduced_epochs": 1, "repr_cycles": 2}
CONFIG = TrainConfig(**SMALL, **CYCLES, repr=True, what_if=("bfloat16",), margin=True)


class Killed(BaseException):
    """As if the process were gone."""


def history(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds")} for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("repr") / "run"
    return run, train(CONFIG, run)


def test_the_history_tells_what_was_dropped_when(finished: Any) -> None:
    run, _ = finished
    lines = history(run)
    events = [line["repr_event"] for line in lines]
    assert events == [None, None, None, "dropped", "restored", None, "dropped", "restored", None]
    # 30 % of 16 filters
    assert [line["dropped_filters"] for line in lines] == [0, 0, 0, 5, 0, 0, 5, 0, 0]
    assert all(0 <= line["orthogonality"] < 1 for line in lines)


def test_the_result_has_the_cycles(finished: Any) -> None:
    run, result = finished
    lines = {line["epoch"]: line for line in history(run)}
    assert [cycle["cycle"] for cycle in result["repr"]] == [0, 1]
    epochs = [[cycle[when]["epoch"] for when in ("before", "reduced", "after")] for cycle in result["repr"]]
    assert epochs == [[2, 3, 5], [5, 6, 8]]
    for cycle in result["repr"]:
        assert cycle["dropped_filters"] == 5
        for when in ("before", "reduced", "after"):
            told = cycle[when]
            line = lines[told["epoch"]]
            for name in ("test_accuracy", "mean_entropy", "mean_entropy_bfloat16", "num_conflicting_layers",
                         "least_margin_bits", "orthogonality"):  # fmt: skip
                assert told[name] == line[name]


@pytest.mark.parametrize("epoch", [2, 3, 4, 6])
def test_killed_and_resumed_in_a_cycle(finished: Any, tmp_path: Path, epoch: int) -> None:
    run, result = finished

    def killed(status: str, at: int, epochs: int) -> None:
        if at == epoch:
            raise Killed

    with pytest.raises(Killed):
        train(CONFIG, tmp_path, show=killed)
    again = train(CONFIG, tmp_path, resume=True)
    assert history(tmp_path) == history(run)
    assert again["repr"] == result["repr"]
    assert (tmp_path / "layers.csv").read_bytes() == (run / "layers.csv").read_bytes()
    weights = [load_trained(folder).model.state_dict() for folder in (run, tmp_path)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_criteria_that_look_at_samples_get_the_held_back_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cbkernels.training.loop import epochs

    seen = []
    data = epochs.Training._ranking_data

    def watched(self: Any) -> Any:
        batches = list(data(self))
        seen.append(sum(len(labels) for _, labels in batches))
        return batches

    monkeypatch.setattr(epochs.Training, "_ranking_data", watched)
    for share, size in ((0.2, 40), (0.0, 64)):
        config = TrainConfig(**SMALL, **CYCLES, repr=True, repr_criterion="taylor", validation_share=share)
        train(config, tmp_path / str(share))
        assert seen.pop() == size


def test_cycles_of_a_history_that_is_not_finished() -> None:
    config = TrainConfig(**{**SMALL, "epochs": 30}, **CYCLES, repr=True)
    lines = [{"epoch": epoch, "dropped_filters": epoch, "mean_entropy": 0.1 * epoch} for epoch in range(5)]
    (only,) = cycles_of(lines, config)
    assert (only["before"]["epoch"], only["reduced"]["epoch"], only["after"]["epoch"]) == (2, 3, 4)
    assert only["dropped_filters"] == 3
    assert only["after"]["mean_entropy"] == pytest.approx(0.4)
    assert cycles_of(lines[:3], config) == []


def test_standard_training_records_the_overlap_too(tmp_path: Path) -> None:
    result = train(TrainConfig(**{**SMALL, "epochs": 1}), tmp_path)
    assert "repr" not in result
    assert all(line["orthogonality"] > 0 and "repr_event" not in line for line in history(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--repr-share", "0"], "--repr-share is 0.0"),
        (["--repr-share", "1"], "--repr-share is 1.0"),
        (["--repr-share", "100"], "--repr-share is 100.0"),
        (["--epochs", "6"], "6 epochs"),
        (["--model", "fnn", "--epochs", "9"], "convolution"),
        (["--repr-criterion", "beauty"], "'beauty'"),
    ],
)
def test_bad_options_are_one_sentence(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["--model", "cnn", "--depth", "2", "--width", "8", "--epochs", "8", "--repr", "--repr-full-epochs", "2"]
    usual += ["--repr-reduced-epochs", "1", "--repr-cycles", "2", "--train-size", "200", "--out", str(tmp_path / "run")]
    assert main(["train", *usual, *options]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert words in error
    assert not (tmp_path / "run").exists()


def test_a_layer_that_would_lose_all_its_filters_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "cnn", "--depth", "2", "--width", "8", "--epochs", "8", "--train-size", "100", "--repr"]
    options += ["--repr-full-epochs", "1", "--repr-share", "0.95", "--repr-cycles", "1", "--repr-reduced-epochs", "1"]
    assert main(["train", *options, "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cbkernels: error: ")
    assert "hidden." in error or "0.95" in error


def test_auto_tune_refuses_repr(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="repr is True"):
        autotune_configured(AutotuneConfig(repr=True, depth=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- the comparison


COMPARED = TrainConfig(**{**SMALL, "epochs": 7, "train_size": 100}, **CYCLES)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("compare")
    return out, compare(COMPARED, out, criteria=["standard", "random", "orthogonality"], seeds=2)


def test_compares_with_the_same_seeds_and_epochs(compared: Any) -> None:
    out, content = compared
    assert json.loads((out / "comparison.json").read_text()) == content
    assert [row["criterion"] for row in content["rows"]] == ["standard", "random", "orthogonality"]
    reached = {}
    for row in content["rows"]:
        results = [json.loads((out / f"{row['criterion']}-seed{s}" / "result.json").read_text()) for s in (0, 1)]
        assert [result["epochs"] for result in results] == [7, 7]
        assert row["test_accuracies"] == [result["test_accuracy"] for result in results]
        a, b = reached[row["criterion"]] = row["test_accuracies"]
        assert row["mean"] == pytest.approx((a + b) / 2)
        assert row["std"] == pytest.approx(abs(a - b) / 2**0.5)
    d, e = (a - b for a, b in zip(reached["random"], reached["standard"], strict=True))
    assert content["rows"][1]["difference"] == pytest.approx((d + e) / 2)
    assert content["rows"][1]["difference_std"] == pytest.approx(abs(d - e) / 2**0.5)
    assert len(content["cycles"]["random"]) == 2
    assert len(content["cycles"]["random"][0]) == 2


def test_what_is_there_is_not_trained_again(compared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out, content = compared

    def trained(self: Any) -> float:
        raise AssertionError("trained again")

    monkeypatch.setattr("cbkernels.training.loop.epochs.Training.train_epoch", trained)
    assert compare(COMPARED, out, criteria=["standard", "random", "orthogonality"], seeds=2) == content


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.02, 0.03, 0.025], "better than standard training with each of the 3 seeds, by 2.5 points on average"),
        ([-0.02, -0.03, -0.025], "worse than standard training with each of the 3 seeds, by 2.5 points on average"),
        (
            [0.02, -0.03, 0.025],
            "within the spread: the difference to standard training is +0.5 points on average, and its standard "
            "deviation over the 3 seeds is 3.0 points",
        ),
        (
            [0.01, 0.0, 0.01],
            "within the spread: the difference to standard training is +0.7 points on average, but its sign is not the "
            "same with all 3 seeds",
        ),
        ([0.0, 0.0, 0.0], "within the spread"),
    ],
)
def test_verdicts(differences: list[float], words: str) -> None:
    assert words in verdict(differences)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": 1}, "seeds is 1"),
        ({"criteria": ["random"]}, "'standard'"),
        ({"criteria": ["standard"]}, "at least one criterion"),
    ],
)
def test_refuses_comparisons(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        compare(COMPARED, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 6}, "6 epochs"),
        ({"model": "fnn"}, "convolution"),
        ({"criteria": ["standard", "random", "beauty"]}, "'beauty'"),
    ],
)
def test_what_repr_refuses_is_refused_before_any_training(
    options: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(self: Any) -> float:
        raise AssertionError("trained first")

    monkeypatch.setattr("cbkernels.training.loop.epochs.Training.train_epoch", trained)
    criteria = options.pop("criteria", ["standard", "random"])
    with pytest.raises((ValueError, TypeError), match=words):
        compare(replace(COMPARED, **options), tmp_path / "new", criteria=criteria)


@pytest.mark.slow
def test_the_command_prints_table_verdicts_and_cycles(compared: Any, capsys: pytest.CaptureFixture[str]) -> None:
    out, content = compared
    options = [
        "--depth", "2", "--width", "8", "--epochs", "7", "--train-size", "100", "--test-size", "100", "--threads", "1",
        "--probe-size", "64", "--learning-rate", "0.01", "--repr-full-epochs", "2", "--repr-reduced-epochs", "1",
        "--repr-cycles", "2", "--seeds", "2", "--criteria", "standard", "random", "orthogonality", "--out", str(out),
    ]  # fmt: skip
    assert main(["repr", "compare", *options]) == 0
    printed = capsys.readouterr().out
    for row in content["rows"][1:]:
        assert row["verdict"] in " ".join(printed.split())
    assert "Does RePr remove conflicts?" in printed
    assert "random, cycle 1" in printed
    if "Picture: none" not in printed:
        assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert main(["repr", "compare", *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == content


def test_the_command_decides_repr_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repr", "compare", "--repr", "--out", str(tmp_path)]) == 1
    assert "--repr is decided by --criteria" in capsys.readouterr().err


def test_a_preset_reaches_the_runs_of_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def trained(config: TrainConfig, out: Path, **more: Any) -> dict[str, Any]:
        asked.append(config)
        return {"status": "trained", "test_accuracy": 0.5, "repr": []}

    monkeypatch.setattr("cbkernels.training.procedures.compare_repr.train", trained)
    monkeypatch.setattr("cbkernels.commands.repr._draw", lambda *given: None)
    monkeypatch.setattr("cbkernels.commands.repr.tell", lambda *given: None)
    options = ["--repr-preset", "published", "--repr-cycles", "2", "--epochs", "90", "--seeds", "2"]
    assert main(["repr", "compare", *options, "--out", str(tmp_path)]) == 0
    kinds = [(config.repr, config.repr_criterion) for config in asked[:4]]
    published = "orthogonality_published"
    assert kinds == [(True, "random"), (True, "weight_norm"), (True, published), (False, published)]
    schedules = {(c.repr_full_epochs, c.repr_reduced_epochs, c.repr_share, c.repr_cycles) for c in asked}
    assert schedules == {(20, 20, 0.5, 2)}
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert stored["config"]["repr_reduced_epochs"] == 20
    assert [row["criterion"] for row in stored["rows"]] == ["standard", "random", "weight_norm", published]


def test_the_config_of_a_run_names_what_a_preset_set(tmp_path: Path) -> None:
    options = ["--model", "cnn", "--depth", "2", "--width", "8", "--epochs", "3", "--train-size", "100"]
    options += ["--threads", "1", "--probe-size", "64", "--repr", "--repr-preset", "published"]
    options += ["--repr-full-epochs", "1", "--repr-reduced-epochs", "1", "--repr-cycles", "1"]
    options += ["--repr-max-layer-share", "0.75"]
    assert main(["train", *options, "--out", str(tmp_path / "run")]) == 0
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (stored["repr_criterion"], stored["repr_share"]) == ("orthogonality_published", 0.5)
    assert "repr_preset" not in stored
    assert [line["dropped_filters"] for line in history(tmp_path / "run")] == [0, 0, 8, 0]


def test_a_preset_that_needs_more_epochs_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "cnn", "--depth", "2", "--width", "8", "--repr", "--repr-preset", "published"]
    assert main(["train", *options, "--train-size", "100", "--out", str(tmp_path / "run")]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "are 360 epochs, and the training has 120; one more at least has to follow" in error
    assert error.endswith("take more epochs, fewer cycles or shorter ones")


def test_the_report_shows_what_each_cycle_changed(finished: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the report: NOT TESTED HERE (no matplotlib)")
    pytest.importorskip("jinja2", reason="the report: NOT TESTED HERE (no jinja2)")
    from cbkernels.page.run_page import write_report

    run, result = finished
    page = write_report([run], tmp_path / "report.html").read_text()
    assert "Cycles of RePr" in page
    for cycle in result["repr"]:
        assert f"{cycle['cycle']}: without {cycle['dropped_filters']} filters" in page
        assert f"{100 * cycle['after']['test_accuracy']:.1f}" in page
    assert "as if in bfloat16" in page
