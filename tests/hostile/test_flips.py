"""One flipped bit, or a cut, in every file that is read: no crash, no hang, no traceback, nothing but what was written.

Where a format has no checksum a flip in a value cannot be seen: ``FILES`` says which must be refused.
"""

from __future__ import annotations

import itertools
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from cbkernels.files.array_files import open_arrays

from ..all_of import all_of
from ..sample_runs import SMALL
from . import chance, times
from .conftest import Record

HANG_SECONDS = 60
REFUSED = object()


def arrays(path: Path) -> Any:
    """All arrays of a file, at once and in pieces."""
    found = {array.name: array.read() for array in open_arrays(str(path))}
    for array in open_arrays(str(path)):
        list(array.read_pieces(3)) if array.shape else None
    return found


def checkpoint(path: Path) -> Any:
    from cbkernels.files.checkpoints import load_checkpoint

    return load_checkpoint(path)


def trained(path: Path) -> Any:
    from cbkernels.training.trained_run import load_trained

    return dict(load_trained(path.parent, device="cpu").model.state_dict())


def exported(path: Path) -> Any:
    from cbkernels.training.networks.exported import load_exported

    return dict(load_exported(path.parent).state_dict())


def record_of(path: Path) -> Any:
    from cbkernels.runs.reader import read_run

    return read_run(path.parent)


def layer_report(path: Path) -> Any:
    import cbkernels

    return cbkernels.LayerReport.from_json(path)


class Sweep(NamedTuple):
    file: str
    """In the folder that ``made`` fills."""
    read: Callable[[Path], Any]
    is_checked: bool
    """Has it a checksum: is everything refused that is not what was written?"""
    needs_torch: bool = True


FILES = {
    "npy": Sweep("acts.npy", arrays, False, False),
    "npz": Sweep("acts.npz", arrays, False, False),  # values have a checksum, names have none
    "safetensors": Sweep("acts.safetensors", arrays, False, False),
    "layer report": Sweep("report.json", layer_report, False, False),
    "checkpoint": Sweep("resnet/checkpoint.safetensors", checkpoint, True),
    "checkpoint of a trained run": Sweep("resnet/checkpoint.safetensors", trained, True),
    "exported weights": Sweep("remove/model/model.safetensors", exported, True),
    "exported surgery": Sweep("remove/model/surgery.json", exported, False),
    "exported network": Sweep("remove/model/network.json", exported, False),
    **{
        f"{name} of a run": Sweep(f"resnet/{name}", record_of, False)
        for name in ("config.json", "history.jsonl", "layers.csv", "result.json", "env.json")
    },
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that need no torch."""
    import cbkernels

    root = tmp_path_factory.mktemp("flips")
    values = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
    labels = np.arange(16) % 3
    np.save(root / "acts.npy", values)
    np.savez(root / "acts.npz", conv=values, y=labels)
    header = b'{"conv":{"dtype":"F32","shape":[16,6],"data_offsets":[0,384]}}'
    (root / "acts.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    cbkernels.LayerReport({"conv": cbkernels.bundle_entropy(values, labels)}, step=3).to_json(root / "report.json")
    return root


@pytest.fixture(scope="module")
def made_by_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a training and a removal, as small as they can be."""
    pytest.importorskip("torch", reason="files of runs: NOT TESTED HERE (no torch)")
    pytest.importorskip("safetensors", reason="files of runs: NOT TESTED HERE (no safetensors)")
    from cbkernels import training

    root = tmp_path_factory.mktemp("runs")
    training.train(training.TrainConfig(**{**SMALL, "model": "resnet", "blocks": (1, 1, 0, 0)}), root / "resnet")
    removal = training.RemoveConfig(max_drop=1.0, heal_epochs=1, draws=2, study_size=20, probe_size=16, device="cpu")
    training.remove_blocks(training.load_trained(root / "resnet", device="cpu"), removal, root / "remove")
    return root


@contextmanager
def alarmed() -> Iterator[None]:
    """A TimeoutError for what hangs."""

    def hangs(*_: object) -> None:
        raise TimeoutError(f"still busy after {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def is_same(one: Any, two: Any) -> bool:
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(is_same(one[key], two[key]) for key in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(is_same, one, two))
    if hasattr(one, "shape"):
        alike = (one.shape, one.dtype) == (getattr(two, "shape", None), getattr(two, "dtype", None))
        return bool(alike and np.array_equal(np.asarray(one), np.asarray(two)))
    return bool(type(one) is type(two) and repr(one) == repr(two))


def flipped(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def read_or_refused(read: Callable[[Path], Any], path: Path) -> Any:
    """What is read, or ``REFUSED`` after an error that names the file or its folder."""
    try:
        return read(path)
    except (OSError, ValueError) as error:
        said = str(error)
    assert path.name in said or str(path.parent) in said, said
    return REFUSED


def damaged(content: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """Random flips, then cuts."""
    random = chance(f"flips of {name}")
    for _ in range(times(200, 12)):
        place, bit = random.randrange(len(content)), random.randrange(8)
        yield f"byte {place}, bit {bit}", flipped(content, place, bit)
    for _ in range(times(40, 3)):
        length = random.randrange(len(content))
        yield f"cut to {length} bytes", content[:length]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * sweep.needs_torch) for name, sweep in FILES.items()]
)
def test_a_damaged_file_is_refused_in_one_sentence_or_says_what_was_written(
    name: str, request: pytest.FixtureRequest, record: Record
) -> None:
    sweep = FILES[name]
    root = request.getfixturevalue("made_by_runs" if sweep.needs_torch else "made")
    path = root / sweep.file
    if not path.exists():
        pytest.skip(f"{name}: NOT TESTED HERE (this version writes no {sweep.file})")
    content, written = path.read_bytes(), sweep.read(path)
    accepted, refused, tried = [], 0, 0
    try:
        with all_of("damages") as case:
            for damage, bytes_ in damaged(content, name):
                tried += 1
                path.write_bytes(bytes_)
                with case(damage), alarmed(), warnings.catch_warnings():
                    warnings.simplefilter("error")  # a warning would be a second sentence
                    found = read_or_refused(sweep.read, path)
                    refused += found is REFUSED
                    accepted += [] if found is REFUSED or is_same(found, written) else [damage]
    finally:
        path.write_bytes(content)
    told = (
        f"no crash, no hang; {refused} refused, {tried - refused - len(accepted)} as written, {len(accepted)} otherwise"
    )
    record("one flipped bit, or a cut", name, tried, told)
    if sweep.is_checked:
        assert not accepted, accepted


def test_every_bit_of_a_header_of_a_npy_file(tmp_path: Path, record: Record) -> None:
    """Those of the values cannot be told from other values."""
    path = tmp_path / "acts.npy"
    np.save(path, np.zeros((16, 6), np.float32))
    content = path.read_bytes()
    with all_of("flips") as case:
        for place, bit in itertools.product(range(128), range(8)):
            path.write_bytes(flipped(content, place, bit))
            with case(place, bit), warnings.catch_warnings():
                warnings.simplefilter("error")
                read_or_refused(arrays, path)
    record("every bit of a header", ".npy", 128 * 8, "one sentence or another shape or type")
