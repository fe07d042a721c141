"""The score of an untrained network: its range, its order, what it refuses, and that the network stays as it was."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

import cbkernels as cb

torch = pytest.importorskip("torch", reason="zero-cost score: NOT TESTED HERE (needs torch)")

from cbkernels.integrations.zero_cost import BundleScore, bundle_score  # noqa: E402
from cbkernels.training.data.data_sets import load_digits  # noqa: E402
from cbkernels.training.networks.fully_connected import fnn  # noqa: E402

IMAGES, DIGITS = (torch.from_numpy(array[:512]) for array in load_digits())


def network(depth: int, width: int, seed: int = 0) -> Any:
    return fnn(depth, width, weights="torch", generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_cannot_learn_scores_0_and_one_that_can_1(seed: int) -> None:
    deep, wide = (bundle_score(network(*size, seed), IMAGES, DIGITS) for size in ((50, 10), (3, 128)))
    assert float(deep) < 0.01
    assert deep.margin_bits == -math.inf
    assert deep.report.conflicting()
    assert float(wide) == 1.0
    assert wide.margin_bits > 0
    assert wide.report.conflicting() == []
    assert deep < wide


def test_the_score_is_the_share_of_the_labels_that_passes_the_worst_layer() -> None:
    model = network(10, 10, seed=1)
    score = bundle_score(model, IMAGES, DIGITS, learning_rate=1e-3, batch_size=64)
    amplitude = max(float(p.detach().abs().max()) for p in model.parameters())
    grid = cb.UpdateGrid(1e-3, 64, amplitude)
    acts, found = IMAGES, {}
    with torch.no_grad():
        acts = acts.flatten(1)
        for i, layer in enumerate(model.hidden):
            acts = layer(acts)
            found[f"hidden.{i}"] = cb.bundle_entropy(acts, DIGITS, grid=grid)
    counts = torch.bincount(DIGITS).double() / len(DIGITS)
    of_labels = -(counts * counts.log()).sum().item()
    largest = max(result.entropy for result in found.values())
    assert 0 < float(score) < 0.9
    assert float(score) == pytest.approx(1 - largest / of_labels, rel=1e-12)
    assert found[score.worst_layer].entropy == largest
    assert score.margin_bits == min(b for b in score.report.margin_bits.values() if b is not None)
    assert {name: result.entropy for name, result in score.report.items()} == {n: r.entropy for n, r in found.items()}


def test_the_training_to_come_decides_the_grid() -> None:
    model = network(5, 64)
    slow, usual = bundle_score(model, IMAGES, DIGITS, learning_rate=1e-7), bundle_score(model, IMAGES, DIGITS)
    crowd = bundle_score(model, IMAGES, DIGITS, batch_size=64 * 10**4)
    assert float(slow) == pytest.approx(float(crowd), abs=0.2)
    assert slow < usual
    assert float(slow) < 1


def test_scores_sort_by_share_and_then_by_margin() -> None:
    report = bundle_score(network(3, 16), IMAGES, DIGITS).report
    values = [(0.0, -math.inf, "d"), (0.5, 9.0, "c"), (1.0, 2.0, "b"), (1.0, 5.0, "a")]
    scores = [BundleScore(*value, report) for value in values]
    assert sorted([scores[i] for i in (2, 0, 3, 1)]) == scores
    assert max(scores) is scores[3]
    assert scores[2] == BundleScore(1.0, 2.0, "another", report)
    assert repr(scores[1]) == "BundleScore(score=0.5, margin_bits=9.0, worst_layer='c')"


def test_all_samples_in_one_bundle_score_exactly_0() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 3))
    torch.nn.init.zeros_(model[0].weight)
    score = bundle_score(model, torch.randn(7, 3), torch.tensor([0, 0, 0, 1, 1, 2, 5]))
    assert (float(score), score.worst_layer) == (0.0, "1")


def test_the_worst_layer_is_that_of_the_largest_entropy_not_of_the_smallest_margin() -> None:
    """Rows 0 and 1 are equal from the start, so both layers have margin 0."""
    nn = torch.nn
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    nn.init.eye_(model[0].weight)
    nn.init.zeros_(model[2].weight)
    x, y = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [5.0, 0.0]]), torch.tensor([0, 1, 0, 1])
    score = bundle_score(model, x, y)
    assert {name: r.entropy > 0 for name, r in score.report.items()} == {"1": True, "3": True}
    assert (float(score), score.worst_layer) == (0.0, "3")


def test_nan_sorts_last() -> None:
    model = network(3, 16)
    broken = IMAGES.clone()
    broken[5] = math.nan
    score = bundle_score(model, broken, DIGITS)
    assert (score.score, score.margin_bits, score.worst_layer) == (0.0, -math.inf, "hidden.0")
    assert score < bundle_score(model, IMAGES, DIGITS)


def test_the_network_is_as_before() -> None:
    nn = torch.nn
    model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    bundle_score(model, IMAGES.flatten(1), DIGITS)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model] == [True, False, True, True, True]
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_other_probes_and_layers() -> None:
    model = network(10, 10, seed=1)
    expected = bundle_score(model, IMAGES, DIGITS)
    assert bundle_score(model, (IMAGES, DIGITS)) == expected
    assert bundle_score(model, {"x": IMAGES, "labels": DIGITS}) == expected
    assert bundle_score(model, [(IMAGES, DIGITS)]) == expected
    assert list(bundle_score(model, IMAGES, DIGITS, layers=r"hidden\.[01]").report) == ["hidden.0", "hidden.1"]


@pytest.mark.parametrize(
    ("x", "labels", "options", "words"),
    [
        (IMAGES, torch.zeros(512, dtype=torch.long), {}, r"the probe has the labels \[0\]; a score needs at least two"),
        (IMAGES, DIGITS, {"learning_rate": 0.0}, r"learning_rate is 0\.0; it must be positive"),
        (IMAGES, DIGITS, {"batch_size": -1}, "batch_size is -1"),
        ([(IMAGES, DIGITS), (IMAGES, DIGITS)], None, {}, "the probe has 2 batches; a score is taken on one"),
        (IMAGES, DIGITS[:5], {}, "5 labels"),
    ],
)
def test_what_has_no_score_is_refused(x: Any, labels: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bundle_score(network(3, 16), x, labels, **options)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model is a str; pass a torch\.nn\.Module"):
        bundle_score("resnet18", IMAGES, DIGITS)  # type: ignore[arg-type]
