"""Run folders opened to write: nothing of somebody else's is touched, and one process at a time writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cbkernels.files.folder_lock import LOCK, FolderInUse, held
from cbkernels.runs import schema
from cbkernels.runs.stored_runs import open_comparison, open_folder, stored_config

CONFIG: dict[str, Any] = {"seed": 0, "probe_size": 16}
CHECKPOINT = b"weights of a week"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(CHECKPOINT)


def made(folder: Path, command: str = "train", *names: str) -> Path:
    """A run with these files."""
    with open_folder(folder, command, CONFIG, resume=False):
        write(folder, *names)
    return folder


@pytest.fixture(params=[{}, {"resume": True}, {"overwrite": True}], ids=["", "resume", "overwrite"])
def again(request: pytest.FixtureRequest) -> dict[str, bool]:
    return {"resume": False, "overwrite": False, **request.param}


FOREIGN = [
    {"architectures": ["BertModel"], "model_type": "bert"},  # as Hugging Face writes it
    {"command": "train", "version": "1.2", "epochs": 3},  # of another program
    {"command": ["train"], **CONFIG},
    {"command": "train", "schema": "cbkernels run 2", **CONFIG},
    [],
    None,
]


@pytest.mark.parametrize("config", FOREIGN, ids=["transformers", "other", "list", "newer", "no object", "no JSON"])
def test_a_folder_with_the_config_of_another_program_is_left_alone(
    tmp_path: Path, config: Any, again: dict[str, bool]
) -> None:
    write(tmp_path, "checkpoint.safetensors", "result.json", "report.html", "tensorboard/events.out.tfevents.1")
    (tmp_path / "config.json").write_text("{" if config is None else json.dumps(config))
    before = files_of(tmp_path)
    for command in ("train", "autotune", "remove"):
        with (
            pytest.raises(ValueError, match=r"config\.json (is not that of a run of cbkernels; name|is damaged)"),
            open_folder(tmp_path, command, CONFIG, **again),
        ):
            pytest.fail("it was opened")
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "command"),
    [("history.jsonl", "train"), ("checkpoint.safetensors", "train"), ("tensorboard/events.out.tfevents.9.me", "train"),
     ("result.json", "autotune"), ("model/model.safetensors", "remove"), ("progress.json", "remove"),
     ("pruning/margin/weights-3.safetensors", "remove")],
)  # fmt: skip
def test_a_file_that_would_be_replaced_is_refused_and_quoted(
    tmp_path: Path, name: str, command: str, again: dict[str, bool]
) -> None:
    write(tmp_path, name, "notes.txt")
    before = files_of(tmp_path)
    said = f"holds '{name}' and no config.json of cbkernels to go with it; move that away or name another --out"
    with pytest.raises(ValueError, match=said), open_folder(tmp_path, command, CONFIG, **again):
        pytest.fail("it was opened")
    assert files_of(tmp_path) == before


def test_a_folder_with_other_files_becomes_a_run(tmp_path: Path) -> None:
    write(tmp_path, "notes.txt", "model/model.safetensors", "removal/config.json")
    made(tmp_path)
    assert set(files_of(tmp_path)) == {"notes.txt", "model/model.safetensors", "removal/config.json", "config.json"}
    assert json.loads((tmp_path / "config.json").read_text())["schema"] == schema.KIND
    assert stored_config(tmp_path, "train") == CONFIG


def test_overwriting_deletes_what_the_schema_names_and_the_removal(tmp_path: Path) -> None:
    run = made(tmp_path / "run", "train", "checkpoint.safetensors", "margins.csv", "tensorboard/events.out.tfevents.1")
    write(run, "notes.txt", "tensorboard/mine.txt", "model/model.safetensors", "progress.json", "report_files/mine.png")
    made(run / "removal", "remove", "result.json", "model/model.safetensors", "pruning/margin/weights-1.safetensors",
         f"pruning/margin/{LOCK}", "pruning/margin/.pruning.json.4.aside", "removal-notes.txt")  # fmt: skip
    with open_folder(run, "train", CONFIG, resume=False, overwrite=True):
        pass
    kept = {"notes.txt", "tensorboard/mine.txt", "model/model.safetensors", "progress.json", "report_files/mine.png"}
    assert set(files_of(run)) == {"config.json", "removal/removal-notes.txt", *kept}
    (run / "removal" / "removal-notes.txt").unlink()
    made(run / "removal", "remove")
    with open_folder(run, "train", CONFIG, resume=False, overwrite=True):
        assert not (run / "removal").exists()


def test_overwriting_follows_no_link(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    (run / "removal").symlink_to(made(tmp_path / "kept", "remove", "result.json"))
    with open_folder(run, "train", CONFIG, resume=False, overwrite=True):
        pass
    assert (tmp_path / "kept" / "result.json").exists()


def test_a_run_of_another_command_is_not_overwritten(tmp_path: Path, again: dict[str, bool]) -> None:
    run = made(tmp_path, "train", "checkpoint.safetensors")
    before = files_of(run)
    with (
        pytest.raises(ValueError, match="holds a run of another command than 'remove', of 'train'; name another --out"),
        open_folder(run, "remove", CONFIG, **again),
    ):
        pytest.fail("it was opened")
    assert files_of(run) == before


# --- two at once ------------------------------------------------------------------------------------


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A run that is being written."""
    with open_folder(tmp_path / "run", "train", CONFIG, resume=False):
        write(tmp_path / "run", "checkpoint.safetensors", ".checkpoint.safetensors.7.aside")
        yield tmp_path / "run"


