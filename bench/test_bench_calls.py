"""One call from Python on a small layer, in the cache: what a training loop pays per layer and step."""

import numpy as np
import torch

import cbkernels as cb

from . import ours, peers, regimes
from .limits import limits
from .race import Contender


def test_call_latency(race):
    case = regimes.build("call", (64, 16384), "distinct")
    tensor, labels = torch.from_numpy(case.acts), torch.from_numpy(case.labels)
    right_entropy = ours.is_entropy(case.ids, case.labels)

    def right_ids(ids):
        assert np.array_equal(np.asarray(ids), case.ids)

    def entropy(label_array, check_nan):
        return lambda acts: cb.bundle_entropy(acts, label_array, check_nan=check_nan)

    contenders = [
        Contender("bundle_rows, NumPy", cb.bundle_rows, right_ids),
        Contender("bundle_rows, torch", cb.bundle_rows, right_ids, acts=tensor),
        Contender("bundle_rows, torch, 2 threads", cb.bundle_rows, right_ids, threads=2, acts=tensor),
        Contender("bundle_rows, torch, data from memory", cb.bundle_rows, right_ids, hot=False, acts=tensor),
    ]
    for name, array, acts in (("NumPy", case.labels, case.acts), ("torch", labels, tensor)):
        for check_nan in (True, False):
            title = "bundle_entropy" + ("" if check_nan else ", check_nan=False") + f", {name}"
            contenders.append(Contender(title, entropy(array, check_nan), right_entropy, acts=acts))
    rounds = {"full": 400, "quick": 100}.get(limits().mode, 5)
    race(case, [*contenders, peers.one_read(case)], rounds=rounds)
