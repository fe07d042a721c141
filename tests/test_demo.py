"""A short demo: the files of a run, their columns, and the collapse that it is there to show."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the demo: NOT TESTED HERE (no torch)")

import cbkernels  # noqa: E402
from cbkernels.command_line import main  # noqa: E402
from cbkernels.demo import Architecture, DemoConfig, conclusion, run_demo  # noqa: E402
from cbkernels.run_folder import LAYER_COLUMNS, RunFolder  # noqa: E402

EPOCHS = 2
FILES = {"config.json", "env.json", "heatmap.png", "history.jsonl", "layers.csv", "result.json"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder and the output of ``cbkernels demo --epochs 2``, run once."""
    pytest.importorskip("matplotlib", reason="the demo's picture: NOT TESTED HERE (no matplotlib)")
    out = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    command = [sys.executable, "-m", "cbkernels", "demo", "--out", str(out), "--epochs", str(EPOCHS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return out, done


def layers_of(path: Path) -> list[dict[str, str]]:
    with (path / "layers.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_writes_its_files_and_nothing_beside_them(demo: Any) -> None:
    out, _ = demo
    assert {path.name for path in out.iterdir()} == FILES
    assert (out / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "config.json").read_text())["epochs"] == EPOCHS
    assert json.loads((out / "env.json").read_text())["version"] == cbkernels.__version__


def test_layers_csv_is_tidy_and_complete(demo: Any) -> None:
    out, _ = demo
    rows = layers_of(out)
    header = "run,round,epoch,layer,num_rows,num_bundles,num_conflicting,entropy,grid"
    assert (out / "layers.csv").read_text().splitlines()[0] == header == ",".join(LAYER_COLUMNS)
    assert len({(row["run"], row["epoch"], row["layer"]) for row in rows}) == len(rows) == (50 + 3) * (EPOCHS + 1)
    for row in rows:
        assert row["num_rows"] == "512"
        assert 1 <= int(row["num_bundles"]) <= 512
        assert (float(row["entropy"]) > 0) == (int(row["num_conflicting"]) > 0)
        assert re.fullmatch(r"float32 lr=0\.001 batch_size=64 w=0\.\d+", row["grid"])


def test_history_has_a_line_for_every_epoch_of_every_network(demo: Any) -> None:
    out, _ = demo
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [(line["run"], line["epoch"]) for line in lines] == [
        (name, epoch) for name in ("deep", "wide") for epoch in range(EPOCHS + 1)
    ]
    assert lines[0]["train_loss"] is None
    assert all(line["train_loss"] > 0 for line in lines if line["epoch"])


def test_the_deep_network_collapses_and_the_wide_one_does_not(demo: Any) -> None:
    out, _ = demo
    outcome = json.loads((out / "result.json").read_text())
    deep, wide = outcome["networks"]["deep"], outcome["networks"]["wide"]
    assert [layer["layer"] for layer in deep["layers"]] == [f"hidden.{i}" for i in range(50)]
    bundles = [layer["num_bundles"] for layer in deep["layers"]]
    assert bundles[0] > 500
    assert max(bundles[9:]) < 10
    assert bundles[-1] == 1
    assert deep["layers"][-1]["entropy"] == pytest.approx(math.log(10), abs=0.01)
    assert abs(deep["test_accuracy"] - outcome["chance_accuracy"]) < 0.03
    assert all(layer["num_conflicting"] == 0 and layer["num_bundles"] > 500 for layer in wide["layers"])
    assert wide["first_conflicting"] is None
    last = [row for row in layers_of(out) if row["epoch"] == str(EPOCHS)]
    assert [int(row["num_bundles"]) for row in last] == [
        layer["num_bundles"] for layer in deep["layers"] + wide["layers"]
    ]


def test_prints_tables_accuracies_and_the_conclusion(demo: Any) -> None:
    out, done = demo
    outcome = json.loads((out / "result.json").read_text())
    text = " ".join(done.stdout.split())
    for network in outcome["networks"].values():
        assert f"{network['test_accuracy']:.1%}" in text
        assert network["conclusion"] in text
        for layer in network["layers"]:
            assert f"{layer['layer']} {layer['num_bundles']} {layer['num_conflicting']} {layer['entropy']:.6g}" in text
    assert outcome["equality"] in text
    assert str(out / "heatmap.png") in text
    assert f"{outcome['measuring_share']:.1%} of the time" in text
    assert done.stderr.count("\n") == 2 * (EPOCHS + 1)


SMALL = DemoConfig(epochs=1, networks={"small": Architecture(4, 8)})


def numbers(path: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "run"} for row in layers_of(path)]


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    for name in ("first", "second"):
        run_demo(SMALL, tmp_path / name)
    run_demo(DemoConfig(epochs=1, seed=1, networks=SMALL.networks), tmp_path / "other")
    assert numbers(tmp_path / "first") == numbers(tmp_path / "second") != numbers(tmp_path / "other")


def test_threads_are_put_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        run_demo(SMALL, tmp_path)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_json_is_pure(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cbkernels.demo.DemoConfig", lambda epochs, seed, weights: SMALL)
    assert main(["demo", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "result.json").read_text())


def test_without_matplotlib_the_numbers_remain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cbkernels.demo.DemoConfig", lambda epochs, seed, weights: SMALL)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "pip install matplotlib" in printed.err
    assert "hidden.3" in printed.out
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"heatmap.png"}


def test_without_torch_it_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo"]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "pip install torch" in printed.err


def test_refuses_before_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "new"), "--epochs", "0"]) == 1
    assert "epochs is 0" in capsys.readouterr().err
    for seed in (-1, 2**63):
        assert main(["demo", "--out", str(tmp_path / "new"), "--seed", str(seed)]) == 1
        assert f"seed is {seed}" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 1
    printed = capsys.readouterr()
    assert "file: File exists" in printed.err
    assert "epoch 0" not in printed.err


