"""Where commands and functions write: nothing of somebody else's is replaced, nothing that is read is written into."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="commands that write: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="commands that write: NOT TESTED HERE (no safetensors)")

from cbkernels import prune_blocks, remove_layers  # noqa: E402
from cbkernels.command_line import main  # noqa: E402
from cbkernels.commands import demo, training_command  # noqa: E402
from cbkernels.files.folder_lock import LOCK, held  # noqa: E402
from cbkernels.page.run_page import write_report  # noqa: E402
from cbkernels.runs.stored_runs import open_folder  # noqa: E402
from cbkernels.surgery import files as surgery_files  # noqa: E402
from cbkernels.training.config import AutotuneConfig, RemoveConfig, TrainConfig, from_dict, to_dict  # noqa: E402
from cbkernels.training.procedures.autotune import autotune, autotune_configured  # noqa: E402
from cbkernels.training.procedures.compare_repr import compare  # noqa: E402
from cbkernels.training.procedures.remove import remove_blocks  # noqa: E402
from cbkernels.training.procedures.train import train  # noqa: E402
from cbkernels.training.trained_run import load_trained  # noqa: E402

from ..model_zoo import build  # noqa: E402

TINY = TrainConfig(
    model="resnet", blocks=(1, 1, 0, 0), width_multiplier=1 / 16, train_size=40, test_size=20, batch_size=20, epochs=1,
    probe_size=10, validation_share=0.2, threads=1, device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained residual network, and beside it an empty folder to work in."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(TINY, folder)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a command that refuses."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1, printed.err
    return printed.err


# --- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["", "runs/\udcff"], ids=["empty", "not UTF-8"])
@pytest.mark.parametrize(
    "command", ["train", "autotune", "demo", "repr compare", "remove RUN", "report RUN", "report RUN --pictures"]
)
def test_names_that_cannot_be_written_are_one_sentence(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = files_of(run)
    words = command.replace("RUN", str(run)).split()
    option = [] if words[-1] == "--pictures" else ["--out"]
    assert ("''" if out == "" else "is not UTF-8 text") in refusal(capsys, *words, *option, out)
    assert not list(tmp_path.iterdir())
    assert files_of(run) == before


@pytest.mark.parametrize("command", ["train", "autotune", "remove RUN"])
def test_there_is_nothing_to_go_on_with(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = command.replace("RUN", str(run)).split()
    said = refusal(capsys, *words, "--resume", "--out", tmp_path / "typo")
    assert f"{tmp_path / 'typo'} holds no run to go on with" in said
    assert not list(tmp_path.iterdir())


# --- outputs and inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "place"), [("run", "is"), ("run/elsewhere", "is inside of"), (".", "holds"), ("link", "is")]
)
def test_a_removal_stands_apart_from_its_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, place: str
) -> None:
    monkeypatch.chdir(run.parent)
    (run.parent / "link").unlink(missing_ok=True)
    (run.parent / "link").symlink_to("run")
    before = files_of(run)
    said = refusal(capsys, "remove", "run", "--out", out, "--overwrite", "--no-study")
    assert f"'{out}' cannot be written into, because it {place} 'run', which is read" in said
    assert files_of(run) == before


@pytest.mark.parametrize("out", ["run", "run/student", "."])
def test_a_student_stands_apart_from_its_teacher(run: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(run.parent)
    before = files_of(run.parent)
    config = {"distill_from": "run", "epochs": 1, "device": "cpu"}
    calls: list[Callable[[], object]] = [
        lambda: train(TrainConfig(**config), out, overwrite=True),
        lambda: compare(TrainConfig(**config), out),
        lambda: autotune(build, (1,), (torch.zeros(2, 1), torch.tensor([0, 1])), out=out, overwrite=True, **config),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"'{out}' cannot be written into, because it .* 'run', which is read"):
            call()
    assert files_of(run.parent) == before


def test_a_run_is_not_written_into_a_folder_of_images(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the pictures of its report would be a class."""
    image = pytest.importorskip("PIL.Image", reason="images in files: NOT TESTED HERE (no pillow)")
    images = tmp_path / "svhn"
    for i in range(40):
        path = images / ("train" if i < 32 else "test") / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (8, 8), (5 * i, 0, 0)).save(path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    options: dict[str, Any] = {"dataset": "svhn", "data_dir": str(tmp_path), "batch_size": 8, "device": "cpu"}
    trained = load_trained(run, device="cpu")
    trained.samples.found_at = str(images)
    for call in (
        lambda out: train(TrainConfig(**options), out),
        lambda out: autotune_configured(AutotuneConfig(**options), out),
        lambda out: remove_blocks(trained, RemoveConfig(), out),
    ):
        for out in (images, images / "train" / "run"):
            with pytest.raises(ValueError, match=r"result\.json' cannot be written into, because it is inside of"):
                call(out)
    assert {path.name for path in images.iterdir()} == {"train", "test"}
    assert not (images / "train" / "run").exists()


# --- whose it is ----------------------------------------------------------------------------------------


def test_the_demo_replaces_no_folder_but_a_demos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs").mkdir()
    for name in ("config.json", "checkpoint.safetensors", "result.json", "report.html"):
        (tmp_path / "theirs" / name).write_text('{"architectures": ["BertModel"]}')
    own = to_dict(AutotuneConfig(depth=50, epochs=500))
    near = {**to_dict(from_dict(AutotuneConfig, demo.PRESETS["fnn"])), "train_size": 150, "weight_decay": 0.3}
    for name, config in (("own", own), ("near", near)):
        with open_folder(tmp_path / name, "autotune", config, resume=False):
            pass
    refused = "holds an auto-tune that is no demo"
    for name, said in (("theirs", "is not that of a run of cbkernels"), ("own", refused), ("near", refused)):
        before = files_of(tmp_path)
        assert said in refusal(capsys, "demo", "--out", tmp_path / name)
        assert files_of(tmp_path) == before
    demos = from_dict(AutotuneConfig, {**demo.PRESETS["fnn"], "epochs": 2, "policy": "first", "seed": 7})
    with open_folder(tmp_path / "demo", "autotune", to_dict(demos), resume=False):
        pass
    monkeypatch.setattr(demo, "run_training", lambda *_: 0)
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 0


@pytest.mark.parametrize("name", ["config.json", "page.html", "report_files/curves.png"])
def test_a_report_replaces_nothing_but_reports(run: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("matplotlib", reason="reports: NOT TESTED HERE (no matplotlib)")
    pytest.importorskip("jinja2", reason="reports: NOT TESTED HERE (no Jinja2)")
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("<html>by hand</html>")
    before = files_of(tmp_path)
    out = tmp_path / "report.html" if name.endswith("png") else file
    with pytest.raises(
        ValueError, match=f"{name} is not of a report of cbkernels; move it away, or name another --out"
    ):
        write_report([run], out)
    assert files_of(tmp_path) == before
    file.unlink()
    for _ in range(2):  # its own one is replaced
        write_report([run], out)


def test_a_surgery_replaces_no_weights_of_others(tmp_path: Path) -> None:
    model, example = build("nano_gpt")
    model, surgery = remove_layers(model, ["transformer.h.1"], example=example)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"of transformers")
    with pytest.raises(ValueError, match=r"model\.safetensors was not written by Surgery\.save; move it away or name"):
        surgery.save(tmp_path, model)
    assert files_of(tmp_path) == {"model.safetensors": b"of transformers"}
    (tmp_path / "surgery.json").write_text("{}")
    with pytest.raises(ValueError, match=r"surgery\.json was not written .*; move it away or name another folder"):
        surgery.save(tmp_path, model)
    for file in tmp_path.iterdir():
        file.unlink()
    surgery.save(tmp_path, model)
    surgery.save(tmp_path, model)
    assert set(files_of(tmp_path)) == {"model.safetensors", "surgery.json"}


def test_two_processes_do_not_save_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, example = build("nano_gpt")
    model, surgery = remove_layers(model, ["transformer.h.1"], example=example)
    monkeypatch.setattr(surgery_files, "_MOST_WAIT_S", 0.0)
    with held(tmp_path), pytest.raises(ValueError, match="is in use by"):
        surgery.save(tmp_path, model)
    assert not list(tmp_path.iterdir())


def pruned(out: Path, **options: Any) -> None:
    torch.manual_seed(0)
    model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 4)
    probe = torch.randn(6, 5, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    prune_blocks(model, probe, evaluate=lambda model: 0.9, heal=lambda model: None, target=0.5, out=out, **options)


def test_a_pruning_deletes_its_own_weights_only(tmp_path: Path) -> None:
    (tmp_path / "weights-best.safetensors").write_bytes(b"mine")
    (tmp_path / ".pruning.json.1.aside").write_bytes(b"half")
    pruned(tmp_path)
    assert (tmp_path / "weights-best.safetensors").read_bytes() == b"mine"
    names = {path.name for path in tmp_path.iterdir()} - {"weights-best.safetensors", "pruning.json"}
    assert len(names) == 1
    (tmp_path / "pruning.json").unlink()
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=r"is there and no pruning\.json to go with it; move it away or name another"):
        pruned(tmp_path, resume=True)
    with held(tmp_path), pytest.raises(ValueError, match="is in use by"):
        pruned(tmp_path)
    assert files_of(tmp_path) == before


# --- two at once ----------------------------------------------------------------------------------------


def test_commands_refuse_a_folder_that_another_process_writes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_command, "write_report", lambda folders, out: None)
    out = tmp_path / "run"
    with open_folder(out, "train", to_dict(TINY), resume=False):
        before = files_of(out)
        for option in ("--resume", "--overwrite"):
            said = refusal(capsys, "train", "--config", out / "config.json", option, "--out", out)
            assert f"{out} is in use by process " in said
            with pytest.raises(ValueError, match="is in use by process"):
                train(TINY, out, resume=option == "--resume", overwrite=option == "--overwrite")
        assert files_of(out) == before
    with held(tmp_path), pytest.raises(ValueError, match="is in use by process"):
        compare(TINY, tmp_path)
    trained = load_trained(run, device="cpu")
    stored = {"run": str(run.resolve()), **to_dict(RemoveConfig())}
    with (
        open_folder(tmp_path / "removal", "remove", stored, resume=False),
        pytest.raises(ValueError, match="is in use by process"),
    ):
        remove_blocks(trained, RemoveConfig(), tmp_path / "removal", resume=True)
    assert not (tmp_path / "removal" / LOCK).exists()
