"""Other strides, read in place, and other types; peers that need contiguous rows pay for their copy."""

import pytest

from . import ours, peers, regimes

SHAPE = (512, 16384)


@pytest.mark.parametrize("data", regimes.DATA)
@pytest.mark.parametrize("layout", regimes.STRIDED)
@pytest.mark.parametrize("shape", regimes.STRIDED_SHAPES, ids="{0[0]}x{0[1]}".format)
def test_strided(race, shape, layout, data):
    case = regimes.build("strided", shape, data, layout=layout)
    race(case, [ours.bundle_rows(case), peers.one_read(case), ours.bundle_rows_on_grid(case), *peers.peers(case)])


@pytest.mark.parametrize("data", regimes.DATA)
@pytest.mark.parametrize("dtype", regimes.DTYPES)
def test_dtype(race, dtype, data):
    case = regimes.build("dtype", SHAPE, data, dtype=dtype)
    race(case, [ours.bundle_rows(case), peers.one_read(case), ours.bundle_rows_on_grid(case), *peers.peers(case)])
