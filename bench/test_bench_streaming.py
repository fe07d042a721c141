"""BundleEntropy: rows per second into `update`, and `compute` at the end."""

import pytest

import cbkernels as cb

from . import ours, peers, regimes
from .race import Contender

BATCH_ROWS = {(50000, 512): 500, (2048, 4096): 256, (512, 16384): 64}


@pytest.mark.parametrize("data", ["distinct", "50 bundles"])
@pytest.mark.parametrize("shape", list(BATCH_ROWS), ids="{0[0]}x{0[1]}".format)
def test_streaming(race, shape, data):
    case = regimes.build("streaming", shape, data)
    batch = BATCH_ROWS[shape]
    right = ours.is_entropy(case.ids, case.labels)

    def update(acts):
        metric = cb.BundleEntropy()
        for a in range(0, len(acts), batch):
            metric.update(acts[a : a + batch], case.labels[a : a + batch][: len(acts) - a])
        return metric

    def check(metric):
        right(metric.compute())

    filled = update(case.acts)
    race(case, [
        Contender("BundleEntropy.update, all rows", update, check),
        Contender("BundleEntropy.update, all rows, 2 threads", update, check, threads=2),
        Contender("BundleEntropy.compute", lambda acts: filled.compute(), right, hot=True),
        peers.one_read(case),
        *[peer for peer in peers.peers(case) if peer.name == "xxh3 + dict"],
    ])  # fmt: skip
