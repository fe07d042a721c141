"""Data sets by name and path: what is read, which samples are taken, and what is refused with one sentence."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cbkernels.training.data import hub_data_sets
from cbkernels.training.data.data_sets import DataSet, load_data_set, load_digits, split, stratified
from cbkernels.training.data.sources import SOURCES

PINNED = "bdd5aa66090af08092c476090c9ad4e5"
RANDOM = np.random.RandomState(0)


def grey(count: int, height: int = 5, width: int = 4) -> Any:
    return RANDOM.randint(0, 256, (count, 1, height, width)).astype(np.uint8)


def coloured(count: int, height: int = 5, width: int = 4) -> Any:
    return RANDOM.randint(0, 256, (count, 3, height, width)).astype(np.uint8)


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    """One image (C, H, W) as a file's content."""
    pillow = pytest.importorskip("PIL.Image", reason="encoded images: NOT TESTED HERE (no pillow)")
    stored = io.BytesIO()
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    pillow.fromarray(np.ascontiguousarray(pixels)).save(stored, kind, **options)
    return stored.getvalue()


def write_parquet(
    path: Path, images: Any, labels: Any, names: list[str] | None = None, as_struct: bool = True, **more: Any
) -> Path:
    """A table as the hub has it."""
    pyarrow = pytest.importorskip("pyarrow", reason="parquet: NOT TESTED HERE (no pyarrow)")
    from pyarrow import parquet

    contents = [image if isinstance(image, bytes) else encoded(image) for image in images]
    column = [{"bytes": content, "path": None} for content in contents] if as_struct else contents
    label = labels if isinstance(labels, pyarrow.Array) else pyarrow.array(labels)
    table = pyarrow.table({"image": column, "label": label, **more})
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path)
    return path


def contents(count: int, height: int = 5) -> list[bytes]:
    return [encoded(image) for image in grey(count, height)]


def write_table(folder: Path, **columns: Any) -> str:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet: NOT TESTED HERE (no pyarrow)")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), folder / "table.parquet")
    return str(folder / "table.parquet")


def write_image(path: Path, image: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image))


def two_classes(count: int) -> Any:
    return np.arange(count) % 2


