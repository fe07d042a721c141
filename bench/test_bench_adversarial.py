"""Layouts that real layers make and that a sampling method could stumble over."""

import pytest

from . import ours, peers, regimes


@pytest.mark.parametrize("data", regimes.ADVERSARIAL)
@pytest.mark.parametrize("shape", regimes.ADVERSARIAL_SHAPES, ids="{0[0]}x{0[1]}".format)
def test_adversarial(race, shape, data):
    case = regimes.build("adversarial", shape, data)
    contenders = [ours.bundle_rows(case), peers.one_read(case), ours.bundle_rows_on_grid(case)]
    race(case, [*contenders, ours.bundle_rows(case, threads=2), *peers.peers(case)])
