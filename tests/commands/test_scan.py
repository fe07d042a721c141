"""``cbkernels scan``: the table of any model; nothing that lies beside weights is ever run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="cbkernels scan: NOT TESTED HERE (needs torch)")

from cbkernels import LayerMonitor, UpdateGrid  # noqa: E402
from cbkernels.command_line import main  # noqa: E402
from cbkernels.models.model_sources import model_named  # noqa: E402

NETWORK = """
import torch

def net(width=8):
    layers = [layer for _ in range(20) for layer in (torch.nn.Linear(width, width), torch.nn.ReLU())]
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, 2))

def number():
    return 3

def broken():
    raise KeyError("no weights here")
"""
EVIL = "import pathlib; pathlib.Path(r'{}').touch()"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a module of a name that no other test imports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.delitem(sys.modules, "scanned_net", raising=False)
    (tmp_path / "scanned_net.py").write_text(NETWORK, encoding="utf-8")
    return tmp_path


def scanned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["scan", *arguments, "--json"]) == 0
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return content


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(["scan", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_a_function_of_the_working_folder_is_measured_as_by_a_monitor(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = scanned(capsys, "scanned_net:net", "--shape", "8", "--samples", "32", "--seed", "5")
    model = model_named("scanned_net:net", seed=5)
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(5))
    grid = UpdateGrid.from_optimizer(model, torch.optim.SGD(model.parameters(), lr=1e-3), 64)
    report = LayerMonitor(model, (x, torch.arange(32)), grid=grid).measure()
    assert [layer["num_bundles"] for layer in content["layers"]] == [r.num_bundles for r in report.values()]
    assert content["first_conflicting"] == report.first_conflicting is not None  # 20 layers of 8 are too many
    assert "a made-up batch of 32 samples of shape 8" in content["probe"]
    assert "every sample is a class of its own" in content["probe"]
    assert main(["scan", "scanned_net:net", "--shape", "8"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("scanned_net:net with the weights that it starts with, on a made-up batch of 64 samples")
    assert "20 layers conflict" in printed
    assert scanned(capsys, "scanned_net:net", "--shape", "8", "--plain")["grid"] is None


@pytest.mark.parametrize("kind", ["safetensors", "pt", "checkpoint"])
def test_weights_of_a_file_are_measured(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """All of them 0: every sample is in one bundle then, which no start of the weights makes."""
    weights = {name: torch.zeros_like(t) for name, t in model_named("scanned_net:net").state_dict().items()}
    if kind == "safetensors":
        package = pytest.importorskip("safetensors.torch", reason="weights in safetensors: NOT TESTED HERE")
        package.save_file(weights, "w.safetensors")
    else:
        torch.save(weights if kind == "pt" else {"state_dict": weights, "epoch": 3}, f"w.{kind}")
    content = scanned(capsys, "scanned_net:net", "--weights", f"w.{kind}", "--shape", "8", "--plain")
    assert {layer["num_bundles"] for layer in content["layers"]} == {1}
    assert content["weights"] == f"w.{kind}"
    del weights["0.bias"]
    torch.save(weights, "part.pt")
    assert "'0.bias' is missing in the file and (8,) in the model" in refused(
        capsys, "scanned_net:net", "--weights", "part.pt", "--shape", "8"
    )


def test_a_probe_of_ones_own_with_and_without_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.repeat(np.eye(8, dtype=np.float32), 2, axis=0)
    np.savez("with.npz", x=x, y=np.repeat(np.arange(8), 2))
    np.savez("without.npz", x=x)
    alike = scanned(capsys, "scanned_net:net", "--probe", "with.npz", "--plain", "--layers", "0")
    assert alike["first_conflicting"] is None
    own = scanned(capsys, "scanned_net:net", "--probe", "without.npz", "--plain", "--layers", "0")
    assert own["first_conflicting"] == "0"  # the same image twice
    assert own["probe"] == "16 samples of without.npz, without labels, so that every sample is a class of its own"


def test_nothing_beside_weights_is_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return exec, (EVIL.format(folder / "ran"),)

    torch.save({"0.weight": Evil()}, "evil.pt")
    assert "which is never executed" in refused(capsys, "scanned_net:net", "--weights", "evil.pt", "--shape", "8")
    pytest.importorskip("transformers", reason="folders of Hugging Face models: NOT TESTED HERE (needs transformers)")
    remote = folder / "remote"
    remote.mkdir()
    (remote / "code.py").write_text(EVIL.format(folder / "ran"), encoding="utf-8")
    config = {"model_type": "my_own", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (remote / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "made no model" in refused(capsys, f"hf:{remote}")
    assert not (folder / "ran").exists()


def test_a_folder_of_hugging_face(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What its config says decides the made-up batch; weights of the folder are taken."""
    transformers = pytest.importorskip("transformers", reason="folders of Hugging Face models: NOT TESTED HERE")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    bert = transformers.BertConfig(vocab_size=11, architectures=["BertModel"], **sizes)
    bert.save_pretrained("bert")
    content = scanned(capsys, "hf:bert")
    assert content["model"] == "BertModel"
    assert "of shape 32 (whole numbers below 11, seed 0)" in content["probe"]
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(image_size=16, patch_size=8, **sizes))
    torch.nn.init.zeros_(vit.vit.embeddings.patch_embeddings.projection.weight)
    vit.save_pretrained("vit")
    content = scanned(capsys, "hf:vit", "--plain")
    assert content["model"] == "ViTForImageClassification"
    assert "of shape 3 x 16 x 16" in content["probe"]
    assert {layer["num_bundles"] for layer in content["layers"]} == {1}  # no image gets in


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scanned_net"], "MODEL is 'scanned_net'; write module:function, hf:PATH or torchvision:NAME"),
        (["no_such_module:net"], "no_such_module:net made no model: ModuleNotFoundError"),
        (["scanned_net:nets"], "has no attribute 'nets'"),
        (["scanned_net:broken"], "made no model: KeyError: 'no weights here'"),
        (["scanned_net:number"], "scanned_net:number made a int; it must be a torch.nn.Module"),
        (["scanned_net:net"], "pass --shape, such as --shape 3 224 224, or --probe"),
        (["scanned_net:net", "--shape", "3"], "cannot be measured on a made-up batch of 64 samples of shape 3 "),
        (["scanned_net:net", "--shape", "8", "--samples", "0"], "--samples is 0; it must be at least 1"),
        (["scanned_net:net", "--shape", "8", "--weights", "no.pt"], "no.pt is no file"),
        (["scanned_net:net", "--shape", "8", "--layers", "conv.*"], "layers is 'conv.*', which chooses none"),
        (["hf:nowhere"], "nowhere has no config.json"),
    ],
)
def test_refusals(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert said in refused(capsys, *arguments)


def test_weights_of_a_cut_model_say_how_they_are_loaded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors", reason="files of cut models: NOT TESTED HERE (no safetensors)")
    from safetensors.torch import save_file

    Path("cut").mkdir()
    save_file({"other": torch.zeros(1)}, "cut/model.safetensors")
    arguments = ("scanned_net:net", "--shape", "8", "--weights", "cut/model.safetensors")
    assert "cut model" not in refused(capsys, *arguments)
    Path("cut/surgery.json").write_text("{}")
    said = refused(capsys, *arguments)
    assert "is not of this model" in said
    assert "it is of a cut model: cbkernels.Surgery.load('cut', model) makes it of a whole model" in said
