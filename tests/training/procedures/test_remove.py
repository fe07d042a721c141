"""Blocks of a trained residual network: what their branches are worth, which go, what is left, and resuming."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="removal: NOT TESTED HERE (no torch)")
pytest.importorskip("safetensors", reason="removal: NOT TESTED HERE (no safetensors)")

from cbkernels import UpdateGrid, remove_layers  # noqa: E402
from cbkernels.command_line import main  # noqa: E402
from cbkernels.models.branches import measure_blocks, without_branches  # noqa: E402
from cbkernels.models.probe import as_probe  # noqa: E402
from cbkernels.runs import folder as folder_module  # noqa: E402
from cbkernels.runs.folder import RunFolder  # noqa: E402
from cbkernels.surgery.plan import removable_blocks  # noqa: E402
from cbkernels.surgery.pruning import progress as progress_module  # noqa: E402
from cbkernels.surgery.pruning.block_rankings import RANKINGS, ranked  # noqa: E402
from cbkernels.surgery.pruning.block_scores import Candidates, probe_on  # noqa: E402
from cbkernels.training.config import RemoveConfig, TrainConfig, from_dict  # noqa: E402
from cbkernels.training.networks.architecture import Architecture  # noqa: E402
from cbkernels.training.networks.build import build_network  # noqa: E402
from cbkernels.training.networks.exported import load_exported  # noqa: E402
from cbkernels.training.procedures.compare_repr import compare  # noqa: E402
from cbkernels.training.procedures.removal import Removal  # noqa: E402
from cbkernels.training.procedures.removal_curves import removal_curves, subsets_of  # noqa: E402
from cbkernels.training.procedures.removal_progress import RemovalProgress  # noqa: E402
from cbkernels.training.procedures.removal_samples import parts_of  # noqa: E402
from cbkernels.training.procedures.remove import remove_blocks  # noqa: E402
from cbkernels.training.procedures.train import train  # noqa: E402
from cbkernels.training.trained_run import TrainedRun, accuracy_of, fit, load_trained  # noqa: E402

IDLE = ("stages.0.1", "stages.1.0", "stages.1.1")
"""Blocks of the trained network whose branches do next to nothing."""
QUICK = RemoveConfig(heal="end", heal_epochs=1, study_size=150, draws=4, max_drop=0.02, probe_size=300)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A residual network trained on digits, with a held-back part."""
    path = tmp_path_factory.mktemp("runs") / "resnet"
    config = TrainConfig(
        model="resnet", blocks=(2, 2, 1, 0), width_multiplier=1 / 8, epochs=1, validation_share=0.2, device="cpu"
    )
    train(config, path)
    return path


@pytest.fixture(scope="module")
def trained(folder: Path) -> TrainedRun:
    """The same with idle branches, as if trained long with weight decay; the others learned without them."""
    run = load_trained(folder)
    for name in IDLE:
        last = run.model.get_submodule(f"{name}.branch.bn2")
        torch.nn.init.constant_(last.weight, 1e-6).requires_grad_(False)
        torch.nn.init.zeros_(last.bias).requires_grad_(False)
    fit(run.model, run, epochs=3, seed=0)
    run.model.requires_grad_(True)
    return run


@pytest.fixture
def run(trained: TrainedRun) -> TrainedRun:
    """One that may be cut."""
    return replace(trained, model=copy.deepcopy(trained.model))


