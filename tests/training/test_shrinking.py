"""The policies of auto-tune on reports made by hand: what each removes, when none does, what is refused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cbkernels as cb
from cbkernels.training.networks.architecture import Architecture
from cbkernels.training.policies import POLICIES, Policy
from cbkernels.training.shrinking import removed_blocks, shrink

LABELS = np.arange(8)
APART = np.eye(8)
"""Every row is a bundle of its own."""
STAGES = [["a0", "a1", "a2"], ["b0", "b1"], [], ["d0", "d1", "d2"]]
BLOCKS = (3, 2, 0, 3)


def acts_with(conflicting_rows: int) -> Any:
    """So many rows are one bundle of as many labels; the others are apart."""
    acts = APART.copy()
    if conflicting_rows:
        acts[:conflicting_rows] = acts[0]
    return acts


def report(rows_of: dict[str, int], stages: list[list[str]] = STAGES) -> cb.LayerReport:
    """A report in which layers have so many rows in conflicting bundles; layers that are not named have none."""
    names = [name for stage in stages for name in stage]
    return cb.LayerReport(cb.bundle_entropy_layers({n: acts_with(rows_of.get(n, 0)) for n in names}, LABELS))


CONFLICTS = {"a1": 8, "b0": 2, "d0": 3, "d2": 8}


@pytest.mark.parametrize(
    ("policy", "removed", "left"),
    [
        ("first", ["a1", "a2"], (1, 2, 0, 3)),
        ("all", ["a1", "b0", "d0", "d2"], (2, 1, 0, 1)),
        ("stage", ["a1"], (2, 2, 0, 3)),
        ("added", ["a1", "a2"], (1, 2, 0, 3)),
        (lambda conflicting, blocks: [conflicting[3][-1], blocks[0][0]], ["a0", "d2"], (2, 2, 0, 2)),
    ],
    ids=["first", "all", "stage", "added", "own"],
)
def test_policies(policy: Any, removed: list[str], left: tuple[int, ...]) -> None:
    reports = report(CONFLICTS)
    assert removed_blocks(reports, STAGES, policy=policy) == removed
    shrunk = shrink(Architecture(BLOCKS), reports, policy=policy, block_names=STAGES)
    assert shrunk == Architecture(left)


def test_all_is_the_default_and_the_policies_are_four() -> None:
    assert sorted(POLICIES) == ["added", "all", "first", "stage"]
    assert removed_blocks(report(CONFLICTS), STAGES) == removed_blocks(report(CONFLICTS), STAGES, policy="all")


@pytest.mark.parametrize(
    ("policy", "removed"), [(policy, ["d1", "d2"]) for policy in ("first", "all", "stage", "added")]
)
def test_conflicts_of_a_later_stage_alone(policy: str, removed: list[str]) -> None:
    assert removed_blocks(report({"d1": 2, "d2": 2}), STAGES, policy=policy) == removed


def test_first_removes_clean_blocks_behind_and_stage_does_not() -> None:
    stages = [["h0", "h1", "h2", "h3", "h4"]]
    reports = report({"h1": 8, "h4": 8}, stages)
    assert removed_blocks(reports, stages, policy="first") == ["h1", "h2", "h3", "h4"]
    assert removed_blocks(reports, stages, policy="stage") == ["h1", "h4"]


# --- the trigger: the last block ------------------------------------------------------------------


def test_only_the_last_block_triggers() -> None:
    assert removed_blocks(report({"d2": 2}), STAGES)
    architecture = Architecture(BLOCKS)
    for policy in POLICIES:
        assert removed_blocks(report({"a0": 8, "d1": 8}), STAGES, policy=policy) == []
        assert shrink(architecture, report({"a0": 8}), policy=policy, block_names=STAGES) == architecture


def test_last_block_is_that_of_the_last_stage_that_has_any() -> None:
    stages = [["a0"], ["b0", "b1"], [], []]
    for policy in POLICIES:
        assert removed_blocks(report({"b1": 2}, stages), stages, policy=policy) == ["b1"]
        assert not removed_blocks(report({"a0": 8, "b0": 8}, stages), stages, policy=policy)
        assert not removed_blocks(report({}, [[], []]), [[], []], policy=policy)


@pytest.mark.parametrize(("least", "is_conflict"), [(1, True), (4, True), (5, False)])
def test_noise_floor(least: int, is_conflict: bool) -> None:
    reports = report({"d0": 3, "d2": 4})
    assert bool(removed_blocks(reports, STAGES, min_conflicting_rows=least)) is is_conflict
    expected = [n for n, rows in (("d0", 3), ("d2", 4)) if rows >= least] if is_conflict else []
    assert removed_blocks(reports, STAGES, min_conflicting_rows=least) == expected
    left = shrink(Architecture(BLOCKS), reports, min_conflicting_rows=least, block_names=STAGES)
    assert left.num_blocks == 8 - len(expected)


def test_bundles_of_one_label_are_no_conflict() -> None:
    reports = cb.bundle_entropy_layers({"hidden.0": np.zeros((8, 2)), "hidden.1": np.zeros((8, 2))}, np.zeros(8, int))
    assert reports["hidden.1"].num_bundles == 1
    assert shrink(Architecture((2,), "fnn"), reports) == Architecture((2,), "fnn")


def test_rows_of_nan_are_no_conflict() -> None:
    reports = cb.bundle_entropy_layers({"hidden.0": np.full((8, 2), np.nan)}, LABELS)
    assert shrink(Architecture((1,), "fnn"), reports) == Architecture((1,), "fnn")


def test_everything_can_go() -> None:
    stages = [["stages.0.0", "stages.0.1"], ["stages.1.0"]]
    reports = report(dict.fromkeys([*stages[0], *stages[1]], 8), stages)
    left = shrink(Architecture((2, 1), "vgg", width_multiplier=0.5), reports)
    assert left == Architecture((0, 0), "vgg", width_multiplier=0.5)
    assert left.num_blocks == 0


def test_names_of_the_packages_own_networks() -> None:
    assert Architecture((2,), "fnn").block_names == [["hidden.0", "hidden.1"]]
    assert Architecture((1, 0, 2), "vgg").block_names == [["stages.0.0"], [], ["stages.2.0", "stages.2.1"]]


def test_policy_of_ones_own_gets_conflicting_and_all_blocks() -> None:
    seen = []

    def keeps_a_note(conflicting: list[list[str]], block_names: Any) -> list[str]:
        seen.append((conflicting, block_names))
        return ["d2", "a0", "d2"]

    assert removed_blocks(report(CONFLICTS), STAGES, policy=keeps_a_note) == ["a0", "d2"]
    assert seen == [([["a1"], ["b0"], [], ["d0", "d2"]], STAGES)]
    assert removed_blocks(report({}), STAGES, policy=keeps_a_note) == []
    assert len(seen) == 1, "a policy is asked only when the last block conflicts"


# --- what a block adds ----------------------------------------------------------------------------

CHAINS = {  # rows in conflicting bundles behind every block, the noise floor -> the first block that is removed
    "nothing conflicts": ([0, 0, 0], 1, None),
    "ties from the first block on": ([3, 3, 3, 3], 1, None),
    "all tied at the input": ([8, 8, 8], 1, None),
    "one block, which conflicts": ([8], 1, None),
    "a block adds": ([0, 0, 2, 2], 1, 2),
    "a block adds to ties of the first": ([3, 3, 5, 5], 1, 2),
    "the last block adds": ([3, 3, 3, 5], 1, 3),
    "the second block adds, and others": ([2, 4, 4, 6, 8], 1, 1),
    "fewer than the noise floor": ([2, 3, 4, 5], 4, None),
    "small steps pass the noise floor together": ([2, 3, 4, 6, 6], 4, 3),
    "on a grid: the last has as many as the first": ([4, 6, 4], 1, None),
    "on a grid: fewer, then more again": ([0, 5, 3, 5], 1, 1),
    "on a grid: below the first, then above it": ([4, 2, 3, 6], 1, 3),
}


@pytest.mark.parametrize("case", CHAINS)
def test_added_judges_a_block_by_the_rows_that_it_adds(case: str) -> None:
    rows, least, first = CHAINS[case]
    names = Architecture((len(rows),), "fnn").block_names
    results = report(dict(zip(names[0], rows, strict=True)), names)
    assert [result.num_conflicting_rows for result in results.values()] == rows
    removed = removed_blocks(results, names, policy="added", min_conflicting_rows=least)
    assert removed == ([] if first is None else names[0][first:])


def test_added_leaves_the_stages_behind_the_first_that_adds() -> None:
    reports = report({"a0": 2, "a1": 2, "a2": 2, "b0": 2, "b1": 3, "d0": 5, "d1": 8, "d2": 8})
    assert removed_blocks(reports, STAGES, policy="added") == ["b1"]
    for policy in ("first", "stage"):
        assert removed_blocks(reports, STAGES, policy=policy) == ["a0", "a1", "a2"], "for ties behind the first block"


@pytest.mark.parametrize("nan", [1, 2, 8])
def test_rows_of_nan_add_nothing(nan: int) -> None:
    acts = [acts_with(4), acts_with(4), acts_with(4)]
    for each in acts[3 - nan :]:
        each[:nan] = np.nan
    reports = cb.bundle_entropy_layers(dict(zip("abc", acts, strict=True)), LABELS)
    assert removed_blocks(reports, [["a", "b", "c"]], policy="added") == []


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), least=st.integers(1, 4))
def test_in_a_plain_chain_conflicting_rows_stay_and_what_is_left_adds_none(seed: int, least: int) -> None:
    """The proof of docs/method.md, on chains of functions of few values, which tie a lot."""
    random = np.random.default_rng(seed)
    acts, behind, stuck = random.integers(0, 9, 12).astype(float), {}, np.zeros(12, bool)
    labels = random.integers(0, 3, 12)
    for block in range(6):
        acts = random.integers(0, 9 - block, 9).astype(float)[acts.astype(int)]
        behind[f"hidden.{block}"] = acts[:, None]
        in_conflict = np.array([len(set(labels[acts == value])) > 1 for value in acts])
        assert in_conflict[stuck].all()
        stuck = in_conflict
    reports = cb.bundle_entropy_layers(behind, labels)
    options: Any = {"policy": "added", "min_conflicting_rows": least}
    left = shrink(Architecture((6,), "fnn"), reports, **options)
    assert left.num_blocks >= 1, "the first block is never to blame"
    assert shrink(left, reports, **options) == left, "the blocks in front are as they were"
    adds = reports["hidden.5"].num_conflicting_rows - reports["hidden.0"].num_conflicting_rows
    assert (left.num_blocks < 6) == (adds >= least)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("last", r"policy is 'last'; choose one of first, all, stage"),
        (lambda conflicting, blocks: [], r"removes \[\]; it must name blocks, at least one"),
        (lambda conflicting, blocks: ["z9"], r"removes \['z9'\]; it must name blocks"),
        (Policy("mine", "does", POLICIES["all"].removes, blames=lambda rows, least: [True]), "'mine' says of 1 blocks"),
    ],
)
def test_refuses_policies_that_would_not_end(policy: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        removed_blocks(report(CONFLICTS), STAGES, policy=policy)


def test_refuses_what_was_not_measured_and_names_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"block 'hidden.1' was not measured; measured are 'hidden.0'"):
        shrink(Architecture((2,), "fnn"), report({}, [["hidden.0"]]))
    with pytest.raises(ValueError, match=r"block_names has \[3, 2, 0, 3\] blocks a stage, the architecture \[3, 2\]"):
        shrink(Architecture((3, 2)), report({}), block_names=STAGES)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"blocks": ()}, r"blocks is \(\)"),
        ({"blocks": (1, -1)}, r"blocks is \(1, -1\)"),
        ({"blocks": (True,)}, r"blocks is \(True,\)"),
        ({"blocks": (1.0,)}, r"blocks is \(1.0,\)"),
        ({"blocks": (1,), "width": 0}, "width is 0"),
        ({"blocks": (1,), "width_multiplier": 0}, "width_multiplier is 0"),
        ({"blocks": (1,), "width_multiplier": float("inf")}, "width_multiplier is inf"),
    ],
)
def test_architectures_out_of_range(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Architecture(**given)


def test_architectures_as_json() -> None:
    architecture = Architecture((3, 4), "vgg", width_multiplier=0.25)
    assert Architecture.from_dict(architecture.to_dict()) == architecture
    assert str(architecture) == "vgg, 3-4 blocks, 0.25 of the width"
    assert Architecture(5) == Architecture((5,))  # type: ignore[arg-type]
    for damaged in ({}, {"blocks": 3}, {"blocks": [3], "colour": 1}):
        with pytest.raises(ValueError, match="is not an architecture"):
            Architecture.from_dict(damaged)


# --- purity and progress --------------------------------------------------------------------------


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    data=st.data(),
    policy=st.sampled_from(sorted(POLICIES)),
    least=st.integers(1, 9),
)
def test_shrink_is_pure_and_lowers_exactly_when_the_last_block_says_so(
    counts: list[int], data: st.DataObject, policy: str, least: int
) -> None:
    architecture = Architecture(tuple(counts), "vgg")
    stages = architecture.block_names
    names = [name for stage in stages for name in stage]
    rows = {name: data.draw(st.sampled_from([0, 2, 5, 8]), label=name) for name in names}
    results = cb.bundle_entropy_layers({n: acts_with(rows[n]) for n in names}, LABELS) if names else {}
    before = copy.deepcopy((architecture, dict(results), stages))
    once = shrink(architecture, results, policy=policy, min_conflicting_rows=least, block_names=stages)
    again = shrink(architecture, results, policy=policy, min_conflicting_rows=least, block_names=stages)
    assert (architecture, dict(results), stages) == before
    assert once == again
    assert all(new <= old for new, old in zip(once.blocks, architecture.blocks, strict=True))
    to_ask = rows[names[-1]] - (rows[names[0]] if policy == "added" else 0) if names else 0
    assert (once.num_blocks < architecture.num_blocks) == (to_ask >= least)
    assert (once.model, once.width, once.width_multiplier) == ("vgg", 10, 1.0)
