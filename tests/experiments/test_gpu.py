"""The experiment on a GPU, rehearsed without one: what it goes through, and takes up where it was stopped."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from . import experiment


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a rehearsal that nothing disturbed, and its JSON."""
    gpu, out = experiment("gpu"), tmp_path_factory.mktemp("gpu")
    assert gpu.main(["--rehearse", "--out", str(out)]) == gpu.FINISHED
    return out, json.loads((out / gpu.RESULT).read_text())


def test_a_rehearsal_goes_through_all_of_it(rehearsed: Any) -> None:
    gpu, (_, content) = experiment("gpu"), rehearsed
    assert (content["outcome"], content["device"], content["steps"]) == ("finished", "cpu", 45)
    assert content["rate_x_decay_x_steps"] == pytest.approx(0.001 * 0.1 * 45)
    names = [block["block"] for block in content["blocks"]]
    assert names == ["stages.0.0", "stages.1.0", "stages.2.0"]
    assert [line["epoch"] for line in content["epochs"]] == [0, 1, 2, 3]
    assert all(list(line["margin_bits"]) == [f"{name}.branch" for name in names] for line in content["epochs"])
    assert all(0 <= block["accuracy_without"] <= 1 for block in content["blocks"])
    assert [point["removed"] for point in content["study"]["curves"]["lowest_margin"]] == [1, 2, 3]
    assert list(content["pruning"]) == list(gpu.RANKS)
    for log in content["pruning"].values():
        assert log["reason"]
        assert log["steps"][0]["accuracy_healed"] == content["epochs"][-1]["validation_accuracy"]
    assert set(content["iteration_ms"]) == {"without_monitor", "with_monitor"}
    assert len(content["calls"]) == 1


def without_times(value: Any) -> Any:
    """All but what differs between two runs of the same thing."""
    if isinstance(value, dict):
        differs = ("seconds", "latency", "iteration_ms", "date", "commit", "calls", "command")
        return {name: without_times(each) for name, each in value.items() if not name.startswith(differs)}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def test_a_run_that_always_runs_out_of_time_ends_with_the_same(rehearsed: Any, tmp_path: Path) -> None:
    """A call without any time does one thing: an epoch, the study, one step of a pruning."""
    gpu, (_, undisturbed) = experiment("gpu"), rehearsed
    command, codes, epochs = ["--rehearse", "--minutes", "0", "--out", str(tmp_path)], [], []
    while not codes or codes[-1] == gpu.UNFINISHED:
        codes.append(gpu.main(command))
        content = json.loads((tmp_path / gpu.RESULT).read_text())
        epochs.append(len(content["epochs"]))
        assert content["outcome"] == ("unfinished" if codes[-1] else "finished")
    assert codes[-1] == gpu.FINISHED
    assert epochs[:5] == [1, 2, 3, 4, 4]
    assert len(content["calls"]) == len(codes) > 8
    assert without_times(content) == without_times(undisturbed)


def test_lines_behind_the_checkpoint_are_made_again(rehearsed: Any, tmp_path: Path) -> None:
    """As a kill between the JSON and the checkpoint leaves them."""
    gpu, (_, undisturbed) = experiment("gpu"), rehearsed
    for _ in range(2):
        gpu.main(["--rehearse", "--minutes", "0", "--out", str(tmp_path)])
    path = tmp_path / gpu.RESULT
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "epochs": [*content["epochs"], {"epoch": 2}]}))
    gpu.main(["--rehearse", "--minutes", "0", "--out", str(tmp_path)])
    assert without_times(json.loads(path.read_text())["epochs"]) == without_times(undisturbed["epochs"][:3])


def test_a_finished_run_trains_on_and_is_pruned_anew(rehearsed: Any, tmp_path: Path, monkeypatch: Any) -> None:
    gpu = experiment("gpu")
    monkeypatch.setattr(gpu, "RANKS", ("margin",))
    for epochs in (1, 2):
        monkeypatch.setitem(gpu.REHEARSAL, "epochs", epochs)
        assert gpu.main(["--rehearse", "--out", str(tmp_path)]) == gpu.FINISHED
        content = json.loads((tmp_path / gpu.RESULT).read_text())
        last = content["epochs"][-1]
        assert (last["epoch"], len(content["epochs"])) == (epochs, epochs + 1)
        assert content["pruning"]["margin"]["steps"][0]["accuracy_healed"] == last["validation_accuracy"]


def test_what_cannot_be_run_is_one_sentence(rehearsed: Any, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    gpu, (folder, _) = experiment("gpu"), rehearsed
    torch = importlib.import_module("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = (folder / gpu.RESULT).read_bytes()
    new = str(tmp_path / "new")
    for arguments, words in (
        (["--out", new], "device is 'cpu'; run it on an NVIDIA GPU, or try it here with --rehearse"),
        (["--out", new, "--device", "cuda"], "torch sees no GPU here"),
        (["--out", new, "--rehearse", "--weight-decay", "-1"], "weight_decay is -1.0"),
        (["--out", str(folder), "--rehearse", "--seed", "1"], "is of another recipe; name another folder with --out"),
    ):
        assert gpu.main(arguments) == gpu.REFUSED
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("bench.experiments.gpu: error: ")
        assert words in line
    assert not (tmp_path / "new").exists()
    assert (folder / gpu.RESULT).read_bytes() == before


def test_on_a_gpu_the_data_must_be_named(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    gpu = experiment("gpu")
    torch = importlib.import_module("torch")
    monkeypatch.setattr(gpu, "device_named", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr(gpu.TABLE["cuda"], "require", lambda: None)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    for more, words in (([], "data_dir is None"), (["--data-dir", str(tmp_path / "none")], str(tmp_path / "none"))):
        assert gpu.main(["--out", str(tmp_path / "new"), *more]) == gpu.REFUSED
        assert words in capsys.readouterr().err


def test_a_captured_network_is_afterwards_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """The capture itself needs a GPU; what it leaves behind in the network is that of a stand-in."""
    gpu = experiment("gpu")
    torch = importlib.import_module("torch")
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).eval()
    example, seen = torch.randn(8, 3), []

    def capture(module: Any, inputs: Any) -> None:
        assert module.training
        for _ in range(4):
            module(*inputs)
        module.forward = lambda x: seen.append(x) or x

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with gpu.captured(model, example):
        model(example)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(seen) == 1
    assert model(example).shape == (8, 2)
