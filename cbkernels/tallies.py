"""What every rank does for a result over the rows of all: the result of one process, bit for bit. Needs NumPy only.

Every rank adds up its rows to (fingerprint, label, number of rows) and sends each of these tallies to
the rank that owns its fingerprint, so that none holds all. What comes back are integers and exact
partial sums. Words and arithmetic: ``docs/distributed.md``; over torch: ``distributed.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from ._version import __version__
from .bundle import bundle_rows
from .entropy import BundleCounts, entropy_of_parts, exact_parts
from .grid import UpdateGrid
from .held_rows import HeldRows
from .result import BundleResult, result_of
from .row_store import Fingerprints, RowStore

Tallies = npt.NDArray[np.int64]
"""(n, 4): the two halves of a fingerprint, a label, and how many rows have both."""

T = TypeVar("T")

ROWS_AT_ONCE = 1 << 22
"""Rows of a rank that travel in one exchange, 128 MiB at most; a larger layer travels in several."""


@runtime_checkable
class Stream(Protocol):
    """What is asked of a ``BundleEntropy``."""

    held: HeldRows
    grid: UpdateGrid | None
    log_epsilon: float | None


class Ranks(Protocol):
    """Processes that call the same functions in the same order."""

    index: int
    count: int

    def gather(self, answer: object) -> list[Any]:
        """The answers of all ranks, in their order, on every rank."""

    def exchange(self, tallies: Tallies, outgoing: list[int], incoming: list[int]) -> Tallies:
        """Send the first ``outgoing[0]`` tallies to rank 0 and so on; ``incoming[r]`` come from rank r, in order."""


class Layer(NamedTuple):
    """What a rank says of its metric before any rows travel."""

    num_rows: int
    dtype: str | None
    num_columns: int
    grid: UpdateGrid | None
    log_epsilon: float | None
    device: str
    backend: str
    key: int | None


class Offer(NamedTuple):
    """What a rank says of all its metrics."""

    version: str
    layers: dict[str, Layer]
    alike: Mapping[str, object] = MappingProxyType({})
    """What else must be the same on all ranks, in words -> its value."""


class Part(NamedTuple):
    """Tallies of a layer whose fingerprints are in one of ``num_shares`` shares of what each rank owns."""

    layer: str
    share: int
    num_shares: int


@dataclass
class Found:
    """What one rank has counted of one layer; those of all ranks are added up."""

    num_rows: int
    num_nan_rows: int = 0
    num_bundles: int = 0
    num_conflicting: int = 0
    num_conflicting_rows: int = 0
    parts: list[float] = field(default_factory=list)

    def take(self, counts: BundleCounts, log_epsilon: float | None) -> None:
        """Add bundles that no other rank has."""
        self.num_bundles += counts.num_bundles
        self.num_conflicting += counts.num_conflicting
        self.num_conflicting_rows += counts.num_conflicting_rows
        self.parts += exact_parts(counts, log_epsilon)


_COUNTED = [each.name for each in fields(Found) if each.name != "parts"]


def compute(
    metrics: Mapping[str, Stream], ranks: Ranks, error: str | None, alike: Mapping[str, object] = MappingProxyType({})
) -> dict[str, BundleResult]:
    """``compute_across_ranks`` over any ranks."""
    offers = _from_all(ranks, lambda: _offer(metrics, error)._replace(alike=dict(alike)))
    layers = agreed_layers(offers)
    rows_of = {name: max(offer.layers[name].num_rows for offer in offers if name in offer.layers) for name in layers}
    work = _Work(metrics, layers, ranks)
    for step in steps_of(rows_of, ROWS_AT_ONCE):
        sizes = _from_all(ranks, partial(work.prepare, step))
        work.exchange(step, sizes)
    return _results(layers, _from_all(ranks, work.finish))


def _from_all(ranks: Ranks, make: Callable[[], T]) -> list[T]:
    """What ``make`` returns on every rank; when it fails on one, all raise and none waits for it."""
    value: T | None = None
    failure: Exception | None = None
    try:
        value = make()
    except Exception as caught:
        failure = caught
    answers = ranks.gather((None if failure is None else _sentence(failure), value))
    for rank, (sentence, _) in enumerate(answers):
        if sentence is not None:
            raise ValueError(f"rank {rank} failed: {sentence}") from failure
    return [answer for _, answer in answers]


def _sentence(error: Exception) -> str:
    said = " ".join(str(error).split())
    if said and isinstance(error, (ValueError, TypeError)):
        return said
    return ": ".join(filter(None, [type(error).__name__, said]))


def _offer(metrics: Mapping[str, Stream], error: str | None) -> Offer:
    if error is not None:
        raise ValueError(error)
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics is a {type(metrics).__name__}; pass a dict of name -> BundleEntropy")
    layers = {}
    for name, metric in metrics.items():
        if not isinstance(metric, Stream):
            raise TypeError(f"metrics[{name!r}] is a {type(metric).__name__}; pass a BundleEntropy")
        held = metric.held
        layers[name] = Layer(
            held.num_rows, held.dtype, held.num_columns, metric.grid, metric.log_epsilon, held.device, held.backend,
            held.key if held.num_rows else None,
        )  # fmt: skip
    return Offer(__version__, layers)


def agreed_layers(offers: list[Offer]) -> dict[str, Layer]:
    """The layers as the lowest rank that has rows of them offers them.

    Raises:
        ValueError: ranks disagree about layers, types, widths or options, or no rank has rows of one.
    """
    first = next((rank for rank, offer in enumerate(offers) if offer.layers), 0)
    for rank, (version, layers, alike) in enumerate(offers):
        if version != offers[0].version:
            raise ValueError(
                f"rank {rank} runs cbkernels {version} and rank 0 {offers[0].version}; install one version"
            )
        if differs := next((what for what, value in alike.items() if value != offers[0].alike.get(what)), None):
            raise ValueError(
                f"rank {rank} has {differs} {alike[differs]!r} and rank 0 {offers[0].alike.get(differs)!r}; "
                "all ranks must measure the same network in the same way"
            )
        if layers and (different := sorted(set(layers) ^ set(offers[first].layers))):
            raise ValueError(
                f"rank {rank} and rank {first} differ in layers {different[:5]}; all ranks must measure the same ones"
            )
    return {
        name: _agreed(name, {rank: offer.layers[name] for rank, offer in enumerate(offers) if offer.layers})
        for name in offers[first].layers
    }


def _agreed(name: str, offered: dict[int, Layer]) -> Layer:
    of_layer = f" in layer {name!r}" if name else ""
    with_rows = {rank: layer for rank, layer in offered.items() if layer.num_rows}
    for attribute in ("grid", "log_epsilon", "dtype", "num_columns"):
        concerned = with_rows if attribute in ("dtype", "num_columns") else offered
        values = {rank: getattr(layer, attribute) for rank, layer in concerned.items()}
        for rank, value in values.items():
            lowest = next(iter(values))
            if value != values[lowest]:
                raise ValueError(
                    f"rank {rank} has {attribute} {value} and rank {lowest} {values[lowest]}{of_layer}; they must agree"
                )
    for rank, layer in with_rows.items():
        lowest = next(iter(with_rows))
        if layer.key != with_rows[lowest].key:
            raise ValueError(
                f"rank {rank} and rank {lowest} have rows under different keys{of_layer}; call init_process_group() "
                "before the first update(), or pass the same key= to BundleEntropy on all ranks"
            )
    if not with_rows:
        raise ValueError(f"no rank has rows{of_layer} yet: call update() on at least one before computing")
    return next(iter(with_rows.values()))


def steps_of(rows_of: Mapping[str, int], rows_at_once: int) -> Iterator[list[Part]]:
    """Which parts of which layers travel together; ``rows_of``: layer -> the most rows that one rank has of it."""
    together: list[Part] = []
    num_rows = 0
    for layer, rows in rows_of.items():
        num_shares = max(1, -(-rows // rows_at_once))
        if together and num_rows + rows > rows_at_once:
            yield together
            together, num_rows = [], 0
        if num_shares == 1:
            together.append(Part(layer, 0, 1))
            num_rows += rows
        else:
            yield from ([Part(layer, share, num_shares)] for share in range(num_shares))
    if together:
        yield together


class _Work:
    """One rank's way through the steps; holds the tallies of one step at a time."""

    def __init__(self, metrics: Mapping[str, Stream], layers: Mapping[str, Layer], ranks: Ranks) -> None:
        self._metrics = metrics
        self._layers = layers
        self._ranks = ranks
        self._found = {name: Found(metrics[name].held.num_rows if name in metrics else 0) for name in layers}
        self._outgoing: list[list[Tallies]] = []
        self._arrived: list[tuple[str, list[Tallies]]] = []

    def prepare(self, step: list[Part]) -> list[list[int]]:
        """Count what arrived in the step before; how many tallies go to each rank, for each part of this step."""
        self._count()
        self._outgoing = [self._tallies_of(part) for part in step]
        return [[len(tallies) for tallies in to_rank] for to_rank in self._outgoing]

    def exchange(self, step: list[Part], sizes: list[list[list[int]]]) -> None:
        """Send each rank its tallies of all parts; ``sizes[rank][part][to]`` is what ``prepare`` told."""
        here, ranks = self._ranks.index, range(self._ranks.count)
        tallies = np.concatenate([to_rank[r] for r in ranks for to_rank in self._outgoing])
        self._outgoing = []
        outgoing = [sum(to[r] for to in sizes[here]) for r in ranks]
        incoming = [sum(to[here] for to in sizes[r]) for r in ranks]
        arrived = self._ranks.exchange(tallies, outgoing, incoming)
        lengths = [to[here] for r in ranks for to in sizes[r]]
        pieces = np.split(arrived, np.cumsum(lengths)[:-1])
        self._arrived = [(part.layer, pieces[i :: len(step)]) for i, part in enumerate(step)]

    def finish(self) -> dict[str, Found]:
        """Count what arrived last; what this rank has found in all."""
        self._count()
        return self._found

    def _tallies_of(self, part: Part) -> list[Tallies]:
        store, num_nan_rows = RowStore(), 0
        if part.layer in self._metrics:
            store, num_nan_rows = self._metrics[part.layer].held.on_host()
        self._found[part.layer].num_nan_rows = num_nan_rows
        return tallies_by_rank(store, self._ranks.count, part.share, part.num_shares)

    def _count(self) -> None:
        for name, pieces in self._arrived:
            counts = counts_of(added_up(np.concatenate(pieces)))
            self._found[name].take(counts, self._layers[name].log_epsilon)
        self._arrived = []


