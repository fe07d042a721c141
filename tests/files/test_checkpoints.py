"""Checkpoints: what goes in comes out bit for bit, what is not one is refused unexecuted, a full disk hurts not."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="checkpoints: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="checkpoints: NOT TESTED HERE (no safetensors)")

from safetensors.torch import save_file  # noqa: E402

from cbkernels.command_line import main  # noqa: E402
from cbkernels.files import whole_files  # noqa: E402
from cbkernels.files.checkpoints import load_checkpoint, pack, save_checkpoint, unpack  # noqa: E402
from cbkernels.training.config import TrainConfig, to_dict  # noqa: E402
from cbkernels.training.loop.optimizers import build_optimizer  # noqa: E402
from cbkernels.training.procedures.train import train  # noqa: E402

OPTIMIZERS = ("radam", "sgd", "adamw")


def packed(content: Any) -> tuple[Any, dict[str, Any]]:
    tensors: dict[str, Any] = {}
    return json.loads(json.dumps(pack(content, tensors))), tensors


def same(one: Any, other: Any) -> bool:
    """Equal as nests, tensors bit for bit and of one type, lists and tuples alike."""
    if isinstance(one, torch.Tensor):
        bits = [each.contiguous().reshape(-1).view(torch.uint8) for each in (one, other)]
        return one.dtype == other.dtype and one.shape == other.shape and bits[0].equal(bits[1])
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


# --- nests ----------------------------------------------------------------------------------------


def test_nests_come_back(tmp_path: Path) -> None:
    shared = torch.arange(12.0).reshape(3, 4)
    types = (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)
    content = {
        "tensors": [shared, shared.t(), shared[:, ::2], torch.tensor(7), torch.zeros(0, 3)],
        "types": [torch.ones(3, dtype=dtype) for dtype in types],
        "plain": [1, -(2**70), 0.1, float("inf"), float("nan"), True, None, "ä\n", {"tensor": "0", "dict": []}],
        "keys": {0: "int", "0": "string", 1.5: "float"},
        "empty": [{}, [], ""],
    }
    save_checkpoint(tmp_path / "c", content)
    assert same(load_checkpoint(tmp_path / "c"), content)


def test_the_file_is_a_copy_that_training_does_not_move(tmp_path: Path) -> None:
    weight = torch.zeros(3, requires_grad=True)
    content, tensors = packed({"weight": weight})
    with torch.no_grad():
        weight += 1
    assert unpack(content, tensors)["weight"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("wrong", [{1, 2}, object(), b"bytes", 1j, {"deep": [{"er": print}]}, {(1, 2): 3}])
def test_refuses_what_json_and_tensors_cannot_say(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(TypeError, match="cannot be in a checkpoint; only tensors and JSON types can"):
        save_checkpoint(tmp_path / "c", {"wrong": wrong})
    assert not list(tmp_path.iterdir())


# --- optimizers -----------------------------------------------------------------------------------


def network() -> Any:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 3))


def step(model: Any, optimizer: Any, seed: int) -> None:
    inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stopped", [0, 1, 5, 7])
def test_optimizers_go_on_bit_for_bit(tmp_path: Path, name: str, stopped: int) -> None:
    """RAdam changes its rule after step 5, Lookahead synchronises at 6."""
    config = TrainConfig(optimizer=name, learning_rate=0.05)
    model = network()
    optimizer = build_optimizer(model, config)
    for seed in range(stopped):
        step(model, optimizer, seed)
    save_checkpoint(tmp_path / "c", {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()})
    other = network()
    with torch.no_grad():
        for weights in other.parameters():
            weights.fill_(9)
    resumed = build_optimizer(other, TrainConfig(optimizer=name, learning_rate=9.0))
    content = load_checkpoint(tmp_path / "c")
    other.load_state_dict(content["model"])
    resumed.load_state_dict(content["optimizer"])
    for seed in range(stopped, stopped + 8):
        step(model, optimizer, seed)
        step(other, resumed, seed)
    assert same(dict(other.state_dict()), dict(model.state_dict()))
    assert same(packed(resumed.state_dict()), packed(optimizer.state_dict()))


# --- files that are not checkpoints -----------------------------------------------------------------


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def good(path: Path) -> None:
    save_checkpoint(path, {"weights": torch.arange(100.0), "epoch": 3})


def truncated(path: Path) -> None:
    good(path)
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_the_header(path: Path) -> None:
    good(path)
    path.write_bytes(path.read_bytes()[:40])


def foreign(path: Path) -> None:
    save_file({"weights": torch.zeros(3)}, path)


def foreign_with_words(path: Path) -> None:
    save_file({"weights": torch.zeros(3)}, path, metadata={"format": "pt", "content": "{}"})


def later_version(path: Path) -> None:
    save_file({}, path, metadata={"kind": "cbkernels checkpoint 3", "content": "{}"})


def with_content(content: str) -> Callable[[Path], None]:
    return lambda path: save_file({}, path, metadata={"kind": "cbkernels checkpoint 1", "content": content})


def pickle_bomb(path: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(path.parent / "EXECUTED")))


def torch_bomb(path: Path) -> None:
    torch.save({"weights": torch.zeros(3), "bomb": Bomb(path.parent / "EXECUTED")}, path)


def bomb_in_the_content(path: Path) -> None:
    with_content(pickle.dumps(Bomb(path.parent / "EXECUTED"), 0).decode())(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def huge_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 64)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (truncated, "is damaged or not a safetensors file"),
        (cut_in_the_header, "is damaged or not a safetensors file"),
        (empty, "is damaged or not a safetensors file"),
        (huge_header, "is damaged or not a safetensors file"),
        (foreign, r"is not a checkpoint of this version \(None\)"),
        (foreign_with_words, r"is not a checkpoint of this version \(None\)"),
        (later_version, r"is not a checkpoint of this version \('cbkernels checkpoint 3'\)"),
        (pickle_bomb, "is damaged or not a safetensors file"),
        (torch_bomb, "is damaged or not a safetensors file"),
        (bomb_in_the_content, "is damaged"),
        (with_content("{"), "is damaged"),
        (with_content("[" * 100_000), "nested deeper than 200 levels"),
        (with_content('{"list":[' * 5_000 + "]}" * 5_000), "nested deeper than 200 levels"),
        (with_content('{"dict": [["epoch", ' + "9" * 400 + "]]}"), "9 is not a finite number"),
        (with_content("[]"), r"is damaged \(no table of contents\)"),
        (with_content('{"list": []}'), r"is damaged \(no table of contents\)"),
        (with_content('{"tensor": "0"}'), "is not part of a checkpoint"),
        (with_content('{"dict": [["a", {"tensor": "missing"}]]}'), "is not part of a checkpoint"),
        (with_content('{"dict": [["a"]]}'), "is damaged"),
        (with_content('{"dict": [[[1], 2]]}'), "is damaged"),
        (with_content('{"object": "os.mkdir"}'), "is not part of a checkpoint"),
        (with_content("{}"), "is not part of a checkpoint"),
    ],
    ids=lambda value: getattr(value, "__name__", "").strip("<>"),
)
def test_refused_in_one_sentence_and_nothing_is_executed(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    path = tmp_path / "checkpoint.safetensors"
    make(path)
    with pytest.raises(ValueError, match=said) as error:
        load_checkpoint(path)
    assert str(path) in str(error.value)
    assert str(error.value).endswith("nothing was loaded")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "EXECUTED").exists()


def test_the_bombs_do_go_off_when_they_are_unpickled(tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    pickle_bomb(tmp_path / "c")
    pickle.loads((tmp_path / "c").read_bytes())
    assert (tmp_path / "EXECUTED").exists()


def test_folders_and_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError, match="there is no checkpoint to go on from"):
            load_checkpoint(path)


def test_every_flipped_byte_is_told_or_changes_nothing(tmp_path: Path) -> None:
    """In the header, the table of contents, the checksum itself and the tensors."""
    path = tmp_path / "c"
    content = {"weights": torch.arange(6.0), "steps": torch.tensor(3), "epoch": 12, "accuracy": 0.875}
    save_checkpoint(path, content)
    whole, said = path.read_bytes(), []
    for place in range(len(whole)):
        for flip in (0x01, 0x02, 0x10, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            try:
                assert same(load_checkpoint(path), content), place
            except ValueError as error:
                said.append(str(error))
    assert len(said) > 3 * len(whole)
    assert all(each.startswith(f"{path} is ") and each.endswith("; nothing was loaded") for each in said)


def test_a_checkpoint_of_older_versions_has_no_checksum(tmp_path: Path) -> None:
    with_content('{"dict": [["epoch", 3], ["rate", Infinity]]}')(tmp_path / "c")
    assert load_checkpoint(tmp_path / "c") == {"epoch": 3, "rate": float("inf")}


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    for content in (deep, 10**400):
        with pytest.raises(ValueError, match="a checkpoint of this is damaged: it holds no JSON"):
            save_checkpoint(tmp_path / "c", {"content": content})
    assert not list(tmp_path.iterdir())


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one may take its name meanwhile: header and tensors are of one file."""
    path, read_bytes = tmp_path / "c", Path.read_bytes

    def read_and_lost(self: Path) -> bytes:
        content = read_bytes(self)
        self.unlink()
        return content

    good(path)
    monkeypatch.setattr(Path, "read_bytes", read_and_lost)
    assert load_checkpoint(path)["epoch"] == 3
    assert not path.exists()


