"""conflict_margin against the full pairwise distance, torch.cdist(p=inf)."""

import dataclasses

import numpy as np
import pytest
import torch

import cbkernels as cb

from . import peers, regimes
from .race import Contender

SHAPE = (512, 16384)


def spread(rng, acts):
    rng.standard_normal(out=acts, dtype=np.float32)


def rectified(rng, acts):
    rng.standard_normal(out=acts, dtype=np.float32)
    np.maximum(acts - 1.28, 0, out=acts)


def collapsed(rng, acts):
    """All rows within a thousandth of each other: nothing to give up early on."""
    leader = rng.standard_normal(acts.shape[1], dtype=np.float32)
    rng.random(out=acts, dtype=np.float32)
    acts *= np.float32(1e-3)
    acts += leader


def distances(acts):
    return torch.cdist(torch.from_numpy(acts), torch.from_numpy(acts), p=float("inf"))


def margin_of(case, float32_distances):
    """Exact: the pairs that float32 puts near the minimum, once more in float64."""
    d = float32_distances.numpy().copy()
    d[case.labels[:, None] == case.labels[None, :]] = np.inf
    near = np.argwhere(d <= d.min() * (1 + 1e-5))
    rows = case.acts.astype(np.float64)
    return min(float(np.abs(rows[i] - rows[j]).max()) for i, j in near)


@pytest.mark.parametrize("fill", [spread, rectified, collapsed], ids=lambda f: f.__name__)
def test_conflict_margin(race, fill):
    case = regimes.build("margin", SHAPE, "equal")
    fill(np.random.default_rng(11), case.acts)
    name = f"{SHAPE[0]}x{SHAPE[1]} {fill.__name__}"
    case = dataclasses.replace(case, name=name, data=fill.__name__, ids=np.arange(len(case.acts)))
    expected = margin_of(case, distances(case.acts))

    def run(acts):
        return cb.conflict_margin(acts, case.labels[: len(acts)])

    def check(margin):
        assert margin == expected, f"{margin}, expected {expected}"

    def check_peer(d):
        assert margin_of(case, d) == expected

    race(case, [
        Contender("conflict_margin", run, check),
        Contender("conflict_margin, 2 threads", run, check, threads=2),
        peers.one_read(case),
        Contender("torch.cdist", distances, check_peer, is_peer=True, estimate_s=3),
    ])  # fmt: skip
