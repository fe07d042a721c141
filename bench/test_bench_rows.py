"""The regimes of the speed table: grouping and entropy against the four peers and one read."""

from itertools import product

import pytest

from . import ours, peers, regimes

CASES = [*product(regimes.SHAPES, regimes.DATA), *product(regimes.SHORT_SHAPES, regimes.MANY_BUNDLES)]


@pytest.mark.parametrize(("shape", "data"), CASES, ids=lambda x: x if isinstance(x, str) else f"{x[0]}x{x[1]}")
def test_rows(race, shape, data):
    case = regimes.build("regime", shape, data)
    race(case, [
        ours.bundle_rows(case),
        peers.one_read(case),
        ours.bundle_rows_on_grid(case),
        ours.bundle_rows(case, threads=2),
        peers.one_read(case, threads=2),
        *([] if case.hot else [ours.bundle_rows(case, hot=True)]),
        ours.bundle_entropy(case, check_nan=True),
        ours.bundle_entropy(case, check_nan=False),
        *peers.peers(case),
    ])  # fmt: skip


@pytest.mark.parametrize("shape", regimes.SHAPES, ids="{0[0]}x{0[1]}".format)
def test_yardstick(race, shape):
    case = regimes.build("yardstick", shape, "50 bundles")
    race(case, [peers.one_read(case), *peers.other_reads(case)])
