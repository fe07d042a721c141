"""Files that unpack to far more than they are are refused before the memory is taken; the option that lets them in."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cbkernels.command_line import main
from cbkernels.files.array_files import open_arrays
from cbkernels.files.unpacking import FOLD, UNPACK_UP_TO, TooLarge, require_room
from cbkernels.training.data.data_sets import load_data_set

MIB = 1 << 20


def peak_of(action: Callable[[], Any]) -> int:
    """Bytes that NumPy and Python took at once."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def bomb(path: Path, **arrays: Any) -> str:
    """A hundred times smaller than what it holds."""
    np.savez_compressed(path, **arrays)
    assert 100 * path.stat().st_size < sum(array.nbytes for array in arrays.values())
    return str(path)


def test_the_limit_is_the_larger_of_what_is_allowed_and_what_the_file_is_worth() -> None:
    require_room("it", UNPACK_UP_TO, 1, UNPACK_UP_TO)
    require_room("it", FOLD * UNPACK_UP_TO, UNPACK_UP_TO, UNPACK_UP_TO)
    with pytest.raises(TooLarge, match=r"^it unpacks from 10 to 81 bytes, and to at most 80 it is read; pass unpack"):
        require_room("it", 81, 10, 80)


def test_a_member_is_refused_before_its_memory_is_taken(tmp_path: Path) -> None:
    file = bomb(tmp_path / "b.npz", a=np.zeros((64, MIB // 4), np.float32))

    def refused() -> None:
        (array,) = open_arrays(file, unpack_up_to=8 * MIB)
        with pytest.raises(TooLarge, match=rf"b\.npz, array 'a', unpacks from \d+ to {64 * MIB} bytes, and to at most"):
            array.read()

    assert peak_of(refused) < 4 * MIB
    (array,) = open_arrays(file, unpack_up_to=64 * MIB)
    assert array.read().shape == (64, MIB // 4)


def test_pieces_are_bounded_and_so_are_rows_of_nothing(tmp_path: Path) -> None:
    file = bomb(tmp_path / "b.npz", a=np.zeros((64, MIB), np.uint8), b=np.zeros((1, 64 * MIB), np.uint8))
    wide, long = open_arrays(file, unpack_up_to=8 * MIB)
    assert peak_of(lambda: sum(len(piece) for piece in wide.read_pieces(2))) < 16 * MIB
    with pytest.raises(TooLarge):
        next(iter(long.read_pieces(1)))
    (labels,) = open_arrays(bomb(tmp_path / "l.npz", labels=np.zeros(MIB, np.int8)), unpack_up_to=8 * MIB)
    with pytest.raises(TooLarge, match=f"to {64 * MIB} bytes"):  # what a measurement takes for so many rows
        labels.read()


def test_by_default_eight_gigabytes_are_not_read(tmp_path: Path) -> None:
    """A file that states them and holds a few bytes, so that no test has to write them."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (8 << 30,)})
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue())
        archive.filelist[0].file_size = (8 << 30) + 128
    (array,) = open_arrays(str(tmp_path / "b.npz"))
    with pytest.raises(TooLarge, match=r"pass unpack_up_to with 549755813888 or more"):
        array.read()


def test_a_header_that_claims_more_than_its_member_is_damage(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("a.npy", header.getvalue() + b"1234")
    with pytest.raises(ValueError, match=r"b\.npz is damaged or truncated: member 'a' has 132 bytes for 43980"):
        open_arrays(str(tmp_path / "b.npz"))


def test_headers_of_safetensors_are_bounded(tmp_path: Path) -> None:
    """A sparse file: 40 MB of header take no disk."""
    path = tmp_path / "b.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 40_000_000))
        file.truncate(50_000_000)
    with pytest.raises(ValueError, match="its header claims 40000000 bytes"):
        open_arrays(str(path))


def test_measure_names_the_option_that_lets_it_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acts, labels = bomb(tmp_path / "a.npz", a=np.zeros((256, MIB // 64))), str(tmp_path / "l.npy")
    np.save(labels, np.arange(256))
    assert main(["measure", acts, labels, "--unpack-up-to", "1MiB"]) == 1
    said = capsys.readouterr().err
    assert "pass --unpack-up-to with 33554432 or more if you trust it" in said
    assert main(["measure", acts, labels, "--unpack-up-to", "33554432", "--json"]) == 0
    assert main(["measure", acts, labels, "--json"]) == 0


# --- data sets ------------------------------------------------------------------------------------


def test_a_data_set_of_arrays(tmp_path: Path) -> None:
    images, labels = np.zeros((64, 256, 256), np.uint8), np.arange(64) % 2
    file = bomb(tmp_path / "d.npz", images=images, labels=labels)
    assert len(load_data_set(file).train_images) == 52

    def refused() -> None:
        with pytest.raises(TooLarge, match=r"d\.npz, array 'images'"):
            load_data_set(file, unpack_up_to=MIB)

    assert peak_of(refused) < MIB


def encoded(size: int) -> bytes:
    image = pytest.importorskip("PIL.Image", reason="images: NOT TESTED HERE (no pillow)")
    file = io.BytesIO()
    image.new("RGB", (size, size)).save(file, "PNG")
    return file.getvalue()


def parquet(path: Path, images: list[bytes], **options: Any) -> str:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet: NOT TESTED HERE (no pyarrow)")
    from pyarrow import parquet as files

    table = pyarrow.table({"image": images, "label": [i % 2 for i in range(len(images))]})
    files.write_table(table, path, **options)
    return str(path)


def test_parquet_that_states_what_it_unpacks_to(tmp_path: Path) -> None:
    file = parquet(tmp_path / "d.parquet", [bytes(MIB // 4)] * 16, use_dictionary=False, compression="zstd")
    with pytest.raises(TooLarge, match=rf"^{file} unpacks from \d+ to \d+ bytes, and to at most {MIB} it is read"):
        load_data_set(file, unpack_up_to=MIB)


def test_parquet_whose_dictionary_holds_one_value_for_all_rows(tmp_path: Path) -> None:
    """Its stated sizes are honest and small: every row is a number that stands for the same image."""
    image = bytes(np.random.RandomState(0).bytes(64 << 10))
    file = parquet(tmp_path / "d.parquet", [image] * 4096, use_dictionary=True)
    assert Path(file).stat().st_size < MIB // 4
    pyarrow = pytest.importorskip("pyarrow")
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(TooLarge, match=rf"^{file} unpacks from \d+ to \d+ bytes, and to at most {2 * MIB} it is read"):
        load_data_set(file, unpack_up_to=2 * MIB)
    assert pyarrow.total_allocated_bytes() - before < 8 * MIB


def test_sound_parquet_is_read_as_before(tmp_path: Path) -> None:
    images = [encoded(size) for size in (8, 8, 8, 8, 8, 8)]
    data = load_data_set(parquet(tmp_path / "d.parquet", images, row_group_size=2))
    assert (data.image_shape, len(data.train_images) + len(data.test_images)) == ((3, 8, 8), 6)


def test_an_image_of_many_pixels_and_many_images(tmp_path: Path) -> None:
    for classes in ("a", "b"):
        (tmp_path / "one" / classes).mkdir(parents=True)
        (tmp_path / "many" / classes).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "one" / classes / f"{i}.png").write_bytes(encoded(1200 if (classes, i) == ("b", 3) else 8))
            (tmp_path / "many" / classes / f"{i}.png").write_bytes(encoded(400))
    for folder, options in (("one", {"image_size": 8}), ("many", {}), ("many", {"image_size": 500})):
        with pytest.raises(TooLarge, match=rf"\.png unpacks .* and to at most {MIB} it is read"):
            load_data_set(str(tmp_path / folder), unpack_up_to=MIB, **options)
    assert load_data_set(str(tmp_path / "many"), unpack_up_to=4 * MIB).image_shape == (3, 400, 400)
    assert load_data_set(str(tmp_path / "many"), unpack_up_to=MIB, image_size=8).image_shape == (3, 8, 8)
