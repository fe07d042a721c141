"""Layers with known bundles, made on the device; what every call must answer for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import cbkernels as cb
from cbkernels import torch_operators

Json = dict[str, Any]
DATA = ("distinct", "50 bundles", "equal", "pairs")
MARGIN_SHAPE = (512, 16384)
GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.73)


@dataclass
class Case:
    """Layers of one network, often a single one, and what is known about them."""

    acts: list[Any]
    ids: Any
    """(N,) on the host: the bundle of every row of every layer."""
    labels: Any
    entry: Json = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.entry["name"])

    @property
    def bytes(self) -> int:
        return sum(a.numel() * a.element_size() for a in self.acts)


def make_case(shape: Sequence[int], data: str, dtype: str, device: str) -> Case:
    """``shape`` is (rows, columns) or (layers, rows, columns)."""
    *several, n, d = shape
    generator = torch.Generator(device).manual_seed(n * 31 + d)
    which = leaders_of(data, n)
    acts = [_layer(which, d, getattr(torch, dtype), generator, device) for _ in range(several[0] if several else 1)]
    ids = first_seen(which)
    name = f"{' x '.join(map(str, [*several, f'({n}, {d})']))} {dtype} {data}"
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 10, n)).to(device)
    entry = {"name": name, "shape": list(shape), "dtype": dtype, "data": data, "bundles": int(ids.max()) + 1,
             "bytes": sum(a.numel() * a.element_size() for a in acts), "calls": {}, "skipped": {}}  # fmt: skip
    return Case(acts, ids, labels, entry)


def leaders_of(data: str, n: int) -> Any:
    """Which leader every row copies."""
    if data == "50 bundles":
        return np.random.default_rng(n).integers(0, 50, n)
    if data == "equal":
        return np.zeros(n, np.int64)
    return np.random.default_rng(n).permutation(n) // 2 if data == "pairs" else np.arange(n)


def _layer(which: Any, d: int, dtype: Any, generator: Any, device: str) -> Any:
    # every leader begins with another number, exact in bfloat16 too (7 bits a column)
    leaders = torch.randn(int(which.max()) + 1, d, generator=generator, device=device, dtype=torch.float32)
    number = torch.arange(len(leaders), device=device)
    for column in range(min(3, d)):
        leaders[:, column] = (number >> (7 * column)) % 128 + 1
    leaders = leaders.to(dtype)
    if len(leaders) == len(which):
        return leaders
    return leaders[torch.from_numpy(which).to(device)]


def first_seen(which: Any) -> Any:
    """Numbers that count upward in the order of first appearance."""
    _, first, inverse = np.unique(which, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.ravel()]


def entropy_of(ids: Any, labels: Any) -> float:
    """H(label | bundle) in nats, by NumPy."""
    cells, count = np.unique(ids * 1000 + labels, return_counts=True)
    in_bundle = np.bincount(cells // 1000, weights=count)[cells // 1000]
    return math.fsum(count * np.log(in_bundle / count)) / len(ids)


# --- what must come out -----------------------------------------------------------------------------------


def check_ids(case: Case) -> Callable[[Any], None]:
    def check(ids: Any) -> None:
        assert np.array_equal(ids.cpu().numpy(), case.ids), f"wrong bundles on {case.name}"

    return check


def check_grid(case: Case) -> Callable[[Any], None]:
    """Against the CPU on a few rows, and no bundle torn apart on all."""

    def check(ids: Any) -> None:
        few = case.acts[0][:256]
        assert cb.bundle_rows(few, grid=GRID).tolist() == cb.bundle_rows(few.cpu(), grid=GRID).tolist(), case.name
        pairs = np.unique(np.stack([case.ids, ids.cpu().numpy()]), axis=1)
        assert pairs.shape[1] == case.entry["bundles"], f"the grid tears bundles apart on {case.name}"

    return check


def check_entropy(case: Case) -> Callable[[Any], None]:
    expected = entropy_of(case.ids, case.labels.cpu().numpy())

    def check(result: Any) -> None:
        assert result.num_bundles == case.entry["bundles"], f"{result}, expected {case.entry['bundles']} bundles"
        assert abs(result.entropy - expected) < 1e-9, f"{result}, expected {expected}"

    return check


def check_layers(case: Case) -> Callable[[Any], None]:
    one = check_entropy(case)

    def check(results: Any) -> None:
        assert len(results) == len(case.acts)
        for result in results.values():
            one(result)

    return check


def check_counts(case: Case) -> Callable[[Any], None]:
    def check(counts: Any) -> None:
        assert [c.num_bundles for c in counts] == [case.entry["bundles"]] * len(case.acts), f"wrong on {case.name}"

    return check


def check_update(case: Case) -> Callable[[Any], None]:
    one = check_entropy(case)
    return lambda metric: one(metric.compute())


def check_fingerprints(case: Case) -> Callable[[Any], None]:
    def check(result: Any) -> None:
        found, holds_nan = (part.cpu().numpy() for part in result)
        few = torch_operators.row_fingerprints(case.acts[0][:64].cpu())[0].numpy()
        assert np.array_equal(found[:64], few), f"fingerprints differ from the CPU's on {case.name}"
        assert not holds_nan.any()
        assert len(np.unique(found, axis=0)) == case.entry["bundles"], case.name

    return check


def check_margin(case: Case) -> Callable[[Any], None]:
    """Against the CPU, where it costs little; conflicts make it zero."""
    labels = case.labels.cpu().numpy()
    conflicts = any(len(set(labels[case.ids == b])) > 1 for b in range(case.entry["bundles"]))

    def check(margin: float) -> None:
        assert (margin == 0.0) == conflicts, (margin, case.name)
        few = case.acts[0][:48]
        assert cb.conflict_margin(few, case.labels[:48]) == cb.conflict_margin(few.cpu(), case.labels[:48].cpu())

    return check