def results_with(*bundles: int) -> dict[str, cbkernels.BundleResult]:
    """Layers in which 40 samples of ten classes form so many bundles."""
    labels = np.arange(40) % 10
    layers = {f"hidden.{i}": (np.arange(40) % n)[:, None] for i, n in enumerate(bundles)}
    return cbkernels.bundle_entropy_layers(layers, labels)


@pytest.mark.parametrize(
    ("bundles", "accuracy", "words"),
    [
        ((40, 40, 40), 0.97, ["No layer conflicts", "97.0%"]),
        ((40, 5, 1, 1), 0.1, ["hidden.1 (layer 2 of 4)", "at most 5 bundles", "does not learn"]),
        ((40, 5, 40, 1), 0.1, ["hidden.3 (layer 4 of 4)", "a single bundle"]),
        ((40, 5, 1, 1), 0.5, ["something is learned"]),
        ((40, 15, 15), 0.5, ["conflict from hidden.1 (layer 2 of 3)", "15 bundles"]),
    ],
)
def test_the_conclusion_follows_the_numbers(bundles: tuple[int, ...], accuracy: float, words: list[str]) -> None:
    sentence = conclusion(results_with(*bundles), accuracy, 0.1)
    assert all(word in sentence for word in words), sentence


# --- the folder -------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "a" / "b")
    folder.write_json("x.json", {"old": 1})

    def full_disk(path: Path, content: bytes) -> None:
        with path.open("wb") as file:
            file.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match=r"No space left on device: .*x\.json"):
        folder.write_json("x.json", {"new": 2})
    assert json.loads((folder.path / "x.json").read_text()) == {"old": 1}
    assert [path.name for path in folder.path.iterdir()] == ["x.json"]


def test_nan_never_gets_into_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        RunFolder(tmp_path).write_json("x.json", {"entropy": math.nan})
    assert list(tmp_path.iterdir()) == []