def _results(layers: Mapping[str, Layer], found: list[dict[str, Found]]) -> dict[str, BundleResult]:
    results = {}
    for name, layer in layers.items():
        of_ranks = [of_layer[name] for of_layer in found]
        total = {n: sum(getattr(f, n) for f in of_ranks) for n in _COUNTED}
        total["num_bundles"] += total["num_nan_rows"]
        counts = BundleCounts(**total, label_counts=np.empty(0, np.int64), starts=np.empty(0, np.int64))
        entropy = entropy_of_parts([x for f in of_ranks for x in f.parts], counts.num_rows, counts.num_nan_rows)
        results[name] = result_of(
            entropy, counts, layer.num_columns, str(layer.dtype), layer.device, layer.backend, layer.grid,
            layer.log_epsilon, exact=False,
        )  # fmt: skip
    return results


def slots_of(fingerprints: Fingerprints, num_slots: int) -> npt.NDArray[np.uint64]:
    """(n,) which of ``num_slots`` equal parts of all fingerprints, fewer than 2**32, each belongs to."""
    slots: npt.NDArray[np.uint64] = (fingerprints[:, 0] >> np.uint64(32)) * np.uint64(num_slots) >> np.uint64(32)
    return slots


def tallies_by_rank(store: RowStore, num_ranks: int, share: int, num_shares: int) -> list[Tallies]:
    """What each rank gets of one share of the rows."""
    pieces, num_rows = [np.empty((0, 4), np.int64)], 0
    for fingerprints, labels in store.blocks():
        chosen = slots_of(fingerprints, num_ranks * num_shares) % np.uint64(num_shares) == share
        piece = np.ones((int(chosen.sum()), 4), np.int64)
        piece[:, :2] = fingerprints[chosen].view(np.int64)
        piece[:, 2] = labels[chosen]
        pieces.append(added_up(piece))
        num_rows += len(piece)
    tallies = np.concatenate(pieces)
    if len(tallies) <= num_rows / 2:  # rows that differ within a block mostly differ from those of other blocks
        tallies = added_up(tallies)
    owners = slots_of(tallies[:, :2].view(np.uint64), num_ranks)
    order = np.argsort(owners.astype(np.min_scalar_type(num_ranks)), kind="stable")
    ends = np.cumsum(np.bincount(owners.astype(np.int64), minlength=num_ranks))
    return np.split(np.take(tallies, order, axis=0), ends[:-1])  # take: 20 ns a row, tallies[order] 185


