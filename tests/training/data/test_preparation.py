"""What happens to images before the network, against NumPy: standardisation, crops, flips, brightness."""

from __future__ import annotations

import types
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="augmentation: NOT TESTED HERE (no torch)")

from cbkernels.training.data.augmentation import AUGMENTATIONS  # noqa: E402
from cbkernels.training.data.data_sets import load_data_set  # noqa: E402
from cbkernels.training.data.preparation import Preparation, standardised  # noqa: E402
from cbkernels.training.data.sources import SOURCES, source_named  # noqa: E402

SHAPE = (3, 9, 11)
ENLARGED_BY = {"cifar": 6, "svhn": 4, "imagenette": 10}


def preparation(name: str, image_shape: tuple[int, int, int]) -> Preparation:
    return Preparation(AUGMENTATIONS.chosen(name), image_shape)


def seeded(seed: int = 0) -> Any:
    return torch.Generator().manual_seed(seed)


def some_images(count: int, shape: tuple[int, int, int] = SHAPE) -> Any:
    return torch.randint(0, 256, (count, *shape), generator=seeded(7), dtype=torch.uint8)


def standardised_by_numpy(images: Any) -> Any:
    x = images.numpy().astype(np.float64) / 255
    mean, std = x.mean((1, 2, 3), keepdims=True), x.std((1, 2, 3), keepdims=True)
    return (x - mean) / np.maximum(std, 1 / np.sqrt(x[0].size))


