"""``FILE:key`` beside an odd array: what is odd about an array is said when that one is asked for, and never before."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cbkernels.command_line import main
from cbkernels.files.array_files import open_arrays

from ..all_of import all_of

GOOD = np.arange(12, dtype=np.float32).reshape(4, 3)


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version, allow_pickle=True)
    return file.getvalue()


ODD_MEMBERS: dict[str, tuple[bytes, str]] = {
    "objects": (npy(np.array([{}] * 4, object)), "member 'odd' holds pickled Python objects"),
    "a field of objects": (npy(np.zeros(4, [("a", "O"), ("b", "f4")])), "member 'odd' holds pickled Python objects"),
    "fields beyond Latin-1": (npy(np.zeros(4, [("größe ∆", "f4")]), (3, 0)), "member 'odd' has the .npy version"),
    "no array": (b"hello", "member 'odd' is not a NumPy array"),
    "nothing": (b"", "member 'odd' is empty"),
    "a header cut short": (npy(GOOD)[:30], "damaged"),
    "values cut short": (npy(GOOD)[:-4], "damaged"),
}
UNKNOWN = ("F8_E8M0", "F4", "F6_E2M3", "F6_E3M2", "C64", "F8_E4M3FNUZ", "X9")


def with_odd(path: Path, odd: bytes, changed: bytes = b"", into: bytes = b"") -> str:
    """An archive of ``good`` and ``odd``, in which some bytes are then changed."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.npy", npy(GOOD))
        archive.writestr("odd.npy", odd)
    path.write_bytes(path.read_bytes().replace(changed, into, 1) if changed else path.read_bytes())
    return str(path)


def stored(path: Path, entries: dict[str, Any], content: bytes) -> str:
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content)
    return str(path)


def assert_only_the_odd_one_is_refused(path: str, said: str) -> None:
    (good,) = open_arrays(f"{path}:good")
    assert (np.asarray(good.read()) == GOOD).all()
    assert (np.concatenate(list(good.read_pieces(3))) == GOOD).all()
    for read in (lambda odd: odd.read(), lambda odd: list(odd.read_pieces(3))):
        with pytest.raises(ValueError, match=r"^[^\n]*$") as refused:
            [read(odd) for odd in open_arrays(f"{path}:odd")]
        assert path in str(refused.value)
        assert said in str(refused.value)


def test_members_of_an_archive(tmp_path: Path) -> None:
    with all_of("members") as case:
        for name, (odd, said) in ODD_MEMBERS.items():
            with case(name):
                assert_only_the_odd_one_is_refused(with_odd(tmp_path / "a.npz", odd), said)
        with case("a changed body"):
            values = np.full(4, 7.25, np.float32)
            path = with_odd(tmp_path / "a.npz", npy(values), values.tobytes(), b"\1" * 16)
            assert_only_the_odd_one_is_refused(path, "damaged")


def test_members_that_zipfile_cannot_unpack(tmp_path: Path) -> None:
    """What 7-Zip and WinZip write: a password, and a way to compress that this Python does not know."""
    with_odd(tmp_path / "a.npz", npy(GOOD))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    local, central = content.rindex(b"PK\3\4"), content.rindex(b"PK\1\2")
    with all_of("ways") as case:
        for at, number, said in ((6, 1, "password"), (8, 98, "not supported")):
            changed = bytearray(content)
            changed[local + at] = changed[central + at + 2] = number
            (tmp_path / "b.npz").write_bytes(changed)
            with case(said):
                assert_only_the_odd_one_is_refused(str(tmp_path / "b.npz"), "member 'odd' cannot be unpacked")
                assert_only_the_odd_one_is_refused(str(tmp_path / "b.npz"), said)


def test_tensors_of_types_that_are_not_measured(tmp_path: Path) -> None:
    good = {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}
    with all_of("types") as case:
        for number, dtype in enumerate(UNKNOWN):
            for shape, num_bytes in (([4, 2], 8), ([0, 2], 0), ([4, 0], 0), ([], 1)):
                odd = {"dtype": dtype, "shape": shape, "data_offsets": [48, 48 + num_bytes]}
                path = stored(tmp_path / f"{number}.safetensors", {"odd": odd, "good": good}, GOOD.tobytes() + bytes(8))
                with case(dtype, shape):
                    assert_only_the_odd_one_is_refused(path, f"tensor 'odd' of type {dtype}")


def test_the_names_of_a_file_are_each_there_once(tmp_path: Path) -> None:
    """The last of two arrays of one name was read twice, and the first one never."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("y.npy", npy(GOOD))
        archive.writestr("z.npy", npy(GOOD + 1))
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes().replace(b"z.npy", b"y.npy"))
    text = '{"y":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"y":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}'
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(4))
    for name in ("a.npz", "a.npz:y", "a.safetensors", "a.safetensors:y"):
        with pytest.raises(ValueError, match=r"a\.(npz|safetensors).*'y'"):
            open_arrays(str(tmp_path / name))


def test_measure_skips_odd_arrays_that_are_no_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their shapes are known; one that could be a layer ends the command with its name."""
    monkeypatch.chdir(tmp_path)
    np.save("labels.npy", np.arange(4))
    np.savez("a.npz", good=GOOD, classes=np.array(["cat", None], object))
    assert main(["measure", "a.npz", "labels.npy"]) == 0
    assert "skipped 'classes': its shape is (2,)" in capsys.readouterr().err
    np.savez("a.npz", good=GOOD, names=np.array(["cat", None] * 2, object))
    assert main(["measure", "a.npz", "labels.npy"]) == 1
    assert "layer 'names': a.npz member 'names' holds pickled Python objects" in capsys.readouterr().err
    assert main(["measure", "a.npz:good", "labels.npy"]) == 0