@pytest.mark.parametrize("again", [{"resume": True}, {"resume": False, "overwrite": True}], ids=str)
def test_a_run_that_is_written_is_neither_gone_on_with_nor_deleted(busy: Path, again: dict[str, bool]) -> None:
    before = files_of(busy)
    assert LOCK in before
    with (
        pytest.raises(FolderInUse, match=r"run is in use by process \d+;"),
        open_folder(busy, "train", CONFIG, **again),
    ):
        pytest.fail("two write it")
    assert files_of(busy) == before


def test_a_removal_that_is_written_keeps_its_run_from_being_overwritten(tmp_path: Path) -> None:
    run = made(tmp_path, "train", "checkpoint.safetensors")
    removal = made(run / "removal", "remove", ".progress.json.7.aside")
    before = files_of(run)
    with (
        held(removal),
        pytest.raises(FolderInUse, match="removal is in use by"),
        open_folder(run, "train", CONFIG, resume=False, overwrite=True),
    ):
        pytest.fail("it was deleted")
    with held(removal), open_folder(run, "train", CONFIG, resume=True):
        pass
    assert files_of(run) == before, "what it writes aside is left alone"


def test_the_lock_is_gone_at_the_end_and_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_folder(tmp_path, "train", CONFIG, resume=False):
        raise KeyboardInterrupt
    assert set(files_of(tmp_path)) == {"config.json"}


def test_asides_of_a_kill_are_swept_in_all_folders_of_a_run(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    made(run / "removal", "remove")
    asides = (".checkpoint.safetensors.1.aside", ".config.json.1.aside", "removal/.result.json.1.aside",
              "removal/model/.model.safetensors.1.aside", "removal/pruning/margin/.weights-2.safetensors.1.aside",
              ".report.html.999999999.aside", "report_files/.curves.png.999999999.aside")  # fmt: skip
    write(run, *asides, ".mine.1.aside")
    with open_folder(run, "train", CONFIG, resume=True):
        pass
    assert set(files_of(run)) == {"config.json", "removal/config.json", ".mine.1.aside"}


# --- comparisons --------------------------------------------------------------------------------------


def test_two_comparisons_do_not_write_one_folder(tmp_path: Path) -> None:
    with (
        open_comparison(tmp_path),
        pytest.raises(FolderInUse, match="is in use by"),
        open_comparison(tmp_path),
    ):
        pytest.fail("two write it")
    write(tmp_path, ".comparison.json.1.aside", ".comparison.png.999999999.aside")
    with open_comparison(tmp_path):
        assert set(files_of(tmp_path)) == {LOCK}


@pytest.mark.parametrize("name", ["comparison.json", "comparison.png", "report.html"])
def test_a_comparison_replaces_nothing_of_somebody_elses(tmp_path: Path, name: str) -> None:
    write(tmp_path, name)
    if name == "comparison.json":
        (tmp_path / name).write_text('{"rows": []}')
    before = files_of(tmp_path)
    with pytest.raises(ValueError, match=f"{name}.*; move (it|that) away"), open_comparison(tmp_path):
        pytest.fail("it was opened")
    assert files_of(tmp_path) == before
    write(tmp_path, name)
    (tmp_path / "comparison.json").write_text(json.dumps({"command": "repr compare", "rows": []}))
    with open_comparison(tmp_path):
        pass


def test_every_file_of_every_run_is_one_that_the_schema_names(real_runs: dict[str, Path]) -> None:
    from cbkernels.files.folders import named_files

    seen = set()
    for name, run in real_runs.items():
        command = json.loads((run / "config.json").read_text())["command"]
        names = [schema.CONFIG, *schema.FILES[command]]
        files = {path for path in run.rglob("*") if path.is_file()}
        assert files <= set(named_files(run, names)), name
        seen |= {path.name for path in files}
    assert {"model.safetensors", "surgery.json", "network.json", "progress.json", "margins.csv"} <= seen


@pytest.mark.parametrize(("command", "inside"), [("remove", "model"), ("remove", "pruning"), ("train", "tensorboard")])
def test_a_folder_in_a_run_that_is_a_link_is_not_written_into(tmp_path: Path, command: str, inside: str) -> None:
    """What is behind it is somebody else's: a network.json there was replaced."""
    theirs, run = tmp_path / "theirs", tmp_path / "run"
    theirs.mkdir()
    (theirs / "network.json").write_text("{}")
    run.mkdir()
    (run / inside).symlink_to(theirs)
    with (
        pytest.raises(ValueError, match=f"{inside} is a link to another folder"),
        open_folder(run, command, {"seed": 0, "probe_size": 1}, resume=False),
    ):
        pass
    assert [file.name for file in theirs.iterdir()] == ["network.json"]
    assert [file.name for file in run.iterdir()] == [inside]


def test_a_comparison_goes_on_beside_a_page_that_somebody_drew_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text('<meta name="generator" content="cbkernels 0.1.0">')
    with open_comparison(tmp_path):
        pass
    assert (tmp_path / "report.html").exists()