def say(call: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    """The one sentence."""
    with pytest.raises(kind) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    assert said.strip() == said
    return said


# --- digits


def test_digits_are_split_by_the_seed() -> None:
    digits = load_data_set("digits")
    expected = split(*load_digits())
    assert digits.image_shape == (1, 8, 8)
    assert digits.train_images.dtype == np.float32
    assert (digits.train_images == expected.train_images.reshape(-1, 1, 8, 8)).all()
    assert (digits.test_labels == expected.test_labels).all()
    assert (digits.name, digits.num_classes, digits.class_names) == ("digits", 10, None)
    assert "seed 0" in digits.source
    assert not np.array_equal(load_data_set("digits", seed=1).test_images, digits.test_images)


def test_the_same_call_gives_the_same_samples() -> None:
    first, again = (load_data_set("digits", train_size=100, test_size=50, seed=4) for _ in range(2))
    assert (first.train_images == again.train_images).all()
    assert (first.test_labels == again.test_labels).all()
    assert not np.array_equal(first.train_images, load_data_set("digits", train_size=100, seed=5).train_images)


# --- which samples


def test_a_choice_takes_every_class_alike() -> None:
    random = np.random.RandomState(1)
    for _ in range(200):
        labels = random.permutation(np.repeat(np.arange(5), random.randint(1, 60, 5)))
        size = random.randint(1, len(labels) + 1)
        chosen = stratified(labels, size, seed=random.randint(1000))
        assert len(np.unique(chosen)) == len(chosen) == size
        assert (np.diff(chosen) > 0).all()
        counts, all_counts = np.bincount(labels[chosen], minlength=5), np.bincount(labels)
        shares = all_counts / len(labels)
        assert (np.abs(counts - size * shares) <= (1 + 5 * shares) / 2 + 1e-9).all()


def test_a_balanced_set_stays_balanced() -> None:
    counts = np.bincount(stratified(np.arange(1000) % 10, 305) % 10)
    assert sorted(counts) == [30] * 5 + [31] * 5


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    labels = np.arange(300) % 7
    chosen = [set(stratified(labels, size, seed=3).tolist()) for size in (10, 50, 51, 300)]
    assert all(small < large for small, large in itertools.pairwise(chosen))


def test_choices_are_pinned() -> None:
    chosen = stratified(np.arange(1000) % 7, 100, seed=3)
    assert hashlib.sha256(chosen.tobytes()).hexdigest()[:32] == PINNED
    assert set(chosen) != set(stratified(np.arange(1000) % 7, 100, seed=4))


@pytest.mark.parametrize("option", ["train_size", "test_size", "image_size"])
@pytest.mark.parametrize("size", [0, -3, True, "5", 2.0])
def test_refuses_sizes(option: str, size: Any) -> None:
    said = say(lambda: load_data_set("digits", **{option: size}))
    assert said == f"{option} is {size!r}; it must be a positive integer"


def test_refuses_more_samples_than_there_are() -> None:
    assert say(lambda: load_data_set("digits", train_size=1439)).startswith("train_size is 1439; digits has 1438")
    assert say(lambda: load_data_set("digits", test_size=360)).startswith("test_size is 360; digits has 359")
    assert len(load_data_set("digits", train_size=1438).train_labels) == 1438


# --- .npz


def four_arrays(**changed: Any) -> dict[str, Any]:
    arrays = {
        "train_images": grey(12),
        "train_labels": two_classes(12),
        "test_images": grey(6),
        "test_labels": two_classes(6),
    }
    return {**arrays, **changed}


def saved(path: Path, **arrays: Any) -> str:
    np.savez(path / "set.npz", **arrays)
    return str(path / "set.npz")


def test_npz_with_both_parts(tmp_path: Path) -> None:
    arrays = four_arrays(train_labels=two_classes(12).astype(np.uint8))
    found = load_data_set(saved(tmp_path, **arrays))
    assert (found.train_images == arrays["train_images"]).all()
    assert (found.test_images == arrays["test_images"]).all()
    assert found.train_images.dtype == np.uint8
    assert found.train_labels.dtype == found.test_labels.dtype == np.int64
    assert (found.train_labels == two_classes(12)).all()
    assert found.source.endswith("set.npz")


def test_npz_without_parts_is_split_by_the_seed(tmp_path: Path) -> None:
    images = np.arange(50, dtype=np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    path = saved(tmp_path, images=images, labels=two_classes(50))
    found, other = (load_data_set(path, seed=seed) for seed in (0, 1))
    numbers = [part[:, 0, 0, 0] for part in (found.train_images, found.test_images)]
    assert sorted(np.concatenate(numbers)) == list(range(50))
    assert np.bincount(found.test_labels).tolist() == [5, 5]
    assert (found.test_labels == numbers[1] % 2).all()
    assert not np.array_equal(found.test_images, other.test_images)
    assert found.source.endswith("; 20% of every class held back for the test with seed 0")


def test_layouts_and_types_of_arrays(tmp_path: Path) -> None:
    images, labels = coloured(20), two_classes(20)
    whole = load_data_set(saved(tmp_path, images=images, labels=labels))
    last = load_data_set(saved(tmp_path, images=images.transpose(0, 2, 3, 1), labels=labels))
    floats = load_data_set(saved(tmp_path, images=images / 255, labels=labels))
    assert whole.image_shape == last.image_shape == floats.image_shape == (3, 5, 4)
    assert (whole.train_images == last.train_images).all()
    assert floats.train_images.dtype == np.float32
    assert np.abs(floats.train_images * 255 - whole.train_images).max() < 1e-4


def test_names_of_classes_are_numbered_in_their_order(tmp_path: Path) -> None:
    labels = np.array(["dog", "cat", "eel"] * 10)
    found = load_data_set(saved(tmp_path, images=grey(30), labels=labels))
    assert found.class_names == ("cat", "dog", "eel")
    assert (found.train_labels[:3] == [1, 0, 2]).sum() >= 1
    again = load_data_set(saved(tmp_path, **four_arrays(train_labels=labels[:12], test_labels=labels[:6])))
    assert again.train_labels.tolist() == [1, 0, 2] * 4
    assert again.test_labels.tolist() == [1, 0, 2] * 2


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    images = np.array([Bomb(tmp_path / "exploded")] * 3, dtype=object)
    said = say(lambda: load_data_set(saved(tmp_path, images=images, labels=two_classes(3))))
    assert "pickled Python objects, which are never loaded" in said
    assert not (tmp_path / "exploded").exists()
    with pytest.raises(Exception, match=r".*"):  # the bomb is a real one
        np.load(tmp_path / "set.npz", allow_pickle=True)["images"].sum()
    assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"train_images": grey(12).astype(np.int64)}, "are int64; save uint8"),
        ({"train_images": grey(12) * 1.0}, "go from .* save floats in 0 to 1"),
        ({"train_images": np.full((12, 1, 2, 2), np.nan)}, "go from nan to nan; save floats in 0 to 1"),
        ({"train_images": np.full((12, 1, 2, 2), -0.1)}, "go from -0.1"),
        ({"train_images": grey(12).reshape(12, -1)}, r"have shape \(12, 20\)"),
        ({"train_images": np.zeros((12, 2, 5, 4), np.uint8)}, r"have shape \(12, 2, 5, 4\)"),
        ({"train_images": np.zeros((12, 1, 0, 4), np.uint8)}, r"have shape \(12, 1, 0, 4\)"),
        ({"train_images": grey(12, 6)}, r"shape \(1, 6, 4\), those of the test part of .* shape \(1, 5, 4\)"),
        ({"train_images": grey(12) / 255}, r"are float32 of shape .* uint8 of shape"),
        ({"train_labels": two_classes(11)}, r"have shape \(11,\); save one for each of its 12 images"),
        ({"train_labels": two_classes(12)[:, None]}, r"have shape \(12, 1\)"),
        ({"train_labels": two_classes(12) * 1.0}, "are float64; save integers"),
        ({"train_labels": two_classes(12) > 0}, "are bool; save integers"),
        (
            {"train_labels": -two_classes(12), "test_labels": -two_classes(6)},
            "go from -1 to 0 in 2 classes; number the classes 0 to 1",
        ),
        ({"train_labels": two_classes(12) + 1}, "has samples of class 0 and .* has none"),
        ({"train_labels": two_classes(12) * 0, "test_labels": two_classes(6) * 0}, "are of class 0; at least two"),
        ({"test_labels": two_classes(6) * 7}, "test part .* has samples of class 7 and .* has none; leave them out"),
        ({"train_labels": two_classes(12) * 7, "test_labels": two_classes(6) * 7}, "go from 0 to 7 in 2 classes"),
        ({"test_labels": np.array(["a"] * 6)}, "name their classes differently"),
        ({"train_images": grey(12)[:0], "train_labels": two_classes(0)}, "training part of .* holds no sample"),
        ({"test_images": grey(12)[:0], "test_labels": two_classes(0)}, "test part of .* holds no sample"),
    ],
)
def test_refuses_arrays(tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    path = saved(tmp_path, **four_arrays(**changed))
    with pytest.raises(ValueError, match=says) as caught:
        load_data_set(path)
    assert "set.npz" in str(caught.value)


def test_refuses_npz_without_what_is_needed(tmp_path: Path) -> None:
    said = say(lambda: load_data_set(saved(tmp_path, train_images=grey(3), x=grey(1))))
    assert said.startswith(f"{tmp_path / 'set.npz'} holds train_images, x; it needs images and labels")
    said = say(lambda: load_data_set(saved(tmp_path, images=grey(2), labels=two_classes(2))))
    assert "too few samples of each class" in said
    (tmp_path / "set.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:-50])
    assert "damaged" in say(lambda: load_data_set(tmp_path / "set.npz"))  # type: ignore[arg-type]


# --- parquet


def test_parquet_as_the_hub_has_it(tmp_path: Path) -> None:
    images, tests = grey(7), grey(4)
    write_parquet(tmp_path / "train-00000-of-00002.parquet", images[:3], [0, 2, 1], ["a", "b", "c"])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", images[3:], [1, 0, 0, 2], ["a", "b", "c"])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", tests, [2, 1, 0, 0], ["a", "b", "c"])
    write_parquet(tmp_path / "extra-00000-of-00001.parquet", tests[:1], [2], ["a", "b", "c"])
    write_parquet(tmp_path / "validation-00000-of-00001.parquet", tests[:2], [0, 1], ["a", "b", "c"])
    found = load_data_set(str(tmp_path))
    assert (found.train_images == images).all()
    assert found.train_labels.tolist() == [0, 2, 1, 1, 0, 0, 2]
    assert (found.test_images == tests).all()
    assert found.test_labels.tolist() == [2, 1, 0, 0]
    assert (found.class_names, found.num_classes) == (("a", "b", "c"), 3)


def test_a_part_called_validation_is_tested_on_when_there_is_no_other(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train.parquet", grey(4), two_classes(4))
    write_parquet(tmp_path / "data" / "validation.parquet", grey(2), two_classes(2))
    assert len(load_data_set(str(tmp_path)).test_labels) == 2


def test_other_parquet_files_are_one_part(tmp_path: Path) -> None:
    images = grey(40)
    write_parquet(tmp_path / "a.parquet", images[:20], two_classes(20))
    write_parquet(tmp_path / "b.parquet", images[20:], two_classes(20))
    (tmp_path / ".c.parquet").write_bytes(b"a file that is being copied")
    found = load_data_set(str(tmp_path))
    assert np.bincount(found.train_labels).tolist() == [16, 16]
    assert np.bincount(found.test_labels).tolist() == [4, 4]
    one = load_data_set(str(tmp_path / "a.parquet"))
    assert (len(one.train_labels), len(one.test_labels)) == (16, 4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("GIF", {}), ("PPM", {})],
)
@pytest.mark.parametrize("make", [grey, coloured])
def test_pixels_of_lossless_formats_are_exact(tmp_path: Path, kind: str, options: Any, make: Any) -> None:
    images = make(10)
    if kind == "GIF":
        images = images // 64 * 64  # at most 64 colours
    path = write_parquet(tmp_path / "x.parquet", [encoded(i, kind, **options) for i in images], two_classes(10))
    found = load_data_set(str(path))
    loaded = np.concatenate([found.train_images, found.test_images])
    if kind in ("WEBP", "GIF") and make is grey:
        loaded = loaded[:, :1]  # it has no grey images, or a palette
    assert {image.tobytes() for image in loaded} == {image.tobytes() for image in images}


def test_jpeg_is_near(tmp_path: Path) -> None:
    images = np.full((10, 3, 16, 16), 100, np.uint8)
    path = write_parquet(tmp_path / "x.parquet", [encoded(i, "JPEG") for i in images], two_classes(10))
    assert np.abs(load_data_set(str(path)).train_images.astype(int) - 100).max() <= 2


def test_grey_and_coloured_images_become_coloured(tmp_path: Path) -> None:
    some, other = grey(10), coloured(10)
    write_parquet(tmp_path / "train.parquet", [*some, *other], two_classes(20))
    write_parquet(tmp_path / "test.parquet", some[:2], two_classes(2))
    found = load_data_set(str(tmp_path))
    assert (found.train_images[:10] == some.repeat(3, 1)).all()
    assert (found.train_images[10:] == other).all()
    assert (found.test_images == some[:2].repeat(3, 1)).all()


def test_transparency_and_palettes(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image", reason="encoded images: NOT TESTED HERE (no pillow)")
    colours = coloured(10)
    contents = []
    for i, image in enumerate(colours):
        opened = Image.open(io.BytesIO(encoded(image)))
        stored = io.BytesIO()
        if i % 2:
            opened.putalpha(7 * i)
            opened.save(stored, "PNG")
        else:
            opened.quantize(20).save(stored, "PNG", transparency=bytes(range(20)))
        contents.append(stored.getvalue())
    path = write_parquet(tmp_path / "x.parquet", contents, two_classes(10))
    found = load_data_set(str(path))
    loaded = {image.tobytes() for image in (*found.train_images, *found.test_images)}
    assert loaded == {image.tobytes() for image in colours}


def test_columns_are_found_by_their_types(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet: NOT TESTED HERE (no pyarrow)")
    from pyarrow import parquet

    images = grey(10)
    contents = [encoded(image) for image in images]
    for name, label in (
        ("fine", pyarrow.array(two_classes(10), pyarrow.int8())),
        ("word", pyarrow.array(["no", "yes"] * 5)),
        ("entry", pyarrow.array(["no", "yes"] * 5).dictionary_encode()),
    ):
        table = {"px": pyarrow.array(contents, pyarrow.large_binary()), name: label, "weight": [0.5] * 10}
        if name == "fine":  # the names of files are no classes
            table["file_name"] = [f"{i}.png" for i in range(10)]
        parquet.write_table(pyarrow.table(table), tmp_path / f"{name}.parquet")
        found = load_data_set(str(tmp_path / f"{name}.parquet"))
        assert found.class_names == (None if name == "fine" else ("no", "yes"))
        for image, number in zip(found.train_images, found.train_labels, strict=True):
            assert [(image == other).all() for other in images].index(True) % 2 == number


def test_a_column_called_label_wins(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", grey(10), two_classes(10), coarse=[0] * 10, thumbnail=[b""] * 10)
    assert load_data_set(str(path)).num_classes == 2


@pytest.mark.parametrize("other", ["fold", "id"])
def test_a_text_column_called_label_wins_over_integers(tmp_path: Path, other: str) -> None:
    """A table was trained on its fold, in five classes without a name."""
    more = {other: [i % 5 if other == "fold" else i for i in range(10)]}
    path = write_parquet(tmp_path / "x.parquet", grey(10), ["dog", "cat"] * 5, **more)
    found = load_data_set(str(path))
    assert (found.class_names, found.num_classes) == (("cat", "dog"), 2)


@pytest.mark.parametrize("name", ["labels", "target", "class"])
def test_other_usual_names_of_labels_win_too(tmp_path: Path, name: str) -> None:
    path = write_table(tmp_path, image=contents(10), fold=[i % 5 for i in range(10)], **{name: ["no", "yes"] * 5})
    assert load_data_set(path).class_names == ("no", "yes")


def test_columns_that_are_asked_for(tmp_path: Path) -> None:
    """CIFAR-100 has fine and coarse labels, and neither is called label."""
    images = grey(10)
    stored = [encoded(image) for image in images]
    path = write_table(tmp_path, img=stored, small=contents(10, 2), fine_label=list(range(10)), coarse_label=[0, 1] * 5)
    assert load_data_set(path, label_column="coarse_label").num_classes == 2
    found = load_data_set(path, label_column="coarse_label", image_column="small")
    assert found.image_shape == (1, 2, 4)
    said = say(lambda: load_data_set(path, label_column="fine"))
    assert said.startswith(f"label_column is 'fine'; {path} has no such column of integers or strings; its columns are")
    assert "image_column is 'fine_label'" in say(
        lambda: load_data_set(path, label_column="coarse_label", image_column="fine_label")
    )
    for name in ("digits", saved(tmp_path, images=images, labels=two_classes(10))):
        assert "is no table with columns" in say(lambda name=name: load_data_set(name, label_column="fine"))  # type: ignore[misc]


def test_refuses_labels_that_are_no_classes_by_their_name(tmp_path: Path) -> None:
    path = write_table(tmp_path, image=contents(4), label=[0.5, 1.0, 0.5, 1.0], fold=[0, 1, 0, 1])
    said = say(lambda: load_data_set(path))
    assert said.startswith(f"the column label of {path} holds double, and labels are integers or strings; name another")
    path = write_table(tmp_path, image=contents(4), word=["a", "b"] * 2, fold=[0, 1, 0, 1])
    assert "2 columns that may be the labels, word, fold; name one of them by label_column" in say(
        lambda: load_data_set(path)
    )


@pytest.mark.parametrize("has_validation", [True, False])
def test_a_test_part_without_labels_is_not_tested_on(tmp_path: Path, has_validation: bool) -> None:
    write_parquet(tmp_path / "train.parquet", grey(20), two_classes(20), ["a", "b"])
    write_parquet(tmp_path / "test.parquet", grey(6), [-1] * 6, ["a", "b"])
    if has_validation:
        write_parquet(tmp_path / "validation.parquet", grey(2), two_classes(2), ["a", "b"])
    found = load_data_set(str(tmp_path))
    assert (len(found.train_labels), found.test_labels.tolist()) == (
        (20, [0, 1]) if has_validation else (16, found.test_labels.tolist())
    )
    assert ("held back" in found.source) == (not has_validation)


def test_refuses_ambiguous_and_missing_columns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="parquet: NOT TESTED HERE (no pyarrow)")
    from pyarrow import parquet

    def refused(**columns: Any) -> str:
        parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet")
        return say(lambda: load_data_set(str(tmp_path / "x.parquet"))).removeprefix(f"{tmp_path / 'x.parquet'} ")

    content = [encoded(image) for image in grey(2)]
    said = refused(img=content, fine_label=[0, 1], coarse_label=[0, 0])
    assert said.startswith("has 2 columns that may be the labels, fine_label, coarse_label; name one of them")
    assert refused(left=content, right=content, label=[0, 1]).startswith("has 2 columns that may be the images, left")
    said = refused(image=content, score=[0.5, 1.0])
    assert said.startswith("has no column of labels (integers or strings); its columns are image (binary), score")
    assert refused(text=["a", "b"], label=[0, 1]).startswith("has no column of images (binary, or struct")
    said = refused(image=[{"bytes": None, "path": "a.png"}, {"bytes": content[0], "path": None}], label=[0, 1])
    assert said == f"1 of the 2 samples of {tmp_path / 'x.parquet'} have no image in it"
    assert "have no label in it" in refused(image=content, label=[0, None])
    assert "holds no sample" in refused(image=pyarrow.array([], pyarrow.binary()), label=pyarrow.array([], "int64"))


def test_refuses_damaged_files_and_images(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", grey(40, 30, 30), two_classes(40))
    whole = path.read_bytes()
    load_data_set(str(path))
    middle = len(whole) // 2
    cut, zeroed = whole[: middle - 500] + whole[middle + 500 :], whole[:9] + bytes(20) + whole[29:]
    for damaged in (whole[:-20], whole[:middle], b"", b"no parquet at all", cut, zeroed):
        path.write_bytes(damaged)
        said = say(lambda: load_data_set(str(path)))
        assert said.startswith((f"{path} is damaged", "the image in row 0 of")), said
    images = [encoded(image) for image in grey(6)]
    for broken in (images[0][:40], b"", b"\x89PNG", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n"):
        write_parquet(path, [*images[:3], broken, *images[4:]], [0, 0, 0, 1, 1, 1])
        (tmp_path / "test.parquet").unlink(missing_ok=True)
        path.rename(tmp_path / "train.parquet")
        write_parquet(tmp_path / "test.parquet", images[:2], two_classes(2))
        said = say(lambda: load_data_set(str(tmp_path)))
        assert said.startswith(f"the image in row 3 of {tmp_path / 'train.parquet'} is damaged or no image: ")
        assert " at 0x" not in said


def test_formats_that_nobody_asked_for_are_not_opened(tmp_path: Path) -> None:
    """Pillow knows many more, some of which start other programs."""
    path = write_parquet(tmp_path / "x.parquet", [encoded(image, "PCX") for image in grey(10)], two_classes(10))
    assert "is damaged or no image: it is none of PNG" in say(lambda: load_data_set(str(path)))


def test_refuses_images_deeper_than_8_bits(tmp_path: Path) -> None:
    deep = [encoded(np.full((1, 4, 4), 1000 + i, np.uint16)) for i in range(10)]
    path = write_parquet(tmp_path / "x.parquet", deep, two_classes(10))
    assert "pillow's mode I;16; save it with 8 bits" in say(lambda: load_data_set(str(path)))


def deep_png() -> bytes:
    """2 x 2 coloured pixels of 16 bits a channel; pillow writes none."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + bytes(range(12))) * 2
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["png", "ppm"])
def test_refuses_coloured_images_deeper_than_8_bits(tmp_path: Path, kind: str) -> None:
    """Pillow reads them as 8 bits a channel without a word."""
    content = deep_png() if kind == "png" else b"P6 2 2 65535\n" + bytes(range(24))
    path = write_parquet(tmp_path / "x.parquet", [content] * 10, two_classes(10))
    assert "save it with 8 bits a channel" in say(lambda: load_data_set(str(path)))


def test_photographs_stand_upright(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="encoded images: NOT TESTED HERE (no pillow)")
    images = grey(10)
    stored = []
    for image in images:
        exif = pillow.Exif()
        exif[274] = 6  # orientation: the camera was turned; to be shown turned by 90 degrees, clockwise
        content = io.BytesIO()
        pillow.fromarray(np.rot90(image[0])).save(content, "PNG", exif=exif)
        stored.append(content.getvalue())
    found = load_data_set(str(write_parquet(tmp_path / "x.parquet", stored, two_classes(10))))
    assert {image.tobytes() for image in (*found.train_images, *found.test_images)} == {i.tobytes() for i in images}


def test_refuses_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", grey(4), two_classes(4), ["a", "b"])
    assert (
        say(lambda: load_data_set(str(tmp_path)))
        == f"{tmp_path} holds test.parquet but no train-*.parquet; put it there"
    )
    write_parquet(tmp_path / "train.parquet", grey(4), two_classes(4), ["b", "a"])
    assert "name their classes differently" in say(lambda: load_data_set(str(tmp_path)))
    write_parquet(tmp_path / "train.parquet", grey(4), two_classes(4) + 1, ["a", "b"])
    assert "has samples of class 0" in say(lambda: load_data_set(str(tmp_path)))
    write_parquet(tmp_path / "train.parquet", grey(4), [0, 1, 2, 2], ["a", "b"])
    assert "go from 0 to 2 in 2 classes" in say(lambda: load_data_set(str(tmp_path)))
    write_parquet(tmp_path / "train.parquet", grey(4, 6, 6), two_classes(4), ["a", "b"])
    said = say(lambda: load_data_set(str(tmp_path)))
    assert said.startswith(f"images of {tmp_path} have 2 sizes, such as 5 x 4 and 6 x 6 pixels; pass image_size")
    write_parquet(tmp_path / "train-0.parquet", grey(4), two_classes(4), ["x", "y"])
    assert "the files of the training part" in say(lambda: load_data_set(str(tmp_path)))


def test_a_class_that_is_named_may_have_no_samples(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", grey(10), two_classes(10) * 2, ["a", "b", "c"])
    found = load_data_set(str(path))
    assert (found.num_classes, found.class_names) == (3, ("a", "b", "c"))


# --- folders of images


def test_a_folder_of_images_in_two_parts(tmp_path: Path) -> None:
    for test_name in ("val", "test"):  # a test part wins over a validation part
        for part, count in (("train", 4), (test_name, 2 if test_name == "test" else 1)):
            for name in ("dog", "cat"):
                for i, image in enumerate(grey(count)):
                    write_image(tmp_path / part / name / f"{i}.png", image)
        (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
        (tmp_path / "train" / ".cache").mkdir(exist_ok=True)
        with pytest.warns(UserWarning, match=r"left out.* 1 of \.txt"):
            found = load_data_set(str(tmp_path))
        assert found.class_names == ("cat", "dog")
        assert found.train_labels.tolist() == [0] * 4 + [1] * 4
        assert len(found.test_labels) == (4 if test_name == "test" else 2)


def test_a_folder_of_images_in_one_part(tmp_path: Path) -> None:
    images = {name: grey(10) for name in ("test", "cat", "eel")}  # without train, test is a class
    for name, some in images.items():
        for i, image in enumerate(some):
            write_image(tmp_path / name / f"{i}.PNG", image)
    found = load_data_set(str(tmp_path))
    assert np.bincount(found.train_labels).tolist() == [8, 8, 8]
    assert np.bincount(found.test_labels).tolist() == [2, 2, 2]
    for image, label in zip(found.train_images, found.train_labels, strict=True):
        assert any((image == other).all() for other in images[("cat", "eel", "test")[label]])
    assert len({image.tobytes() for image in (*found.train_images, *found.test_images)}) == 30


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("found", ["notes.txt", None])
def test_refuses_a_class_without_images(tmp_path: Path, part: str, found: str | None) -> None:
    """Left out, it gave its number to the next class."""
    for each in ("train", "test"):
        for name in ("ant", "cat", "dog"):
            write_image(tmp_path / each / name / "0.png", grey(1)[0])
    image = tmp_path / part / "cat" / "0.png"
    image.rename(image.with_name(found)) if found else image.unlink()
    said = say(lambda: load_data_set(str(tmp_path)))
    assert said.startswith(f"the class folder {image.parent} holds ")
    assert ("1 files, such as notes.txt, but no image" if found else "no image (") in said


def test_images_in_folders_of_a_class_and_other_endings(tmp_path: Path) -> None:
    """Tiny ImageNet has train/<class>/images/*."""
    for name in ("n1", "n2"):
        for i in range(3):
            write_image(tmp_path / "train" / name / "images" / f"{i}.png", grey(1)[0])
        jfif = tmp_path / "train" / name / f"{name}.jfif"
        jfif.write_bytes(encoded(grey(1)[0], "JPEG"))
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text("0 0 4 4")
    with pytest.warns(UserWarning, match=r"2 of \.txt"):
        found = load_data_set(str(tmp_path))
    assert np.bincount(np.concatenate([found.train_labels, found.test_labels])).tolist() == [4, 4]
    assert found.class_names == ("n1", "n2")
    assert "left out" in found.source


def test_images_beside_the_classes_and_behind_links_are_counted(tmp_path: Path) -> None:
    for name in ("ant", "cat"):
        for i, image in enumerate(grey(4)):
            write_image(tmp_path / "train" / name / f"{i}.png", image)
    write_image(tmp_path / "train" / "lost.png", grey(1)[0])
    (tmp_path / "train" / "cat" / "again").symlink_to("..")
    said = r"not every file of .* is read; left out of .*train: 1 of links to folders, 1 of \.png in no class folder"
    with pytest.warns(UserWarning, match=said):
        found = load_data_set(str(tmp_path))
    assert len(found.train_labels) + len(found.test_labels) == 8


def test_images_of_several_sizes_are_resized_or_refused(tmp_path: Path) -> None:
    for name, width in (("cat", 4), ("dog", 7)):
        for i in range(10):
            write_image(tmp_path / name / f"{i}.png", np.full((1, 5, width), 10 * width, np.uint8))
    assert "have 2 sizes, such as 5 x 4 and 5 x 7" in say(lambda: load_data_set(str(tmp_path)))
    found = load_data_set(str(tmp_path), image_size=6)
    assert found.image_shape == (1, 6, 6)
    assert (found.train_images == np.where(found.train_labels == 0, 40, 70)[:, None, None, None]).all()


def test_resizing_is_the_same_for_arrays_and_encoded_images(tmp_path: Path) -> None:
    images = coloured(10, 12, 12)
    path = write_parquet(tmp_path / "x.parquet", images, two_classes(10))
    array = saved(tmp_path, images=images, labels=two_classes(10))
    for size in (5, 12, 20):
        one, other = (load_data_set(where, image_size=size) for where in (str(path), array))
        assert (one.train_images == other.train_images).all()
        assert one.image_shape == (3, size, size)
    ramp = np.broadcast_to(np.linspace(0, 1, 8), (10, 1, 8, 8))
    found = load_data_set(saved(tmp_path, images=ramp, labels=two_classes(10)), image_size=4)
    assert found.train_images.dtype == np.float32
    assert (np.diff(found.train_images[0, 0], axis=1) > 0.2).all()
    assert found.train_images[0, 0, 0] == pytest.approx([0.09, 0.36, 0.64, 0.91], abs=0.04)


@pytest.mark.parametrize("made", ["empty", "files only", "one class", "empty classes", "nothing to test on"])
def test_refuses_folders(tmp_path: Path, made: str) -> None:
    if made == "files only":
        write_image(tmp_path / "0.png", grey(1)[0])
    elif made == "one class":
        for i in range(10):
            write_image(tmp_path / "cat" / f"{i}.png", grey(1)[0])
    elif made == "empty classes":
        (tmp_path / "train" / "cat").mkdir(parents=True)
    elif made == "nothing to test on":
        write_image(tmp_path / "train" / "cat" / "0.png", grey(1)[0])
        (tmp_path / "test").mkdir()
    expected = {
        "one class": f"all samples of {tmp_path} are of class 'cat'; at least two classes are needed",
        "nothing to test on": (
            f"{tmp_path / 'test'} holds no images; put them into folders <class>/ there, or remove it"
        ),
    }
    said = say(lambda: load_data_set(str(tmp_path)))
    assert said == expected.get(made, said)
    assert said.startswith(expected.get(made, f"{tmp_path} holds no images: neither *.parquet nor train/<class>/*.png"))


def test_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("1,2")
    assert say(lambda: load_data_set(str(tmp_path / "x.csv"))).endswith(
        "is neither a folder nor a .parquet or .npz file"
    )


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="files without permission: NOT TESTED HERE (root reads all)"
)
@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_refuses_what_it_may_not_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    path.write_bytes(b"")
    path.chmod(0)
    assert str(path) in say(lambda: load_data_set(str(path)), PermissionError)


# --- names


@pytest.mark.parametrize("name", ["mnist2", "", "no/such/folder", "no.npz"])
def test_an_unknown_name_lists_the_known_ones(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    said = say(lambda: load_data_set(name), FileNotFoundError)
    assert repr(name) in said
    assert all(known in said for known in (*SOURCES, "hf:ID"))


def test_other_kinds_of_names_are_refused(tmp_path: Path) -> None:
    assert "dataset is 3" in say(lambda: load_data_set(3), TypeError)  # type: ignore[arg-type]
    assert "write the set's name" in say(lambda: load_data_set("hf:"))


def test_a_named_set_is_taken_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    write_parquet(tmp_path / "mnist" / "train-0.parquet", grey(4), two_classes(4))
    write_parquet(tmp_path / "mnist" / "test-0.parquet", grey(2), two_classes(2))
    write_parquet(tmp_path / "svhn" / "cropped_digits" / "train-0.parquet", grey(6), two_classes(6))
    write_parquet(tmp_path / "svhn" / "cropped_digits" / "test-0.parquet", grey(2), two_classes(2))
    write_parquet(tmp_path / "svhn" / "full_numbers" / "train-0.parquet", grey(9), two_classes(9))
    write_parquet(tmp_path / "me" / "mine" / "x.parquet", grey(10), two_classes(10))
    given = load_data_set("mnist", data_dir=tmp_path)
    assert (given.name, given.source) == ("mnist", str(tmp_path / "mnist"))
    monkeypatch.setenv("CBKERNELS_DATA", str(tmp_path))
    assert (load_data_set("mnist").train_images == given.train_images).all()
    assert len(load_data_set("svhn").train_labels) == 6
    assert len(load_data_set("hf:me/mine").train_labels) == 8
    other = tmp_path / "other"
    write_parquet(other / "mnist" / "train.parquet", grey(10), two_classes(10))
    assert len(load_data_set("mnist", data_dir=other).train_labels) == 8


def test_imagenette_is_resized_to_128_pixels(tmp_path: Path) -> None:
    for i, width in enumerate((160, 213, 160, 180, 160, 161)):
        write_image(tmp_path / "imagenette" / ("train" if i < 4 else "val") / "ab"[i % 2] / f"{i}.png",
                    np.full((3, 160, width), 7 * i, np.uint8))  # fmt: skip
    found = load_data_set("imagenette", data_dir=tmp_path)
    assert found.image_shape == (3, 128, 128)
    assert load_data_set("imagenette", data_dir=tmp_path, image_size=64).image_shape == (3, 64, 64)


def test_a_missing_set_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delenv("CBKERNELS_DATA", raising=False)
    said = say(lambda: load_data_set("svhn", data_dir=tmp_path), FileNotFoundError)
    assert said == (
        f"dataset 'svhn' was not found: {tmp_path / 'svhn'} is no folder; put train-*.parquet and test-*.parquet there"
    )
    said = say(lambda: load_data_set("svhn"), ImportError)
    assert said == (
        "dataset 'svhn' was not found: 'ufldl-stanford/svhn' of the Hugging Face hub needs "
        "datasets: pip install datasets pillow; or do "
        "without the hub: put train-*.parquet and test-*.parquet into DIR/svhn/ "
        "and name DIR by data_dir or CBKERNELS_DATA"
    )
    monkeypatch.setenv("CBKERNELS_DATA", str(tmp_path))
    assert f"{tmp_path / 'svhn'} is no folder" in say(lambda: load_data_set("svhn"), ImportError)


def test_a_set_is_found_again_where_it_was_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    for where, count in (("first", 8), ("second", 6)):
        write_parquet(tmp_path / where / "svhn" / "train-0.parquet", grey(count), two_classes(count))
        write_parquet(tmp_path / where / "svhn" / "test-0.parquet", grey(2), two_classes(2))
    monkeypatch.setenv("CBKERNELS_DATA", str(tmp_path / "first"))
    monkeypatch.chdir(tmp_path)
    first = load_data_set("svhn").found_at
    assert first == str(tmp_path / "first" / "svhn") == load_data_set("svhn", data_dir="first").found_at
    assert load_data_set(os.path.join("first", "svhn")).found_at == first
    assert load_data_set("digits").found_at is None
    monkeypatch.delenv("CBKERNELS_DATA")
    again = load_data_set("svhn", found_at=first)
    assert (len(again.train_labels), again.found_at) == (8, first)
    monkeypatch.chdir("/")
    assert load_data_set(os.path.join("first", "svhn"), found_at=first).found_at == first
    monkeypatch.setenv("CBKERNELS_DATA", str(tmp_path / "second"))
    assert len(load_data_set("svhn", found_at=first).train_labels) == 6, "what is named now goes first"
    monkeypatch.setenv("CBKERNELS_DATA", str(tmp_path))
    assert len(load_data_set("svhn", found_at=first).train_labels) == 8, "which does not hold it"
    say(lambda: load_data_set("svhn", data_dir=tmp_path, found_at=first), FileNotFoundError)
    say(lambda: load_data_set("svhn", found_at=tmp_path / "gone"), ImportError)


@pytest.mark.parametrize(("package", "says"), [("pyarrow", "needs pyarrow: pip"), ("PIL", "needs pillow: pip")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, says: str) -> None:
    path = write_parquet(tmp_path / "x.parquet", grey(10), two_classes(10))
    monkeypatch.setitem(sys.modules, package, None)
    assert says in say(lambda: load_data_set(str(path)), ImportError)


# --- the hub

FROM_HUB = """
import io, json, os, shutil, socket, sys
from pathlib import Path
import numpy as np, datasets, pyarrow
from datasets.packaged_modules.parquet.parquet import Parquet

tmp = Path(sys.argv[1])
features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
files = {"train": [str(tmp / "train.parquet")], "test": [str(tmp / "test.parquet")]}
builder = Parquet(dataset_name="mine", hash="0" * 40, data_files=files, features=features, cache_dir=str(tmp / "made"))
builder.download_and_prepare()
shutil.copytree(builder.cache_dir, Path(datasets.config.HF_DATASETS_CACHE, "me___mine", "default", "0.0.0", "0" * 40))
asked = []
def refuse(*args, **kwargs):
    asked.append(args)
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse

from cbkernels.training.data.data_sets import load_data_set
found = load_data_set("hf:me/mine")
assert not asked
print(json.dumps([found.train_images.tolist(), found.train_labels.tolist(), found.class_names, found.source]))

socket.create_connection = lambda *args, **options: io.BytesIO()  # the hub answers, and then fails
load_dataset = datasets.load_dataset
def from_the_network(*args):
    if not datasets.config.HF_HUB_OFFLINE:
        raise ConnectionError("no network.\\nTry again.")
    return load_dataset(*args)
datasets.load_dataset = from_the_network
try:
    load_data_set("hf:me/other")
except OSError as error:
    print(error)
datasets.config.HF_HUB_OFFLINE = True
try:
    load_data_set("hf:me/other:small")
except OSError as error:
    print(error)
"""


def test_the_hubs_cache_is_used_without_a_network(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the hub's cache: NOT TESTED HERE (no datasets)")
    images = grey(6)
    for part, some in (("train", images), ("test", images[:2])):
        write_parquet(tmp_path / f"{part}.parquet", some, two_classes(len(some)))
        pyarrow_rename(tmp_path / f"{part}.parquet")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "CBKERNELS_"))}
    done = subprocess.run(
        [sys.executable, "-c", FROM_HUB, str(tmp_path)], capture_output=True, text=True, timeout=120,
        env={**variables, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_TELEMETRY": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, unknown, offline = done.stdout.splitlines()
    assert json.loads(first) == [images.tolist(), [0, 1] * 3, ["cat", "dog"], "Hugging Face hub: me/mine"]
    assert unknown.startswith("dataset 'me/other' was not found: the hub's me/other is not in the cache ")
    assert "could not be downloaded (ConnectionError: no network); or do without the hub" in unknown
    assert "the hub's me/other (small) is not in" in offline
    assert "the network is switched off (HF_HUB_OFFLINE); or do without the hub: put train-*.parquet" in offline


OFFLINE = """
import socket, datasets
with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    port = unused.getsockname()[1]
datasets.config.HF_ENDPOINT = f"http://127.0.0.1:{port}"
def load_dataset(*args):
    assert datasets.config.HF_HUB_OFFLINE, "its client is not asked, which would try again for half a minute"
    raise FileNotFoundError("not in the cache")
datasets.load_dataset = load_dataset
from cbkernels.training.data.data_sets import load_data_set
try:
    load_data_set("mnist")
except OSError as error:
    print(str(error).replace(str(port), "PORT"))
"""


def test_an_offline_machine_is_told_at_once(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="an offline machine: NOT TESTED HERE (no datasets)")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "CBKERNELS_"))}
    variables = {name: value for name, value in variables.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE], capture_output=True, text=True, timeout=120,
        env={**variables, "HF_HOME": str(tmp_path / "hub")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dataset 'mnist' was not found: the hub's ylecun/mnist is not in the cache ")
    assert "/datasets, and http://127.0.0.1:PORT cannot be reached ([Errno" in done.stdout
    assert "or do without the hub: put train-*.parquet and test-*.parquet into DIR/mnist/" in done.stdout
    assert done.stdout.count("\n") == 1


def test_a_proxy_is_asked_in_place_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def connect(address: tuple[str, int], timeout: float) -> Any:
        asked.append(address)
        raise OSError("nothing answers")

    monkeypatch.setattr(hub_data_sets.socket, "create_connection", connect)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for proxy, no_proxy in (("", ""), ("http://proxy.here:3128", ""), ("http://proxy.here:3128", "huggingface.co")):
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.setenv("no_proxy", no_proxy)
        with pytest.raises(OSError, match="nothing answers"):
            hub_data_sets.require_connection("https://huggingface.co")
    assert asked == [("huggingface.co", 443), ("proxy.here", 3128), ("huggingface.co", 443)]


def pyarrow_rename(path: Path) -> None:
    """The column of images is called img, as in CIFAR-10's table."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    parquet.write_table(table.rename_columns(["img", "label"]), path)


# --- the class


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"train_images": grey(4)[:, 0]}, r"train_images is uint8 of shape \(4, 5, 4\)"),
        ({"test_images": grey(2, 6)}, r"test_images is uint8 of shape \(2, 1, 6, 4\)"),
        ({"train_images": grey(4).astype(np.float64)}, "train_images is float64"),
        ({"test_labels": two_classes(2).astype(np.int32)}, "test_labels is int32"),
        ({"test_labels": two_classes(3)}, r"test_labels is int64 of shape \(3,\)"),
        ({"test_images": grey(0), "test_labels": two_classes(0)}, "at least one"),
        ({"test_labels": two_classes(2) - 1}, "test_labels goes from -1 to 0"),
        ({"num_classes": 1}, "train_labels goes from 0 to 1; the labels of 1 classes are 0 to 0"),
    ],
)
def test_the_class_refuses_what_is_no_data_set(changed: dict[str, Any], says: str) -> None:
    fields: dict[str, Any] = {
        "name": "mine", "train_images": grey(4), "train_labels": two_classes(4), "test_images": grey(2),
        "test_labels": two_classes(2), "num_classes": 2,
    }  # fmt: skip
    assert DataSet(**fields).image_shape == (1, 5, 4)
    with pytest.raises(ValueError, match=says):
        DataSet(**{**fields, **changed})


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from cbkernels.training.data.data_sets import load_data_set; load_data_set('digits'); "
        "print(sorted({'torch', 'PIL', 'pyarrow', 'datasets', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


# --- real data


@pytest.mark.parametrize(
    ("name", "classes", "shape", "bits"),
    [("fashion_mnist", 10, (1, 28, 28), "Ankle boot"), ("cifar10_subset", 10, (3, 32, 32), "airplane")],
)
def test_real_data(name: str, classes: int, shape: tuple[int, ...], bits: str) -> None:
    folder = os.environ.get("CBKERNELS_DATA")
    if not folder or not (Path(folder) / name).is_dir():
        pytest.skip(f"{name}: NOT TESTED HERE (CBKERNELS_DATA names no folder that holds it)")
    where = name if name in SOURCES else str(Path(folder) / name)
    found = load_data_set(where, train_size=1000, test_size=200)
    assert found.image_shape == shape
    assert found.train_images.dtype == np.uint8
    assert found.class_names is not None
    assert bits in found.class_names
    assert np.bincount(found.train_labels).tolist() == [100] * classes
    assert np.bincount(found.test_labels).tolist() == [20] * classes
    assert 30 < found.train_images.mean() < 160
    assert len({image.tobytes() for image in found.train_images}) > 990