def test_an_unreadable_file_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    good(path)

    def refuses(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuses)
    with pytest.raises(PermissionError) as error:
        load_checkpoint(path)
    assert error.value.filename == str(path)


# --- writing that fails -----------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c"
    good(path)
    before = path.read_bytes()
    monkeypatch.setattr(whole_files.os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left on device") as error:
        save_checkpoint(path, {"epoch": 4})
    assert error.value.filename == str(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def full_disk(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, timeout=30)
    except OSError as error:
        pytest.skip(f"a full disk: NOT TESTED HERE ({error})")
    if done.returncode:
        pytest.skip(f"a full disk: NOT TESTED HERE ({done.stderr.strip()})")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True, timeout=30)


def test_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "c"
    good(path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left on device") as error:
        save_checkpoint(path, {"weights": torch.zeros(100_000)})
    assert error.value.filename == str(path)
    assert path.read_bytes() == before
    assert [p.name for p in small_disk.iterdir()] == ["c"]
    good(path)


def test_a_run_on_a_full_disk_keeps_what_it_has_and_goes_on_elsewhere(
    small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables grow with every epoch until there is no space for the next checkpoint."""
    config = TrainConfig(
        depth=20, width=4, train_size=60, test_size=20, batch_size=20, probe_size=20, epochs=12, device="cpu"
    )
    undisturbed = train(config, tmp_path / "undisturbed")
    size = {p.name: p.stat().st_size for p in (tmp_path / "undisturbed").iterdir()}
    needed = 20_000 + 2 * size["checkpoint.safetensors"] + (size["layers.csv"] + size["history.jsonl"]) // 2
    (small_disk / "filler").write_bytes(bytes(256 * 1024 - needed))
    run = small_disk / "run"
    numbers = ("depth", "width", "train_size", "test_size", "batch_size", "probe_size", "epochs")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in to_dict(config).items() if name in numbers]
    assert main(["train", *options, "--out", str(run)]) == 1
    said = capsys.readouterr()
    last = said.err.splitlines()[-1]
    assert last.startswith(f"cbkernels: error: {run}")
    assert last.endswith("No space left on device")
    assert said.out == ""
    assert not list(run.glob(".*"))
    kept = load_checkpoint(run / "checkpoint.safetensors")["lines"]["history.jsonl"]
    written = (run / "history.jsonl").read_bytes().count(b"\n")
    assert 2 < kept <= written <= kept + 1 < 13, "the tables are written before the checkpoint"
    assert not (run / "result.json").exists()
    shutil.copytree(run, tmp_path / "elsewhere")
    resumed = train(config, tmp_path / "elsewhere", resume=True)
    assert resumed["entropy_mean"] == undisturbed["entropy_mean"]
    assert resumed["test_accuracy"] == undisturbed["test_accuracy"]
    history = (tmp_path / "elsewhere" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == list(range(13))
    assert (tmp_path / "elsewhere" / "layers.csv").read_text() == (tmp_path / "undisturbed" / "layers.csv").read_text()
