"""Folders that version 0.1.0 wrote are read, reported, loaded and gone on with, or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from cbkernels import LayerReport
from cbkernels.command_line import main
from cbkernels.runs.reader import read_run

from ..all_of import all_of

FOLDERS = Path(__file__).with_name("old_folders")
RUNS = {
    "train_fnn": "fnn, 3 layers of 3: reached 15.0 % test accuracy after 2 epochs (chance: 10.0 %); 2 layers conflict "
    "in the end, the first is hidden.1.",
    "train_unfinished": "Unfinished: epoch 1 of 2 is done, with 15.0 % test accuracy.",
    "train_resnet": "resnet, 2-0-0-0 blocks, 0.05 of the width: reached 12.5 % test accuracy after 3 epochs "
    "(chance: 10.0 %); no layer conflicts in the end.",
    "autotune": "Auto-tune went in 3 rounds from fnn, 8 layers of 4 to fnn, 4 layers of 4; test accuracy 10.0 % "
    "before, 10.0 % after (chance: 10.0 %).",
    "autotune_unfinished": "Unfinished: epoch 0 of 2 of round 1 is done, with 10.0 % test accuracy.",
    "remove": "1 of 2 residual blocks were removed; test accuracy 15.0 % before, 10.0 % without them, 10.0 % after "
    "1 epoch of fine-tuning.",
    "repr_compare/random-seed0": "cnn, 1 layers of 3: reached 10.0 % test accuracy after 3 epochs (chance: 10.0 %)",
}
"""What a report says came out of each."""


def content_of(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def copied(tmp_path: Path, name: str) -> Path:
    return Path(shutil.copytree(FOLDERS / name, tmp_path / name))


def need_torch() -> None:
    pytest.importorskip("torch", reason="old runs: NOT TESTED HERE (no torch)")
    pytest.importorskip("safetensors", reason="old runs: NOT TESTED HERE (no safetensors)")


def test_they_are_read_whole() -> None:
    with all_of("old runs") as case:
        for name in RUNS:
            with case(name):
                run = read_run(FOLDERS / name)
                assert run.notes == ()
                assert run.command == content_of(FOLDERS / name / "config.json")["command"]
                assert len(run.history) == len((FOLDERS / name / "history.jsonl").read_text().splitlines())
                assert (run.result is None) == name.endswith("unfinished")
                rows = (FOLDERS / name / "layers.csv").read_text().splitlines()[1:]
                rounds = len({row.split(",")[1] for row in rows})
                assert len(run.layers) == (2 if name == "train_resnet" else rounds)  # as if in bfloat16 too


@pytest.mark.slow
def test_they_are_reported(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="old reports: NOT TESTED HERE (no matplotlib)")
    pytest.importorskip("jinja2", reason="old reports: NOT TESTED HERE (no Jinja2)")
    from cbkernels.page.run_page import write_report

    with all_of("old reports") as case:
        for name, outcome in RUNS.items():
            with case(name):
                page = write_report([FOLDERS / name], tmp_path / name / "report.html").read_text()
                assert outcome in page
                assert (' class="notes"' in page) == name.endswith("unfinished")


def test_finished_ones_are_loaded() -> None:
    need_torch()
    from cbkernels.training import load_trained

    with all_of("old runs") as case:
        for name in ("train_fnn", "train_resnet", "autotune", "repr_compare/random-seed0"):
            with case(name):
                run = load_trained(FOLDERS / name, device="cpu")
                assert run.result == content_of(FOLDERS / name / "result.json")
    for name, said in (
        ("remove", "holds a run of 'remove'"),
        ("train_unfinished", "did not finish"),
        ("autotune_unfinished", "did not finish"),
        ("layer_report", "config.json does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            load_trained(FOLDERS / name, device="cpu")


@pytest.mark.parametrize("name", ["train_fnn", "train_unfinished", "autotune", "autotune_unfinished"])
def test_they_are_gone_on_with(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    need_torch()
    folder = copied(tmp_path, name)
    command = content_of(folder / "config.json")["command"]
    assert main([command, "--resume", "--out", str(folder), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["status"] == "trained"
    for file in ("history.jsonl", "layers.csv"):
        assert (folder / file).read_text().startswith((FOLDERS / name / file).read_text())
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines][-3:] == [0, 1, 2]
    assert len({line["round"] for line in lines}) == len(result.get("rounds", [1]))


def test_a_removal_is_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_torch()
    run, folder = copied(tmp_path, "train_resnet"), copied(tmp_path, "remove")
    command = ["remove", str(run), "--out", str(folder), "--resume", "--json"]
    assert main(command) == 1
    assert f"holds a run with run '/somewhere/train_resnet', not '{run}'" in capsys.readouterr().err
    config = folder / "config.json"
    config.write_text(config.read_text().replace("/somewhere/train_resnet", str(run)))
    assert main(command) == 0
    result, before = json.loads(capsys.readouterr().out), content_of(FOLDERS / "remove" / "result.json")
    for same in ("accuracy", "steps", "removed", "curves", "study", "guard", "reason"):
        assert result[same] == before[same]


@pytest.mark.slow
def test_a_comparison_trains_nothing_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_torch()
    folder = copied(tmp_path, "repr_compare")
    options = content_of(folder / "comparison.json")["config"]
    names = (
        "train_size", "test_size", "batch_size", "probe_size", "threads", "model", "depth", "width", "optimizer",
        "epochs", "repr_full_epochs", "repr_reduced_epochs", "repr_cycles", "repr_max_layer_share", "device",
    )  # fmt: skip
    given = [f"--{name.replace('_', '-')}={options[name]}" for name in names]
    command = ["repr", "compare", *given, "--criteria", "standard", "random", "--seeds", "2", "--out", str(folder)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["rows"]
    for row, old in zip(found, content_of(FOLDERS / "repr_compare/comparison.json")["rows"], strict=True):
        is_new = row.pop("verdict").startswith("too few seeds to tell")  # two, of which nothing was said before
        assert is_new == old.pop("verdict").startswith("within the spread")
        assert row == old


def test_a_report_of_layers_is_loaded() -> None:
    report = LayerReport.from_json(FOLDERS / "layer_report" / "report.json")
    assert report.to_csv() == (FOLDERS / "layer_report" / "layers.csv").read_text()
