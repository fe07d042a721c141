"""Keys of streams: random where nobody says otherwise, kept with the rows, and one for all rows that meet."""

from __future__ import annotations

import copy
import os
import pickle
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import backends, stream_keys, tallies
from cbkernels.held_rows import HeldRows

from .all_of import all_of
from .chosen_rows import forged

OTHER = 3 << 80
ACTS, LABELS = np.arange(12, dtype=np.float32).reshape(6, 2) // 5, np.arange(6) % 2


def stream(acts: np.ndarray = ACTS, labels: np.ndarray = LABELS, **options: Any) -> cb.BundleEntropy:
    metric = cb.BundleEntropy(**options)
    metric.update(acts, labels)
    return metric


def test_a_process_draws_one_key_and_another_process_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_keys, "_key_of_this_process", stream_keys._drawn)
    first, second = stream(), stream()
    assert first.key != second.key
    assert stream_keys.FIXED_KEY not in (first.key, second.key)
    monkeypatch.undo()
    assert stream().key == stream().key == cb.BundleEntropy().key
    first.reset()
    first.update(ACTS, LABELS)
    assert first.key == stream().key, "a metric begins anew with the key of its process"


def test_threads_that_ask_for_it_first_at_once_have_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kept the key that it had drawn: their metrics could not be merged."""
    both_draw, draw = threading.Barrier(2, timeout=60), os.urandom

    def slowly(count: int) -> bytes:
        both_draw.wait()
        return draw(count)

    monkeypatch.setattr(stream_keys, "_of_this_process", {}, raising=False)
    monkeypatch.setattr(os, "urandom", slowly)
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: stream(), range(2))
    assert one.key == two.key


@pytest.mark.parametrize(
    ("key", "number"),
    [(0, 0), (np.int64(7), 7), (2**128 - 1, 2**128 - 1), (bytes(15) + b"\x09", 9), (b"\x01" + bytes(15), 1 << 120)],
)
def test_a_key_that_was_given(key: Any, number: int) -> None:
    metric = stream(key=key)
    assert metric.key == number
    metric.reset()
    assert metric.key == number
    right = stream(key=number)
    assert metric.num_rows == 0
    metric.merge(right)
    assert metric.state_dict()["fingerprints"].tolist() == right.state_dict()["fingerprints"].tolist()


@pytest.mark.parametrize(
    ("key", "error", "message"),
    [
        (-1, ValueError, "key is -1; pass 16 bytes, or an integer from 0 to 2**128 - 1"),
        (2**128, ValueError, f"key is {2**128}; pass 16 bytes, or an integer from 0 to 2**128 - 1"),
        (b"short", ValueError, "key has 5 bytes; pass 16, or an integer from 0 to 2**128 - 1"),
        ("secret", TypeError, "key is a str; pass 16 bytes, an integer from 0 to 2**128 - 1, or None"),
        (True, TypeError, "key is a bool; pass 16 bytes, an integer from 0 to 2**128 - 1, or None"),
        (1.0, TypeError, "key is a float; pass 16 bytes, an integer from 0 to 2**128 - 1, or None"),
    ],
)
def test_what_is_no_key(key: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        cb.BundleEntropy(key=key)


def test_states_copies_and_pickles_go_on_with_their_key() -> None:
    acts = forged()
    metric = stream(acts[:50], np.arange(50), key=OTHER)
    resumed = cb.BundleEntropy()
    resumed.load_state_dict(metric.state_dict())
    with all_of("twins") as twin_is:
        for name, twin in {
            "state": resumed, "pickle": pickle.loads(pickle.dumps(metric)), "copy": copy.deepcopy(metric),
        }.items():  # fmt: skip
            with twin_is(name):
                assert twin.key == OTHER
                twin.update(acts, np.arange(100))
                assert (twin.num_rows, twin.compute().num_bundles) == (150, 100)
                twin.merge(metric)
                assert twin.compute().num_bundles == 100
    assert f"{OTHER:032x}" == metric.state_dict()["key"]


def test_an_empty_metric_that_is_sent_away_takes_its_key_along(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.dumps(cb.BundleEntropy()), cb.BundleEntropy().state_dict()
    monkeypatch.setattr(stream_keys, "_key_of_this_process", lambda: OTHER)  # in a worker process
    there = pickle.loads(sent[0])
    there.update(ACTS, LABELS)
    loaded = cb.BundleEntropy()
    loaded.load_state_dict(sent[1])
    loaded.update(ACTS, LABELS)
    monkeypatch.undo()
    total = stream()
    total.merge(there)
    total.merge(loaded)
    assert total.num_rows == 18


def test_rows_under_two_keys_never_meet() -> None:
    fixed, other = stream(key=stream_keys.FIXED_KEY), stream(key=OTHER)
    states = {metric.key: metric.state_dict() for metric in (fixed, other)}
    said = "was made under another key than {} of this metric; pass the same key= to all metrics whose rows meet"
    with pytest.raises(ValueError, match="^other " + re.escape(said.format("the 6 rows"))):
        fixed.merge(other)
    with pytest.raises(ValueError, match="^the state " + re.escape(said.format("the 6 rows"))):
        fixed.load_state_dict(states[OTHER])
    assert fixed.state_dict()["fingerprints"].tolist() == states[fixed.key]["fingerprints"].tolist()
    assert (fixed.key, fixed.num_rows) == (stream_keys.FIXED_KEY, 6)
    empty = cb.BundleEntropy(key=OTHER)
    for call in (lambda: empty.merge(fixed), lambda: empty.load_state_dict(states[fixed.key])):
        with pytest.raises(ValueError, match=re.escape(said.format("the key="))):
            call()
    assert empty.num_rows == 0
    anew = cb.BundleEntropy()  # without rows and without key= it takes what comes
    assert anew.key not in states
    anew.merge(other)
    assert anew.key == OTHER
    fixed.merge(cb.BundleEntropy(key=OTHER))  # which has no rows


def test_a_key_is_not_told_by_an_error() -> None:
    with pytest.raises(ValueError, match="another key") as raised:
        stream(key=OTHER).merge(stream())
    assert str(OTHER) not in str(raised.value)
    assert f"{OTHER:x}" not in str(raised.value)


OLDER = "and this version reads 3, in which the same rows have other fingerprints; stream the rows again, or go on with"


@pytest.mark.parametrize("number", [1, 2])
def test_states_of_older_fingerprints_are_refused(number: int) -> None:
    state = {**stream(key=stream_keys.FIXED_KEY).state_dict(), "format": number}
    if number == 1:
        del state["key"]  # there were none
    metric = stream()
    with pytest.raises(ValueError, match=f"^the state has format {number} {re.escape(OLDER)}"):
        metric.load_state_dict(state)
    assert metric.num_rows == 6, "unchanged"


def test_pickles_of_older_fingerprints_are_refused() -> None:
    held = stream().held
    state = held.__getstate__()
    del state["format"]  # they did not say
    with pytest.raises(ValueError, match=f"^the pickle has format None {re.escape(OLDER)}"):
        HeldRows.__new__(HeldRows).__setstate__(state)
    again = pickle.loads(pickle.dumps(held))
    assert vars(again).keys() == vars(held).keys()
    assert (again.key, again.num_rows) == (held.key, 6)


@pytest.mark.parametrize("key", ["", "5", "0" * 31 + "G", "F" * 32, 5, None, b"0" * 32])
def test_a_state_with_a_damaged_key(key: Any) -> None:
    metric = stream()
    with pytest.raises(ValueError, match=re.escape(f"the key is {key!r}; it must be 32 hexadecimal digits")):
        metric.load_state_dict({**metric.state_dict(), "key": key})


# --- ranks ------------------------------------------------------------------------------------------------


class Store:
    """What the processes of ``torch.distributed`` have in common."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}

    def compare_set(self, name: str, expected: str, desired: str) -> bytes:
        if self.held.get(name, "") == expected:
            self.held[name] = desired
        return self.held[name].encode()