def added_up(tallies: Tallies) -> Tallies:
    """One tally for each fingerprint and label."""
    if not len(tallies):
        return tallies
    ids = bundle_rows(tallies[:, :3], backend="cpu")
    if ids.max() == len(ids) - 1:
        return tallies
    is_first = np.diff(np.maximum.accumulate(ids), prepend=-1) > 0
    sums = tallies[is_first]
    sums[:, 3] = 0
    np.add.at(sums[:, 3], ids, tallies[:, 3])
    return sums


def counts_of(tallies: Tallies) -> BundleCounts:
    """Count labels per bundle; every fingerprint and label comes once."""
    num_rows = int(tallies[:, 3].sum())
    ids = bundle_rows(tallies[:, :2], backend="cpu") if len(tallies) else np.empty(0, np.int64)
    num_labels = np.bincount(ids)
    conflicts = num_labels > 1
    kept = conflicts[ids]
    label_counts = tallies[kept, 3]
    ascending = np.lexsort((label_counts, ids[kept]))
    return BundleCounts(
        num_rows=num_rows, num_bundles=len(num_labels), num_nan_rows=0, num_conflicting=int(conflicts.sum()),
        num_conflicting_rows=int(label_counts.sum()), label_counts=label_counts[ascending],
        starts=np.concatenate([[0], np.cumsum(num_labels[conflicts])]),
    )  # fmt: skip
