"""Blocks of a trained residual network: what their branches are worth, which go, what is left, and resuming."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
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
from cbkernels.runs.folder import RunFolder  # noqa: E402
from cbkernels.training.config import RemoveConfig, TrainConfig  # noqa: E402
from cbkernels.training.networks.architecture import Architecture  # noqa: E402
from cbkernels.training.networks.build import build_network  # noqa: E402
from cbkernels.training.networks.exported import load_exported  # noqa: E402
from cbkernels.training.procedures.removal import Removal  # noqa: E402
from cbkernels.training.procedures.removal_curves import removal_curves, subsets_of  # noqa: E402
from cbkernels.training.procedures.removal_progress import RemovalProgress  # noqa: E402
from cbkernels.training.procedures.removal_samples import parts_of  # noqa: E402
from cbkernels.training.procedures.remove import remove_blocks  # noqa: E402
from cbkernels.training.procedures.train import train  # noqa: E402
from cbkernels.training.rankings import RANKINGS  # noqa: E402
from cbkernels.training.trained_run import TrainedRun, accuracy_of, fit, load_trained  # noqa: E402

IDLE = ("stages.0.1", "stages.1.0", "stages.1.1")
"""Blocks of the trained network whose branches do next to nothing."""
QUICK = RemoveConfig(finetune_epochs=1, study_size=150, draws=4, max_drop=0.02, probe_size=300)


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
    return Removal(run, config, RemovalProgress(RunFolder(path), run, config, resume=False), print)


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    kept = copy.deepcopy(result)
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
    for measured in removal.measured(()):
        assert measured.conflicts() == (measured.block in IDLE), measured
        assert (measured.margin_bits < 0) == (measured.block in IDLE)
        assert measured.conflicts(measured.result.num_conflicting_rows + 1) is False
    assert len(removal._probe_labels) == 300
    left = removal.measured(["stages.0.0"])
    assert [m.block for m in left] == [name for name in removal.names if name != "stages.0.0"]


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
    config = replace(QUICK, rank=rank, max_drop=max_drop, study=False, finetune_epochs=0)
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
    config = replace(QUICK, rank="similarity", study=False, finetune_epochs=0, max_drop=1.0)
    model = copy.deepcopy(run.model)
    free = remove_blocks(run, config, tmp_path / "free")
    busy = next(step for step in free["steps"] if step["block"] not in IDLE)
    lost = free["guard"]["accuracy"] - busy["accuracy"]
    assert lost > 0.01
    for drop, goes in ((lost, True), (lost - 0.5 / free["guard"]["samples"], False)):
        again = replace(run, model=copy.deepcopy(model))
        result = remove_blocks(again, replace(config, max_drop=drop), tmp_path / str(goes))
        assert (busy["block"] in result["removed"]) == goes


def test_blocks_are_measured_as_in_a_network_that_was_really_cut(trained: TrainedRun, tmp_path: Path) -> None:
    run = replace(trained, model=copy.deepcopy(trained.model))
    with torch.no_grad():  # the largest weight of all goes too, and with it the grid of the whole network
        run.model.get_submodule("stages.0.0.branch.bn1").weight[0] = 9.0
    removal = opened(run, QUICK, tmp_path)
    found = removal.measured(["stages.0.0"])
    model, _ = remove_layers(copy.deepcopy(run.model), "stages.0.0", example=run.samples.example(4))
    grid = UpdateGrid.from_optimizer(model, torch.optim.SGD(model.parameters(), lr=1e-3), 64)
    left = [[name for name in stage if name != "stages.0.0"] for stage in removal.stages]
    assert found == measure_blocks(model, left, removal._probe_images, removal._probe_labels, grid)
    assert found[0] != removal.measured(())[1]


def test_the_order_follows_what_is_measured_after_each_removal(
    run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Removal.measured

    def turned_round(removal: Removal, removed: Any) -> list[Any]:
        """The smallest margin first, but the largest one once something is gone."""
        blocks = measured(removal, removed)
        return [replace(block, margin=1e3 - block.margin) for block in blocks] if removed else blocks

    margins = {block.block: block.margin for block in opened(run, QUICK, tmp_path / "before").measured(())}
    monkeypatch.setattr(Removal, "measured", turned_round)
    result = remove_blocks(run, replace(QUICK, max_drop=1.0, study=False, finetune_epochs=0), tmp_path / "after")
    first, second, *_ = result["removed"]
    assert margins[first] == min(margins.values())
    assert second not in IDLE


def test_blocks_are_ranked_again_after_each_removal(run: TrainedRun, tmp_path: Path) -> None:
    config = replace(QUICK, max_drop=1.0, study=False, finetune_epochs=0)
    model = copy.deepcopy(run.model)
    result = remove_blocks(run, config, tmp_path)
    removal = opened(replace(run, model=model), config, tmp_path)
    assert len(result["removed"]) == 4, "one block stays"
    assert result["reason"] == "one block has to stay"
    for count, name in enumerate(result["removed"]):
        blocks = removal.measured(result["removed"][:count])
        assert name == min(blocks, key=lambda block: block.margin).block
    few = remove_blocks(replace(run, model=model), replace(config, max_removed=2), tmp_path / "few")
    assert few["removed"] == result["removed"][:2]
    assert few["reason"] == "2 blocks were removed"


def test_ranks_order_blocks_as_they_say(trained: TrainedRun, tmp_path: Path) -> None:
    removal = opened(trained, QUICK, tmp_path)
    blocks = removal.measured(())
    assert removal.ranked(blocks, RANKINGS["similarity"])[0].similarity == max(b.similarity for b in blocks)
    margins = [b.margin for b in removal.ranked(blocks, RANKINGS["margin"])]
    assert margins == sorted(margins)
    assert {b.block for b in removal.ranked(blocks, RANKINGS["conflicts"])} == set(IDLE)
    orders = set()
    for seed in range(4):
        other = opened(trained, replace(QUICK, seed=seed), tmp_path)
        orders.add(tuple(b.block for b in other.ranked(blocks, RANKINGS["random"])))
        assert sorted(b.block for b in other.ranked(blocks, RANKINGS["random"])) == sorted(removal.names)
    assert len(orders) > 1


def test_nothing_conflicts_so_nothing_goes(run: TrainedRun, tmp_path: Path) -> None:
    config = replace(QUICK, rank="conflicts", min_conflicting_rows=301)
    result = remove_blocks(run, config, tmp_path)
    assert result["curves"]["conflicting"] == []
    assert len(result["curves"]["non_conflicting"]) == 5
    assert (result["steps"], result["removed"]) == ([], [])
    assert "no block conflicts" in result["reason"]
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
    writes = RunFolder.write_bytes
    killed_at = []
    left = 0

    def write_bytes(folder: RunFolder, name: str, content: bytes) -> Path:
        nonlocal left
        left -= 1
        if left == 0:
            killed_at.append(name)
            raise Killed
        return writes(folder, name, content)

    monkeypatch.setattr(RunFolder, "write_bytes", write_bytes)
    for survives in itertools.count(2, 6):
        left = survives
        run = replace(trained, model=copy.deepcopy(trained.model))
        try:
            result = remove_blocks(run, QUICK, tmp_path, resume=True)
        except Killed:
            continue
        break
    assert without_times(result) == without_times(expected)
    assert len(killed_at) > 3
    monkeypatch.undo()
    run = replace(trained, model=copy.deepcopy(trained.model))
    again = remove_blocks(run, QUICK, tmp_path, resume=True)
    assert without_times(again) == without_times(expected)


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
    run = replace(trained, model=copy.deepcopy(trained.model))
    remove_blocks(run, QUICK, tmp_path, resume=True)
    assert first > 20
    assert len(asked) == first


def test_resume_refuses_what_is_something_else(run: TrainedRun, tmp_path: Path) -> None:
    config = replace(QUICK, study=False, finetune_epochs=0)
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
    for words in ("accuracy without it", "lowest margin", "healed", "latency of 64, median (ms)", "Why it ended"):
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
