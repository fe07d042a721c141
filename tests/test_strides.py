"""Zero, negative and larger steps on every axis, axes in any order, aligned and packed, of every type."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import cbkernels as cb

STEPS = [
    steps for steps in itertools.product((1, -1, -2, 0), repeat=3) if sum(step < 1 for step in steps) > 1
]  # fmt: skip
"""Of the three axes; 0: one place is repeated."""


@pytest.mark.parametrize("is_packed", [False, True], ids=["aligned", "packed"])
@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"])
def test_steps_of_every_kind_on_every_axis(dtype: str, is_packed: bool) -> None:
    values = np.random.default_rng(0).integers(0, 2, (9, 7, 6)).astype(dtype)
    if is_packed:  # fields at odd addresses
        records = np.zeros(values.shape, [("flag", "u1"), ("value", dtype)])
        records["value"] = values
        values = records["value"]
    wrong = []
    for steps, axes in itertools.product(STEPS, [(0, 1, 2), (1, 0, 2), (2, 1, 0)]):
        view = values[tuple(slice(None, None, step) if step else slice(0, 1) for step in steps)]
        shape = tuple(5 if step == 0 else extent for step, extent in zip(steps, view.shape, strict=True))
        acts = np.broadcast_to(view, shape).transpose(axes)
        if cb.bundle_rows(acts).tolist() != cb.bundle_rows(acts.copy("C"), backend="reference").tolist():
            wrong.append((steps, axes))
    assert not wrong
