"""The entropies of many layers at once are those of each layer alone, to the last bit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import entropy
from cbkernels.entropy import BundleCounts, entropies_of_counts, entropy_of_counts

from .all_of import all_of
from .inputs import place


def counts_of(seed: int, num_conflicting: int, num_nan_rows: int = 0) -> BundleCounts:
    """Bundles of two to forty labels, each there up to 10^4 times."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, rng.integers(3, 41), size=num_conflicting)
    of_label = rng.integers(1, int(10 ** rng.integers(1, 5)), size=sizes.sum())
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for begin, end in pairwise(starts):
        of_label[begin:end].sort()
    rows = int(of_label.sum())
    return BundleCounts(rows + 7, num_conflicting + 3, num_nan_rows, num_conflicting, rows, of_label, starts)


def hexadecimal(numbers: list[float]) -> list[str]:
    return [number.hex() for number in numbers]


@pytest.mark.parametrize("log_epsilon", [None, 0.0, 1e-5])
def test_layers_together_are_what_each_is_alone(log_epsilon: float | None) -> None:
    with all_of("layers") as case:
        for seed in range(20):
            rng = np.random.default_rng(seed)
            num_conflicting = rng.choice([0, 1, 2, 3, 10, 50, 700], size=rng.integers(1, 40)).tolist()
            nan_rows = (rng.random(len(num_conflicting)) < 0.2).astype(int).tolist()
            layers = [
                counts_of(1000 * seed + i, b, nan)
                for i, (b, nan) in enumerate(zip(num_conflicting, nan_rows, strict=True))
            ]
            with case(f"{seed}: {num_conflicting}"):
                alone = [entropy_of_counts(counts, log_epsilon) for counts in layers]
                assert hexadecimal(entropies_of_counts(layers, log_epsilon)) == hexadecimal(alone)
                backward = entropies_of_counts(layers[::-1], log_epsilon)
                assert hexadecimal(backward) == hexadecimal(alone[::-1]), "whatever lies beside a layer"


@pytest.mark.parametrize("at_once", [1, 2, 7, 64, 1 << 14])
def test_pieces_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    layers = [counts_of(seed, num) for seed, num in enumerate([5, 0, 64, 65, 200, 1, 7])]
    alone = hexadecimal([entropy_of_counts(counts) for counts in layers])
    monkeypatch.setattr(entropy, "_BUNDLES_AT_ONCE", at_once)
    assert hexadecimal(entropies_of_counts(layers)) == alone
    assert hexadecimal([entropy_of_counts(counts) for counts in layers]) == alone


def test_layers_of_a_network_are_what_each_is_alone(backend: str) -> None:
    rng = np.random.default_rng(1)
    layers = {f"layer {i}": rng.integers(0, 2, (60, 1 + i % 9)).astype(np.float32) for i in range(30)}
    layers["layer 3"][5] = np.nan
    labels = rng.integers(0, 4, 60)
    there = {name: place(acts, backend) for name, acts in layers.items()}
    together = cb.bundle_entropy_layers(there, place(labels, backend), backend=backend)
    for name, acts in there.items():
        assert (
            together[name].entropy.hex()
            == cb.bundle_entropy(acts, place(labels, backend), backend=backend).entropy.hex()
        )