def enlarged_by_numpy(x: Any, by: int) -> Any:
    """Bilinear: a pixel is a square, its value is at its middle, outside is as at the edge."""
    for axis in (2, 3):
        before = x.shape[axis]
        places = np.clip((np.arange(before + by) + 0.5) * before / (before + by) - 0.5, 0, before - 1)
        low = np.minimum(places.astype(int), before - 2)
        share = (places - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.take(x, low, axis) * (1 - share) + np.take(x, low + 1, axis) * share
    return x


def test_uint8_becomes_0_to_1_and_floats_stay() -> None:
    images = some_images(4)
    none = preparation("none", SHAPE)
    for prepared in (none.for_testing(images), none.for_training(images, seeded())):
        assert prepared.dtype == torch.float32
        assert (prepared.numpy() == images.numpy().astype(np.float32) / np.float32(255)).all()
    floats = torch.rand(4, *SHAPE, generator=seeded())
    assert (none.for_testing(floats) == floats).all()
    assert (none.for_testing(floats.double()) == floats).all()


@pytest.mark.parametrize("name", ["standardise", "cifar", "svhn", "imagenette"])
def test_test_images_are_standardised_and_nothing_else(name: str) -> None:
    images = some_images(16)
    prepared = preparation(name, SHAPE).for_testing(images)
    assert prepared.dtype == torch.float32
    assert np.abs(prepared.numpy() - standardised_by_numpy(images)).max() < 1e-5


def test_standardise_does_not_vary_training_images() -> None:
    images, generator = some_images(16), seeded()
    prepared = preparation("standardise", SHAPE)
    assert (prepared.for_training(images, generator) == prepared.for_testing(images)).all()
    assert (generator.get_state() == seeded().get_state()).all()


def test_the_standard_deviation_is_floored() -> None:
    """A plain image becomes 0, an almost plain one is divided by 1 / sqrt(values)."""
    x = torch.full((2, 1, 4, 4), 0.25)
    x[1, 0, 0, 0] += 0.125
    result = standardised(x).numpy()
    assert (result[0] == 0).all()
    assert result[1, 0, 0, 0] == pytest.approx(0.125 * 15 / 16 / (1 / 4), rel=1e-6)


def found_variations(name: str, count: int) -> tuple[Any, Any, Any, Any]:
    """Row, column, flip and brightness of every training image, found by trying all of them."""
    images = some_images(count)
    result = preparation(name, SHAPE).for_training(images, seeded(3))
    assert result.dtype == torch.float32
    assert result.shape == images.shape
    by, (_, height, width) = ENLARGED_BY[name], SHAPE
    large = enlarged_by_numpy(standardised_by_numpy(images), by)
    found: list[list[tuple[int, int, bool, float]]] = [[] for _ in images]
    for top in range(by + 1):
        for left in range(by + 1):
            crops = large[:, :, top : top + height, left : left + width]
            for flipped in (False, True):
                added = result.numpy() - (crops[..., ::-1] if flipped else crops)
                spread = np.ptp(added, axis=(1, 2, 3))
                for i in np.flatnonzero(spread < 2e-5):
                    found[i].append((top, left, flipped, float(added[i].mean())))
    assert all(len(ways) == 1 for ways in found)
    top_, left_, flipped_, added_ = zip(*(ways[0] for ways in found), strict=True)
    return np.array(top_), np.array(left_), np.array(flipped_), np.array(added_)


@pytest.mark.parametrize("name", list(ENLARGED_BY))
def test_training_images_are_enlarged_cropped_flipped_and_brightened(name: str) -> None:
    count = 600
    top, left, flipped, added = found_variations(name, count)
    places = range(ENLARGED_BY[name] + 1)
    expected = count / len(places)
    for offsets in (top, left):
        counts = np.bincount(offsets, minlength=len(places))
        assert len(counts) == len(places)
        assert (np.abs(counts - expected) < 5 * expected**0.5).all()
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.2
    assert (flipped.sum() == 0) if name == "svhn" else abs(flipped.mean() - 0.5) < 0.1
    assert np.abs(added).max() <= 0.25 + 1e-5
    assert added.min() < -0.23
    assert added.max() > 0.23
    assert abs(added.mean()) < 0.03


def test_the_seed_decides_whatever_the_global_generator_does() -> None:
    images, prepared = some_images(8), preparation("cifar", SHAPE)
    torch.manual_seed(1)
    first = prepared.for_training(images, seeded(1))
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert (torch.rand(2) == expected).all()
    assert (prepared.for_training(images, seeded(1)) == first).all()
    assert not (prepared.for_training(images, seeded(2)) == first).all()


def test_an_epoch_goes_on_where_the_generator_is() -> None:
    images, prepared, generator = some_images(8), preparation("cifar", SHAPE), seeded(1)
    prepared.for_training(images, generator)
    state = generator.get_state()
    second = prepared.for_training(images, generator)
    generator.set_state(state)
    assert (prepared.for_training(images, generator) == second).all()


def test_values_do_not_depend_on_the_memory_format() -> None:
    images, prepared = some_images(8), preparation("cifar", SHAPE)
    last = images.to(memory_format=torch.channels_last)
    difference = prepared.for_training(images, seeded(1)) - prepared.for_training(last, seeded(1))
    assert difference.abs().max() < 1e-5


def test_stored_images_are_never_written_to() -> None:
    images = torch.rand(8, *SHAPE, generator=seeded())
    before = images.clone()
    for name in ("none", "standardise", "cifar"):
        preparation(name, SHAPE).for_training(images, seeded())
    assert (images == before).all()


def test_every_named_data_set_has_its_papers_preparation() -> None:
    expected = {"cifar10": "cifar", "svhn": "svhn", "imagenette": "imagenette"}
    assert {n: source.augmentation for n, source in SOURCES.items()} == {n: expected.get(n, "none") for n in SOURCES}
    assert source_named("hf:me/cifar10").augmentation == source_named("/data/cifar10").augmentation == "none"
    digits = load_data_set("digits")
    batch = torch.from_numpy(digits.test_images[:5])
    prepared = preparation(SOURCES["digits"].augmentation, digits.image_shape)
    assert (prepared.for_training(batch, seeded()) == batch).all()


@pytest.mark.parametrize("shape", [(2, 3, 9, 10), (3, 9, 11), (2, 1, 9, 11)])
def test_refuses_images_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"has shape \({', '.join(map(str, shape))}\); .* \(B, 3, 9, 11\)"):
        preparation("cifar", SHAPE).for_testing(torch.zeros(shape))


def test_refuses_other_names_types_and_generators() -> None:
    with pytest.raises(ValueError, match="augmentation is 'mixup'; choose one of none, standardise, cifar"):
        preparation("mixup", SHAPE)
    with pytest.raises(TypeError, match=r"torch\.int64"):
        preparation("none", SHAPE).for_testing(torch.zeros(2, *SHAPE, dtype=torch.int64))
    elsewhere = types.SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(ValueError, match="generator is one of cuda"):
        preparation("cifar", SHAPE).for_training(some_images(2), elsewhere)