@pytest.fixture(scope="module")
def outcome(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """An undisturbed removal and its folder."""
    out = tmp_path_factory.mktemp("removal")
    return remove_blocks(replace(trained, model=copy.deepcopy(trained.model)), QUICK, out), out


def untrained(blocks: tuple[int, ...] = (2, 1, 0, 1), seed: int = 0) -> Any:
    """A small network whose batch norms have seen something."""
    generator = torch.Generator().manual_seed(seed)
    model = build_network(Architecture(blocks, "resnet", width_multiplier=1 / 16), (1, 8, 8), 10, generator=generator)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                with torch.no_grad():
                    values.copy_(torch.rand(len(values), generator=generator) + 0.3)
    return model


def images_of(count: int, seed: int = 1) -> Any:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def opened(run: TrainedRun, config: RemoveConfig, path: Path) -> Removal:
    return Removal(run, config, RemovalProgress(RunFolder(path), run, resume=False), print)


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    kept = copy.deepcopy(result)
    for pruning in (kept, *kept["compared"]):
        for step in pruning["steps"]:
            step.pop("latency_ms")
    for when in ("before", "after"):
        for field in ("latency_ms", "latency_ms_p10", "latency_ms_p90"):
            kept[when].pop(field)
    return kept


# --- branches ---------------------------------------------------------------------------------------------


def by_hand(block: Any, x: Any) -> tuple[Any, Any, float]:
    """A block's output, its scaled branch output and its similarity, in float64 and step by step."""
    block = copy.deepcopy(block).double().eval()
    with torch.no_grad():
        first = block.branch.conv1(x)
        second = block.branch.conv2(torch.relu(block.branch.bn1(first)))
        branch, shortcut = block.branch.bn2(second).numpy(), block.shortcut(x).numpy()
    scaled = branch / np.sqrt(np.var(first.numpy()) + 1e-6) / np.sqrt(np.var(second.numpy()) + 1e-6)
    full = np.maximum(shortcut + branch, 0).reshape(len(x), -1)
    cut = np.maximum(shortcut, 0).reshape(len(x), -1)
    cosines = (full * cut).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(cut, axis=1)
    return torch.from_numpy(full.reshape(shortcut.shape)), scaled.reshape(len(x), -1), float(cosines.mean())


def test_branches_are_measured_scaled_by_both_deviations() -> None:
    model, images = untrained(), images_of(40)
    labels = torch.arange(40) % 3
    grid = UpdateGrid(learning_rate=1e-2, batch_size=50, weight_amplitude=3.0, dtype="bfloat16")
    found = measure_blocks(model, model.block_names(), images, labels, grid)
    assert [m.block for m in found] == ["stages.0.0", "stages.0.1", "stages.1.0", "stages.3.0"]
    assert [m.stage for m in found] == [0, 0, 1, 3]
    with torch.no_grad():
        x = model.eval().stem(images).double()
    for measured in found:
        x, scaled, similarity = by_hand(model.get_submodule(measured.block), x)
        distances = np.abs(scaled[:, None] - scaled[None]).max(2)
        assert measured.margin == pytest.approx(distances[labels[:, None] != labels[None]].min(), rel=1e-4)
        assert measured.amplitude == pytest.approx(np.abs(scaled).max(), rel=1e-4)
        assert measured.margin_bits == pytest.approx(
            math.log2(measured.margin / grid.step(measured.amplitude)), rel=1e-6
        )
        assert measured.similarity == pytest.approx(similarity, rel=1e-4)
        on_grid = torch.from_numpy(3 - scaled * 1e-2 / 50).bfloat16().float().numpy()
        assert measured.result.num_bundles == len(np.unique(on_grid, axis=0))
    assert found[0].similarity < 0.99


def test_an_idle_branch_conflicts_and_a_busy_one_does_not(trained: TrainedRun, tmp_path: Path) -> None:
    removal = opened(trained, QUICK, tmp_path)
    for measured in removal.measured():
        assert measured.conflicts() == (measured.block in IDLE), measured
        assert (measured.margin_bits < 0) == (measured.block in IDLE)
        assert measured.conflicts(measured.result.num_conflicting_rows + 1) is False
    assert len(removal.probe[1]) == 300


def test_rows_of_zeros_are_similar() -> None:
    model = untrained((1, 0, 0, 0))
    block = model.get_submodule("stages.0.0")
    torch.nn.init.constant_(model.stem.bn.bias, -100.0)
    torch.nn.init.zeros_(block.branch.bn2.weight)
    torch.nn.init.zeros_(block.branch.bn2.bias)
    (found,) = measure_blocks(model, [["stages.0.0"]], images_of(4), [0, 1, 0, 1], UpdateGrid(1e-3, 64, 1.0))
    assert found.similarity == 1.0
    assert found.to_dict()["margin_bits"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_measuring_leaves_the_model_as_it_was() -> None:
    model, images = untrained().train(), images_of(9)
    model.get_submodule("stages.1.0").eval()
    state, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random = torch.get_rng_state()
    measure_blocks(model, model.block_names(), images, torch.arange(9), UpdateGrid(1e-3, 64, 1.0))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert flags == [module.training for module in model.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(random, torch.get_rng_state())


def test_a_block_without_its_branch_is_its_shortcut_and_a_relu_to_the_bit() -> None:
    model, images = untrained().eval(), images_of(5)
    with torch.no_grad():
        whole, x = model(images), model.stem(images)
        with without_branches(model, ["stages.0.1", "stages.1.0"]):
            cut = model(images)
            x = model.stages[0][0](x)
            assert torch.equal(model.stages[0][1](x), torch.relu(x))
            projected = model.stages[1][0].shortcut(x)
            assert torch.equal(model.stages[1][0](x), torch.relu(projected))
        assert torch.equal(model(images), whole)
        remove_layers(model, ["stages.0.1", "stages.1.0"], example=images)
        assert torch.equal(model(images), cut)
    assert not torch.equal(cut, whole)


def test_branches_come_back_after_an_error() -> None:
    model, images = untrained().eval(), images_of(2)
    before = model(images)
    with pytest.raises(RuntimeError), without_branches(model, ["stages.0.0"]):
        model(torch.zeros(2, 9, 8, 8))
    assert torch.equal(model(images), before)
    assert "forward" not in vars(model.get_submodule("stages.0.0"))


# --- curves -----------------------------------------------------------------------------------------------

LOSSES = {name: (i + 1) ** 2 / 200 for i, name in enumerate("abcdef")}


def accuracy_without(names: Any) -> float:
    return 0.9 - sum(LOSSES[name] for name in names)


def test_curves_are_means_over_all_subsets_where_there_are_few() -> None:
    curves = removal_curves("ab", "cdef", "badcfe", accuracy_without, draws=20)
    for kind, pool in (("conflicting", "ab"), ("non_conflicting", "cdef"), ("any", "abcdef")):
        assert [point["removed"] for point in curves[kind]] == list(range(1, len(pool) + 1))
        for point in curves[kind]:
            reached = [accuracy_without(names) for names in itertools.combinations(pool, point["removed"])]
            assert point["draws"] == len(reached)
            assert point["mean"] == pytest.approx(statistics.fmean(reached))
            assert point["std"] == pytest.approx(float(np.std(reached)))
    for point in curves["lowest_margin"]:
        assert point["mean"] == accuracy_without("badcfe"[: point["removed"]])
        assert (point["std"], point["draws"]) == (0.0, 1)


def test_draws_are_random_subsets_that_depend_on_the_seed_alone() -> None:
    drawn = subsets_of("abcdef", 3, 15, [1, 2])
    assert drawn == subsets_of("abcdef", 3, 15, [1, 2])
    assert drawn != subsets_of("abcdef", 3, 15, [1, 3])
    assert len(drawn) == 15
    assert all(len(set(names)) == 3 for names in drawn)
    assert set(itertools.chain(*drawn)) == set("abcdef")
    many = subsets_of("abcdefgh", 4, 69, [0])
    counts = [sum(name in names for names in many) for name in "abcdefgh"]
    assert max(counts) < 55
    assert min(counts) > 15


def test_points_do_not_depend_on_the_largest_number_and_are_none_without_blocks() -> None:
    all_points = removal_curves("", "abcdef", "abcdef", accuracy_without, draws=5, seed=2**40 + 7)
    some = removal_curves("", "abcdef", "abcdef", accuracy_without, draws=5, seed=2**40 + 7, most=2)
    assert all_points["conflicting"] == []
    assert {kind: points[:2] for kind, points in all_points.items()} == some
    other = removal_curves("", "abcdef", "abcdef", accuracy_without, draws=5, seed=7)
    assert other["any"] != all_points["any"]


# --- the study and the guard ------------------------------------------------------------------------------


def test_the_study_agrees_with_networks_that_were_really_cut(
    trained: TrainedRun, outcome: tuple[dict[str, Any], Path]
) -> None:
    result, _ = outcome
    study = parts_of(trained, QUICK.study_size, QUICK.seed).study
    assert result["study"]["samples"] == len(study.labels) == 150
    names = [block["block"] for block in result["blocks"]]

    def accuracy(removed: Any) -> float:
        model, _ = remove_layers(copy.deepcopy(trained.model), removed, example=study.images[:4].float(), force=True)
        with torch.no_grad():
            right = model.eval()(trained.preparation.for_testing(study.images)).argmax(1) == study.labels
        return float(right.sum()) / 150

    assert result["study"]["accuracy"] == pytest.approx(accuracy([]))
    for block in result["blocks"]:
        assert block["accuracy_without"] == pytest.approx(accuracy([block["block"]]))
        assert block["conflicts"] == (block["block"] in IDLE)
    curves = result["curves"]
    assert [len(curves[kind]) for kind in ("conflicting", "non_conflicting", "any", "lowest_margin")] == [3, 2, 5, 5]
    for k in (1, 2, 3):
        reached = [accuracy(subset) for subset in itertools.combinations(IDLE, k)]
        assert curves["conflicting"][k - 1]["mean"] == pytest.approx(statistics.fmean(reached))
        assert curves["conflicting"][k - 1]["std"] == pytest.approx(float(np.std(reached)))
    by_margin = sorted(names, key=lambda name: result["blocks"][names.index(name)]["margin"])
    assert curves["lowest_margin"][2]["mean"] == pytest.approx(accuracy(by_margin[:3]))


@pytest.mark.parametrize("rank", ["conflicts", "margin", "similarity", "random"])
@pytest.mark.parametrize("max_drop", [0.0, 0.3])
def test_the_guard_never_ends_below_its_limit(run: TrainedRun, tmp_path: Path, rank: str, max_drop: float) -> None:
    config = replace(QUICK, rank=rank, max_drop=max_drop, study=False, heal_epochs=0)
    whole = copy.deepcopy(run.model)
    result = remove_blocks(run, config, tmp_path)
    guard = parts_of(run, 1, 0).guard
    limit = accuracy_of(whole, guard.images, guard.labels, run.preparation) - max_drop
    assert accuracy_of(run.model, guard.images, guard.labels, run.preparation) >= limit - 1e-9
    assert result["curves"] == {"conflicting": [], "non_conflicting": [], "any": [], "lowest_margin": []}
    assert result["study"] is None
    removed: list[str] = []
    for step in result["steps"]:
        with without_branches(whole, [*removed, step["block"]]):
            accuracy = accuracy_of(whole, guard.images, guard.labels, run.preparation)
        assert step["accuracy"] == pytest.approx(accuracy)
        assert step["kept"] == (accuracy >= limit - 1e-9)
        removed += [step["block"]] * step["kept"]
    assert removed == result["removed"]
    assert set(removed) & set(IDLE)
    tried = [step["block"] for step in result["steps"]]
    assert len(set(tried)) == len(tried)
    if rank == "conflicts":
        assert set(tried) == set(IDLE)
    assert (len(tried), len(removed)) == (5, len(removed)) or result["reason"] != "every block was tried"


def test_the_limit_is_exact(run: TrainedRun, tmp_path: Path) -> None:
    config = replace(QUICK, rank="similarity", study=False, heal_epochs=0, max_drop=1.0)
    model = copy.deepcopy(run.model)
    free = remove_blocks(run, config, tmp_path / "free")
    busy = next(step for step in free["steps"] if step["block"] not in IDLE)
    lost = free["guard"]["accuracy"] - busy["accuracy"]
    assert lost > 0.01
    for drop, goes in ((lost, True), (lost - 0.5 / free["guard"]["samples"], False)):
        again = replace(run, model=copy.deepcopy(model))
        result = remove_blocks(again, replace(config, max_drop=drop), tmp_path / str(goes))
        assert (busy["block"] in result["removed"]) == goes


def cut_by_hand(run: TrainedRun, removed: Any) -> list[Any]:
    """The blocks of a copy of the network that was really cut, as they are measured."""
    model, _ = remove_layers(copy.deepcopy(run.model), removed, example=run.samples.example(4))
    grid = UpdateGrid.from_optimizer(model, torch.optim.SGD(model.parameters(), lr=1e-3), 64)
    left = [[name for name in stage if name not in removed] for stage in run.model.block_names()]
    return measure_blocks(model, left, *opened(run, QUICK, run.folder / "probe").probe, grid)


def with_scores(monkeypatch: pytest.MonkeyPatch, rank: str, scores: Callable[[Any], dict[str, float]]) -> None:
    monkeypatch.setitem(RANKINGS, rank, replace(RANKINGS[rank], scores=scores))


def test_blocks_are_measured_in_the_network_that_is_left(
    run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():  # the largest weight of all goes too, and with it the grid of the whole network
        run.model.get_submodule("stages.0.0.branch.bn1").weight[0] = 9.0
    whole, grids, margin = copy.deepcopy(run.model), [], RANKINGS["margin"].scores

    def scores(asked: Any) -> dict[str, float]:
        grids.append(asked.grid)
        return {name: -1.0 if name == "stages.0.0" else score for name, score in margin(asked).items()}

    with_scores(monkeypatch, "margin", scores)
    result = remove_blocks(run, replace(QUICK, max_drop=1.0, study=False, max_removed=2, heal_epochs=0), tmp_path)
    blocks = cut_by_hand(replace(run, model=whole), ["stages.0.0"])
    assert result["steps"][0]["scores"] == [-1.0]
    assert result["steps"][1]["scores"] == [min(block.margin for block in blocks)]
    assert grids[1] == blocks[0].result.grid != grids[0]
    assert grids[0].weight_amplitude == 9.0


def test_the_order_follows_what_is_measured_after_each_removal(
    run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    margin = RANKINGS["margin"].scores
    margins = {block.block: block.margin for block in opened(run, QUICK, tmp_path / "before").measured()}

    def turned_round(asked: Any) -> dict[str, float]:
        """The smallest margin first, but the largest one once something is gone."""
        sign = 1 if len(asked.names) == 5 else -1
        return {name: sign * score for name, score in margin(asked).items()}

    with_scores(monkeypatch, "margin", turned_round)
    result = remove_blocks(run, replace(QUICK, max_drop=1.0, study=False, heal_epochs=0), tmp_path / "after")
    first, second, *_ = result["removed"]
    assert margins[first] == min(margins.values())
    assert second not in IDLE


def test_blocks_are_ranked_again_after_each_removal(run: TrainedRun, tmp_path: Path) -> None:
    config = replace(QUICK, max_drop=1.0, study=False, heal_epochs=0)
    whole = replace(run, model=copy.deepcopy(run.model))
    result = remove_blocks(run, config, tmp_path)
    assert len(result["removed"]) == 4, "one block stays"
    assert result["reason"] == "one block has to stay"
    for count, name in enumerate(result["removed"]):
        blocks = cut_by_hand(whole, result["removed"][:count])
        assert name == min(blocks, key=lambda block: block.margin).block
    for options in ({"target": 0.4}, {"target": 0.9, "max_removed": 2}):
        again = replace(run, model=copy.deepcopy(whole.model))
        few = remove_blocks(again, replace(config, **options), tmp_path / f"{len(list(tmp_path.iterdir()))}")
        assert few["removed"] == result["removed"][:2]
        assert few["reason"] == "all blocks that were to be removed are gone: 2"
    none = remove_blocks(whole, replace(config, max_removed=0), tmp_path / "none")
    assert (none["removed"], none["steps"]) == ([], [])


def test_ranks_order_blocks_as_they_say(trained: TrainedRun, tmp_path: Path) -> None:
    removal = opened(trained, QUICK, tmp_path)
    blocks = {block.block: block for block in removal.measured()}

    def order(rank: str, seed: int = 0) -> list[str]:
        batches = probe_on(trained.model, as_probe(removal.probe))
        removable = removable_blocks(trained.model, removal.example)
        grid = blocks[IDLE[0]].result.grid
        names = dict(zip(removal.names, removal.names, strict=True))
        return list(ranked(RANKINGS[rank], Candidates(trained.model, removable, batches, grid, None, seed, names)))

    assert blocks[order("similarity")[0]].similarity == max(block.similarity for block in blocks.values())
    margins = [blocks[name].margin for name in order("margin")]
    assert margins == sorted(block.margin for block in blocks.values())
    assert set(order("conflicts")) == set(IDLE)
    orders = {tuple(order("random", seed)) for seed in range(4)}
    assert all(sorted(each) == sorted(removal.names) for each in orders)
    assert len(orders) > 1


def test_nothing_conflicts_so_nothing_goes(run: TrainedRun, tmp_path: Path) -> None:
    config = replace(QUICK, rank="conflicts", min_conflicting_rows=301)
    result = remove_blocks(run, config, tmp_path)
    assert result["curves"]["conflicting"] == []
    assert len(result["curves"]["non_conflicting"]) == 5
    assert (result["steps"], result["removed"]) == ([], [])
    assert "no block that conflicts" in result["reason"]
    assert result["accuracy"]["healed"] == result["accuracy"]["before"]
    assert result["before"]["parameters"] == result["after"]["parameters"]


def test_without_a_held_back_part_one_half_of_the_test_samples_guards(trained: TrainedRun) -> None:
    assert parts_of(trained, 10**6, 0).guard.name == "validation"
    samples = replace(trained.samples, validation_indices=trained.samples.validation_indices[:0])
    parts = parts_of(replace(trained, samples=samples), 50, 0)
    whole = samples.test[0]
    assert len(parts.guard.labels) + len(parts.test.labels) == len(whole)
    together = torch.cat([parts.guard.images, parts.test.images]).flatten(1)
    assert torch.equal(together.unique(dim=0), whole.flatten(1).unique(dim=0))
    assert set(map(bytes, parts.study.images.numpy())) <= set(map(bytes, parts.test.images.numpy()))
    assert len(parts.study.labels) == 50
    assert "half" in parts.guard.name
    assert "half" in parts.test.name


# --- healing ----------------------------------------------------------------------------------------------

EACH = replace(QUICK, heal="each", strategy="geometric", study=False, max_drop=0.3, compare=("random",))


@pytest.fixture(scope="module")
def healed(trained: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """An undisturbed removal that heals after every step, and another ranking to compare with."""
    out = tmp_path_factory.mktemp("healed")
    return remove_blocks(replace(trained, model=copy.deepcopy(trained.model)), EACH, out), out


def test_every_step_heals_and_the_last_one_is_exported(
    trained: TrainedRun, healed: tuple[dict[str, Any], Path]
) -> None:
    result, out = healed
    kept = [step for step in result["steps"] if step["kept"]]
    assert sum(len(step["blocks"]) for step in kept) == len(result["removed"]) == kept[-1]["num_removed"] > 2
    assert [len(step["blocks"]) for step in result["steps"][:2]] == [1, 2], "the strategy of healings"
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert [(line["round"], line["epoch"]) for line in history] == [
        (step["num_removed"], epoch) for step in kept for epoch in (0, 1)
    ]
    assert result["finetune_epochs"] == len(kept)
    for step in kept:
        assert step["accuracy"] >= result["guard"]["accuracy"] - 0.3 - 1e-9
        assert 0 <= step["accuracy_test"] <= 1
        assert step["accuracy_removed"] is not None
    model, parts = load_exported(out / "model"), parts_of(trained, 1, 0)
    for part, accuracy in (
        (parts.guard, kept[-1]["accuracy"]),
        (parts.test, kept[-1]["accuracy_test"]),
        (parts.test, result["accuracy"]["healed"]),
    ):
        assert accuracy_of(model, part.images, part.labels, trained.preparation) == pytest.approx(accuracy)
    with without_branches(trained.model, result["removed"]):
        cut = accuracy_of(trained.model, parts.test.images, parts.test.labels, trained.preparation)
    assert result["accuracy"]["removed"] == pytest.approx(cut)
    assert not (out / "pruning").exists()


def test_another_ranking_prunes_a_copy_of_the_trained_network(
    trained: TrainedRun, healed: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    result, _ = healed
    (other,) = result["compared"]
    assert (result["rank"], other["rank"]) == ("margin", "random")
    run = replace(trained, model=copy.deepcopy(trained.model))
    alone = remove_blocks(run, replace(EACH, rank="random", compare=("random",)), tmp_path)
    assert alone["compared"] == []
    mine = {name: without_times(alone)[name] for name in other}
    assert mine == without_times(result)["compared"][0]
    assert other["accuracy"]["before"] == result["accuracy"]["before"]


def test_a_killed_healing_goes_on_and_ends_the_same(
    trained: TrainedRun, healed: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, out = healed
    result = killed_again_and_again(trained, EACH, tmp_path, monkeypatch, every=4)
    assert without_times(result) == without_times(expected)

    def lines(folder: Path) -> list[dict[str, Any]]:
        found = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
        return [{name: value for name, value in line.items() if "seconds" not in name} for line in found]

    assert lines(tmp_path) == lines(out)


def test_nothing_is_trained_without_healing(run: TrainedRun, tmp_path: Path) -> None:
    whole = run.model.state_dict()
    result = remove_blocks(run, replace(QUICK, heal="none", study=False), tmp_path)
    assert set(IDLE) <= set(result["removed"])
    assert result["accuracy"]["healed"] == result["accuracy"]["removed"]
    assert (tmp_path / "history.jsonl").read_text() == ""
    assert result["finetune_epochs"] == 0
    model = load_exported(tmp_path / "model")
    assert all(torch.equal(whole[name], value) for name, value in model.state_dict().items())


def test_an_older_name_of_an_option_is_read(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert from_dict(RemoveConfig, {"finetune_epochs": 3}) == RemoveConfig(heal_epochs=3)
    command = ["remove", str(folder), "--out", str(tmp_path), "--no-study", "--max-removed", "0"]
    assert main([*command, "--finetune-epochs", "2", "--heal", "none"]) == 0
    stored = json.loads((tmp_path / "config.json").read_text())
    assert (stored["heal_epochs"], stored["heal"], stored["strategy"]) == (2, "none", "one")
    said = capsys.readouterr().out
    assert "No block was removed." in said
    assert "Network, whole: " in said
    assert "healed" not in said
    assert "Smaller network" not in said


# --- what is written --------------------------------------------------------------------------------------


def test_result_and_files(trained: TrainedRun, outcome: tuple[dict[str, Any], Path]) -> None:
    result, out = outcome
    assert json.loads((out / "result.json").read_text()) == result
    for name in ("config.json", "env.json", "history.jsonl", "layers.csv", "model/network.json"):
        assert (out / name).is_file(), name
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert {line["run"] for line in history} == {"finetune"}
    assert set(IDLE) <= set(result["removed"])
    assert result["after"]["parameters"] < result["before"]["parameters"]
    assert result["after"]["macs"] < result["before"]["macs"]
    assert result["after"]["blocks"] == result["before"]["blocks"] - len(result["removed"])
    images, labels = trained.data.test_images, trained.data.test_labels
    before = accuracy_of(trained.model, images, labels, trained.preparation)
    assert result["accuracy"]["before"] == pytest.approx(before)
    with without_branches(trained.model, result["removed"]):
        cut = accuracy_of(trained.model, images, labels, trained.preparation)
    assert result["accuracy"]["removed"] == pytest.approx(cut)
    rows = (out / "layers.csv").read_text().splitlines()
    assert [row.split(",")[3] for row in rows[1:]] == [block["branch"] for block in result["blocks"]]


def test_the_exported_network_is_the_same_in_a_fresh_process(
    trained: TrainedRun, outcome: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    result, out = outcome
    model = load_exported(out / "model")
    assert not model.training
    x = trained.preparation.for_testing(torch.as_tensor(trained.data.test_images))
    np.save(tmp_path / "x.npy", x.numpy())
    program = (
        "import sys, numpy, torch; torch.set_num_threads(1)\n"
        "from cbkernels.training.networks.exported import load_exported\n"
        "x = torch.from_numpy(numpy.load(sys.argv[2] + '/x.npy'))\n"
        "with torch.no_grad(): numpy.save(sys.argv[2] + '/y.npy', load_exported(sys.argv[1])(x).numpy())\n"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(out / "model"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    y = np.load(tmp_path / "y.npy")
    with torch.no_grad():
        assert np.array_equal(y, model(x).numpy())
    share = float((y.argmax(1) == np.asarray(trained.data.test_labels)).mean())
    assert share == pytest.approx(result["accuracy"]["healed"])
    assert sum(p.numel() for p in model.parameters()) == result["after"]["parameters"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("network.json", None, "cannot be read"),
        ("network.json", b"{", "holds no JSON"),
        ("network.json", b"[]", "its format is not"),
        ("network.json", b'{"format": "cbkernels network 1"}', "'architecture' is None"),
        (
            "network.json",
            b'{"format": "cbkernels network 1", "architecture": {"widt": 1}, "image_shape": [1], "num_classes": 2}',
            "is not an architecture",
        ),
        ("surgery.json", b"\x80\x04.", "holds no JSON"),
        ("model.safetensors", b"", "checksum"),
    ],
)
def test_a_damaged_export_is_refused(
    outcome: tuple[dict[str, Any], Path], tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    for path in (outcome[1] / "model").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        load_exported(tmp_path)
    assert name in str(refused.value)


# --- killed and resumed -----------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


def test_a_killed_removal_goes_on_and_ends_the_same(
    trained: TrainedRun, outcome: tuple[dict[str, Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, _ = outcome
    assert without_times(killed_again_and_again(trained, QUICK, tmp_path, monkeypatch)) == without_times(expected)
    run = replace(trained, model=copy.deepcopy(trained.model))
    again = remove_blocks(run, QUICK, tmp_path, resume=True)
    assert without_times(again) == without_times(expected)
    assert sum(p.numel() for p in run.model.parameters()) == again["after"]["parameters"]


def killed_again_and_again(
    trained: TrainedRun, config: RemoveConfig, out: Path, monkeypatch: pytest.MonkeyPatch, every: int = 6
) -> dict[str, Any]:
    """What a removal ends with that is killed at one write after the other, and resumed each time."""
    killed_at: list[str] = []
    left = 0

    def killing(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(path: Path, *content: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                killed_at.append(path.name)
                raise Killed
            return write(path, *content)

        return wrapped

    with monkeypatch.context() as patched:
        for module in (folder_module, progress_module):
            patched.setattr(module, "write_whole", killing(module.write_whole))
        patched.setattr(progress_module, "save_checkpoint", killing(progress_module.save_checkpoint))
        for survives in itertools.count(2, every):
            left = survives
            try:
                run = replace(trained, model=copy.deepcopy(trained.model))
                result = remove_blocks(run, config, out, resume=True)
            except Killed:
                continue
            break
    assert len(killed_at) > 3
    return result


def test_a_killed_removal_finds_no_accuracy_twice(
    trained: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(model: Any, images: Any, *others: Any, **options: Any) -> float:
        asked.append(len(images))
        return accuracy_of(model, images, *others, **options)

    monkeypatch.setattr("cbkernels.training.procedures.removal.accuracy_of", counted)
    run = replace(trained, model=copy.deepcopy(trained.model))
    remove_blocks(run, QUICK, tmp_path)
    first = len(asked)
    (tmp_path / "result.json").unlink()  # as if it had been killed before it wrote that
    run = replace(trained, model=copy.deepcopy(trained.model))
    remove_blocks(run, QUICK, tmp_path, resume=True)
    assert first > 20
    assert len(asked) == first


def test_resume_refuses_what_is_something_else(run: TrainedRun, tmp_path: Path) -> None:
    config = replace(QUICK, study=False, heal_epochs=0)
    remove_blocks(replace(run, model=copy.deepcopy(run.model)), config, tmp_path)
    with pytest.raises(ValueError, match=r"max_drop 0\.02, not 0\.5"):
        remove_blocks(run, replace(config, max_drop=0.5), tmp_path, resume=True)
    other = copy.deepcopy(run.model)
    torch.nn.init.zeros_(other.head.bias)
    with pytest.raises(ValueError, match="other weights"):
        remove_blocks(replace(run, model=other), config, tmp_path, resume=True)
    for damage in (b"{", b"[]", b'{"of": 1, "accuracies": 2, "healed": 3}'):
        (tmp_path / "progress.json").write_bytes(damage)
        with pytest.raises(ValueError, match=r"progress\.json is damaged"):
            remove_blocks(run, config, tmp_path, resume=True)


def test_resume_refuses_an_accuracy_that_cannot_be(run: TrainedRun, tmp_path: Path) -> None:
    progress = RemovalProgress(RunFolder(tmp_path), run, resume=False)
    progress.accuracy("guard", lambda: 0.75)
    progress.healings["margin"] = {"1": [{"epoch": 1, "test_accuracy": 0.5}]}
    progress.save()
    again = RemovalProgress(RunFolder(tmp_path), run, resume=True)
    assert again.accuracy("guard", lambda: pytest.fail("it was measured")) == 0.75
    file = tmp_path / "progress.json"
    for written, forged, said in (
        ("0.75", "7.5", "accuracies.guard is 7.5, not in 0 to 1; start again"),
        ('"epoch": 1', '"epoch": -1', r"healings.margin.1\[0\].epoch is -1.0, not 0 or more; start again"),
    ):
        sound = file.read_text()
        file.write_text(sound.replace(written, forged))
        with pytest.raises(ValueError, match=rf"progress\.json is damaged: {said}"):
            RemovalProgress(RunFolder(tmp_path), run, resume=True)
        file.write_text(sound)


# --- the command ------------------------------------------------------------------------------------------


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = stopped.code  # type: ignore[assignment]
    printed = capsys.readouterr()
    assert (code, printed.out) == (1, "")
    assert printed.err.count("\n") == 1, printed.err
    return printed.err


def test_command_prints_tables_and_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--study-size", "60", "--draws", "2", "--finetune-epochs", "1", "--max-drop", "0.5"]
    assert main(["remove", str(folder), "--out", str(tmp_path), *quick]) == 0
    printed = capsys.readouterr()
    for words in ("accuracy without it", "lowest margin", "healed", "latency of 64, median", "Why it ended"):
        assert words in printed.out
    assert "study: without 1 any" in printed.err
    assert max(map(len, printed.out.splitlines())) < 140
    assert main(["remove", str(folder), "--out", str(tmp_path), *quick, "--resume", "--json"]) == 0
    result = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["run"] == "resnet"
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_command_writes_beside_the_run_by_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert main(["remove", str(folder), "--no-study", "--finetune-epochs", "0"]) == 0
    assert (folder / "removal" / "result.json").is_file()
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert "Accuracy without some blocks" not in capsys.readouterr().out


def test_a_run_remembers_where_its_data_were_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image", reason="images in files: NOT TESTED HERE (no pillow)")
    for i in range(40):
        path = tmp_path / "data" / "svhn" / ("train" if i < 32 else "test") / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(np.full((8, 8, 3), 90 * (i % 2) + i, np.uint8)).save(path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    config = TrainConfig(
        dataset="svhn", model="resnet", blocks=(1, 1, 0, 0), width_multiplier=0.05, batch_size=8, probe_size=8,
        epochs=1, device="cpu", threads=1,
    )  # fmt: skip
    of_repr = replace(config, epochs=3, repr_full_epochs=1, repr_reduced_epochs=1, repr_cycles=1)
    several = tmp_path / "several"
    monkeypatch.setenv("CBKERNELS_DATA", "data")
    monkeypatch.chdir(tmp_path)
    train(config, tmp_path / "run")
    compared = compare(of_repr, several, criteria=("standard", "random"), seeds=2)
    monkeypatch.delenv("CBKERNELS_DATA")
    monkeypatch.chdir("/")
    assert json.loads((tmp_path / "run" / "env.json").read_text())["data"] == str(tmp_path / "data" / "svhn")
    train(config, tmp_path / "run", resume=True)
    shutil.rmtree(several / "standard-seed1")  # as if the comparison had been killed before it
    assert compare(of_repr, several, criteria=("standard", "random"), seeds=2)["rows"] == compared["rows"]
    assert main(["remove", str(tmp_path / "run"), "--no-study", "--heal", "none", "--probe-size", "8"]) == 0
    with pytest.raises(ImportError, match="'svhn' was not found"):  # a new run looks anew
        train(config, tmp_path / "run", overwrite=True)


@pytest.mark.parametrize("model", ["fnn", "vgg"])
def test_refuses_networks_without_shortcuts(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(
        model=model, depth=2, blocks=(1, 0, 0, 0), width_multiplier=1 / 16, epochs=1, train_size=128, device="cpu",
        probe_size=32,
    )  # fmt: skip
    train(config, tmp_path / "run")
    sentence = refusal(capsys, "remove", tmp_path / "run")
    assert "without shortcuts" in sentence
    assert f"({config.architecture})" in sentence
    assert not (tmp_path / "run" / "removal").exists()


def test_refuses_a_training_that_diverged(run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="diverged"):
        remove_blocks(replace(run, result={**run.result, "status": "diverged"}), QUICK, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_refuses_wrong_paths_and_options(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], outcome: tuple[dict[str, Any], Path]
) -> None:
    assert "gone" in refusal(capsys, "remove", tmp_path / "gone")
    refusal(capsys, "remove", tmp_path)
    refusal(capsys, "remove", outcome[1])
    for option, value in (("--max-drop", "1.5"), ("--draws", "0"), ("--most", "0"), ("--rank", "luck"),
                          ("--study-size", "0"), ("--finetune-epochs", "-1"), ("--probe-size", "1")):  # fmt: skip
        sentence = refusal(capsys, "remove", folder, option, value, "--out", tmp_path / "out")
        assert value in sentence, sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b"\x80\x04."])
def test_refuses_a_damaged_checkpoint(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    assert "checkpoint.safetensors" in refusal(capsys, "remove", tmp_path)


def test_a_guard_too_small_for_its_limit_and_a_network_near_chance_are_said_before_anything_goes(
    folder: Path, run: TrainedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guards = len(run.validation_indices)
    said = f"which is less than one of the {guards} samples that guard; the smallest loss that they can show is "
    arguments = ["--out", tmp_path / "small", "--no-study", "--finetune-epochs", "0", "--max-drop", 0.5 / guards]
    assert main(["remove", *map(str, [folder, *arguments])]) == 0
    printed = capsys.readouterr()
    assert said in " ".join(printed.out.split())
    assert 0 < printed.err.index(said) < printed.err.index(" accuracy ")
    assert not opened(run, replace(QUICK, max_drop=1.5 / guards), tmp_path / "large").notes()
    assert not opened(run, replace(QUICK, max_drop=0.0), tmp_path / "none").notes()
    torch.nn.init.zeros_(run.model.head.weight)
    torch.nn.init.zeros_(run.model.head.bias)
    (note,) = opened(run, QUICK, tmp_path / "chance").notes()
    assert note.startswith("the test accuracy is still near chance (")
    assert note.endswith("train it further first")