class Group:
    """A process group; it can be referred to weakly."""


def as_joined_process(monkeypatch: pytest.MonkeyPatch, store: Any, own: int) -> None:
    """What comes is as in a process whose own key is this one."""
    monkeypatch.setattr(stream_keys, "_agreed", None)
    monkeypatch.setattr(stream_keys, "_key_of_this_process", lambda: own)
    distributed = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, group=SimpleNamespace(WORLD=Group()),
        distributed_c10d=SimpleNamespace(_get_default_store=lambda: store),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch.distributed", distributed)


def test_rows_that_could_not_be_added_choose_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes may be joined after them: then the key is that of all."""

    def no_memory(*_: object) -> None:
        raise MemoryError

    metric = cb.BundleEntropy()
    with monkeypatch.context() as patched:
        patched.setattr(backends.TABLE["cpu"], "row_fingerprints", no_memory)
        with pytest.raises(MemoryError):
            metric.update(np.zeros((2, 3)), np.array([0, 1]))
    as_joined_process(monkeypatch, Store(), 66)
    metric.update(np.zeros((2, 3)), np.array([0, 1]))
    assert metric.key == 66


def test_joined_processes_have_the_key_of_the_first_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    for own in (11, 22, 33):
        as_joined_process(monkeypatch, store, own)
        assert stream().key == 11
        assert stream(key=5).key == 5
    as_joined_process(monkeypatch, Store(), 44)  # another group
    assert stream().key == 44
    as_joined_process(monkeypatch, None, 55)  # a group whose store cannot be asked
    assert stream().key == 55


def test_ranks_with_rows_under_different_keys() -> None:
    offers = [tallies._offer({"fc": metric}, None) for metric in (cb.BundleEntropy(), stream(key=1), stream(key=2))]
    with pytest.raises(ValueError, match=re.escape(
        "rank 2 and rank 1 have rows under different keys in layer 'fc'; call init_process_group() before the first "
        "update(), or pass the same key= to BundleEntropy on all ranks"
    )):  # fmt: skip
        tallies.agreed_layers(offers)
    assert tallies.agreed_layers(offers[:2])["fc"].key == 1
