"""``cbkernels demo``: auto-tune with small settings. Its parts: ``training/procedures/test_autotune.py``."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the demo: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="the demo: NOT TESTED HERE (no safetensors)")

from cbkernels.command_line import main  # noqa: E402
from cbkernels.commands import demo  # noqa: E402

EPOCHS = 3
DRAWS = all(importlib.util.find_spec(name) is not None for name in ("matplotlib", "jinja2"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder and the output of ``cbkernels demo --model fnn --epochs 3``, run once."""
    out = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    command = [sys.executable, "-m", "cbkernels", "demo", "--model", "fnn", "--out", str(out)]
    command += ["--epochs", str(EPOCHS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return out, done


def test_writes_a_run_of_autotune(run: Any) -> None:
    out, _ = run
    files = {"config.json", "env.json", "history.jsonl", "layers.csv", "checkpoint.safetensors", "result.json"}
    files |= {"report.html", "report_files"} if DRAWS else set()
    assert {path.name for path in out.iterdir()} == files
    assert json.loads((out / "config.json").read_text())["command"] == "autotune"


def test_shortens_the_deep_network(run: Any) -> None:
    out, _ = run
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "trained"
    assert result["before"]["architecture"]["blocks"] == [50]
    assert abs(result["before"]["test_accuracy"] - result["chance_accuracy"]) < 0.03
    assert result["after"]["architecture"]["blocks"][0] < 50
    assert len(result["rounds"]) >= 2
    assert all(each["reason"] for each in result["rounds"])
    assert [bool(each["removed"]) for each in result["rounds"]] == [True] * (len(result["rounds"]) - 1) + [False]


def test_prints_the_command_the_rounds_and_the_networks(run: Any) -> None:
    out, done = run
    assert done.stderr.splitlines()[0] == (
        f"cbkernels autotune --model fnn --depth 50 --width 10 --batch-size 16 --learning-rate 0.005 --epochs {EPOCHS} "
        f"--policy all --seed 0 --out {out}"
    )
    for words in ("round", "fnn, 50 layers of 10", "before", "after", "test accuracy", "Measuring took", "trained:"):
        assert words in done.stdout
    assert ("Report: none" not in done.stdout) == DRAWS


@pytest.mark.slow
def test_the_printed_command_is_the_same_run(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, done = run
    command = done.stderr.splitlines()[0].split()[1:]
    command[-1] = str(tmp_path / "again")
    assert main(command) == 0
    for name in ("config.json", "layers.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.slow
def test_the_convolutional_network_of_120_layers_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Any processor: seeds 0 to 4 with three kinds of torch's kernels reach what docs/experiments.md says, or more."""
    assert main(["demo", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["status"], result["before"]["architecture"]["blocks"]) == ("trained", [3, 12, 41, 3])
    assert (result["before"]["epochs"], result["after"]["epochs"]) == (15, 15)
    assert result["before"]["test_accuracy"] < result["chance_accuracy"] + 0.1
    assert result["after"]["test_accuracy"] >= 0.88
    assert sum(result["after"]["architecture"]["blocks"]) < 20


@pytest.mark.parametrize("model", demo.PRESETS)
def test_replaces_an_older_run_and_prints_json(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(demo.PRESETS["fnn"], "depth", 3)
    monkeypatch.setitem(demo.PRESETS["vgg"], "blocks", (1, 0, 0, 0))
    arguments = [] if model == "vgg" else ["--model", model]
    for seed in (1, 2):
        assert main(["demo", "--out", str(tmp_path), "--epochs", "1", "--seed", str(seed), "--json", *arguments]) == 0
        said = capsys.readouterr()
        result = json.loads(said.out)
        assert (result["seed"], result["policy"]) == (seed, demo.PRESETS[model]["policy"])
        assert result["before"]["architecture"]["model"] == model
        assert f"cbkernels autotune --model {model} --" in said.err.splitlines()[0]


@pytest.mark.parametrize("wrong", [["--epochs", "0"], ["--seed", "-1"]], ids=" ".join)
def test_bad_settings_are_one_sentence(wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "new"), *wrong]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("cbkernels: error: ")
    assert wrong[1] in error
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err.splitlines()[-1]


def test_without_torch_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    assert main(["demo"]) == 1
    assert "pip install torch" in capsys.readouterr().err
