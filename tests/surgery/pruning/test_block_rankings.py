"""Every ranking gives the scores that its definition says, worked out in another way."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="rankings of blocks: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402

from cbkernels.grid import UpdateGrid  # noqa: E402
from cbkernels.models.branches import measure_blocks  # noqa: E402
from cbkernels.models.probe import as_probe  # noqa: E402
from cbkernels.surgery.plan import removable_blocks  # noqa: E402
from cbkernels.surgery.pruning.block_rankings import RANKINGS, of_user, ranked  # noqa: E402
from cbkernels.surgery.pruning.block_scores import Candidates, probe_on  # noqa: E402
from cbkernels.surgery.surgery import remove_layers  # noqa: E402
from cbkernels.training.networks.architecture import Architecture  # noqa: E402
from cbkernels.training.networks.build import build_network  # noqa: E402

from ...model_zoo import BranchBlock, build, output_of  # noqa: E402

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
GRID = UpdateGrid(1e-3, 64, 1.5)


def asked(model: Any, example: Any, labels: Any = LABELS, grid: Any = GRID, loss: Any = None, seed: int = 0) -> Any:
    probe = {**example, "labels": labels} if isinstance(example, dict) else (example, labels)
    batches = probe_on(model, as_probe(probe))
    removable = removable_blocks(model, example)
    names = {name: name for name in removable.found.blocks}
    return Candidates(model, removable, batches, grid, loss, seed, names)


def scores(rank: str, model: Any, example: Any, **options: Any) -> dict[str, float]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    found = ranked(RANKINGS.chosen(rank), asked(model, example, **options))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert flags == [module.training for module in model.modules()]
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return found


@pytest.fixture(scope="module")
def network() -> tuple[Any, Any, Any]:
    """A residual network of this package, its inputs and labels; batch norms as after some training."""
    torch.manual_seed(0)
    model = build_network(Architecture((2, 2, 0, 0), "resnet", width_multiplier=0.125), (1, 16, 16), 3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    images = torch.randn(12, 1, 16, 16)
    model.train()
    with torch.no_grad():
        model(images)
    return model, images, torch.arange(12) % 3


def test_margins_are_those_of_the_paper(network: Any) -> None:
    model, images, labels = network
    expected = measure_blocks(model, model.block_names(), images, labels, GRID)
    found = scores("margin", model, images, labels=labels)
    assert found == {block.block: block.margin for block in expected if block.block in found}
    assert len(found) == 4
    assert list(found.values()) == sorted(found.values())


def test_conflicts_are_those_of_the_paper_and_others_stay(network: Any) -> None:
    model, images, labels = network
    last = model.get_submodule(f"{model.block_names()[1][1]}.branch")
    kept = [module.weight.detach().clone() for module in last.modules() if isinstance(module, nn.BatchNorm2d)]
    assert scores("conflicts", model, images, labels=labels) == {}
    with torch.no_grad():
        for module in last.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.mul_(0)
    expected = measure_blocks(model, model.block_names(), images, labels, GRID)
    found = scores("conflicts", model, images, labels=labels)
    with torch.no_grad():
        for module, weight in zip((m for m in last.modules() if isinstance(m, nn.BatchNorm2d)), kept, strict=True):
            module.weight.copy_(weight)
    assert found == {block.block: -block.result.entropy for block in expected if block.result.num_conflicting}
    assert list(found) == [model.block_names()[1][1]]


@pytest.mark.parametrize("name", ["resnet_basic", "branch_net"])
def test_similarity_is_the_cosine_with_what_removal_leaves(name: str) -> None:
    model, example = build(name)
    found = scores("similarity", model, example)
    for block in found:
        outputs = []
        for cut in (False, True):
            again, _ = build(name)
            again.eval()
            if cut:
                remove_layers(again, block, example=example)
            again.get_submodule(block).register_forward_hook(lambda m, a, y, kept=outputs: kept.append(y.clone()))
            output_of(again, example)
        whole, left = (output.flatten(1) for output in outputs)
        expected = 1 - float(torch.where((whole == left).all(1), 1.0, torch.cosine_similarity(whole, left)).mean())
        assert found[block] == pytest.approx(expected, abs=1e-6)


def test_block_influence_of_a_transformer_is_a_mean_over_tokens() -> None:
    model, example = build("nano_gpt")
    found = scores("similarity", model, example)
    model.eval()
    seen: dict[str, Any] = {}
    for i, block in enumerate(model.transformer.h):
        block.register_forward_hook(lambda m, x, y, i=i: seen.update({f"transformer.h.{i}": (x[0], y)}))
    with torch.no_grad():
        model(example)
    for name, (x, y) in seen.items():
        cosines = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
        assert found[name] == pytest.approx(1 - float(cosines.mean()), abs=1e-6)


def test_taylor_is_the_slope_of_the_loss_in_the_size_of_the_branch() -> None:
    model, example = build("branch_net")
    found = scores("taylor", model, example)

    class Scaled(nn.Module):
        def __init__(self, branch: nn.Module, factor: torch.Tensor) -> None:
            super().__init__()
            self.branch, self.factor = branch, factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.branch(x) * self.factor

    for name in found:
        block = model.get_submodule(name)
        assert isinstance(block, BranchBlock)
        branch, slopes = block.branch, []
        for sample in range(6):
            values = []
            for step in (-1e-3, 1e-3):
                factor = torch.ones(6, 1, dtype=torch.float64)
                factor[sample] += step
                block.branch = Scaled(branch, factor)
                with torch.no_grad():
                    values.append(
                        nn.functional.cross_entropy(model.double()(example.double()), LABELS, reduction="sum")
                    )
                block.branch = branch
            slopes.append(abs(float(values[1] - values[0]) / 2e-3))
        model.float()
        assert found[name] == pytest.approx(sum(slopes) / 6, rel=1e-3)


def test_taylor_needs_logits_or_a_loss() -> None:
    model, example = build("nano_gpt")
    with pytest.raises(ValueError, match=r"rank is 'taylor', but the model returns a tensor of shape \(6, 9, 50\)"):
        scores("taylor", model, example)
    found = scores("taylor", model, example, loss=lambda output, labels: output[0].square().mean())
    assert len(found) == 4
    assert all(score > 0 for score in found.values())


def test_weights_and_scales_of_the_last_layer_of_the_branch() -> None:
    model, example = build("resnet_basic")
    blocks = ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer2.2")
    norms = scores("weight_norm", model, example)
    scales = scores("bn_scale", model, example)
    for name in blocks:
        block = model.get_submodule(name)
        assert norms[name] == pytest.approx(float(block.conv2.weight.detach().pow(2).mean()) ** 0.5)
        assert scales[name] == pytest.approx(float(block.bn2.weight.detach().abs().mean()))
    model, example = build("nano_gpt")
    norms = scores("weight_norm", model, example)
    for i, block in enumerate(model.transformer.h):
        last = [part.c_proj.weight.detach().pow(2).mean().sqrt() for part in (block.attn, block.mlp)]
        assert norms[f"transformer.h.{i}"] == pytest.approx(float(max(last)))
    with pytest.raises(ValueError, match="rank is 'bn_scale', but no branch has a batch norm with a scale"):
        scores("bn_scale", model, example)


def test_random_depends_on_the_seed_and_the_name_alone() -> None:
    model, example = build("resnet_basic")
    whole = scores("random", model, example, seed=3)
    assert whole == scores("random", model, example, seed=3) != scores("random", model, example, seed=4)
    assert len(set(whole.values())) == 5
    remove_layers(model, "layer2.1", example=example)
    assert scores("random", model, example, seed=3) == {k: v for k, v in whole.items() if k != "layer2.1"}


def test_equal_scores_take_the_later_block_first_and_nan_comes_last() -> None:
    model, example = build("resnet_basic")
    table = {"layer1.0": 1.0, "layer1.1": math.nan, "layer2.0": 0.0, "layer2.1": 1.0}
    order = ranked(of_user(lambda model, names: table), asked(model, example))
    assert list(order) == ["layer2.0", "layer2.1", "layer1.0", "layer1.1"]


@pytest.mark.parametrize("rank", sorted(RANKINGS.keys() - {"bn_scale"}))
def test_every_ranking_takes_a_transformer_and_several_batches(rank: str) -> None:
    model, example = build("torch_encoder")
    removable = removable_blocks(model, example)
    names = {name: name for name in removable.found.blocks}
    two = probe_on(model, as_probe([(example, LABELS), (example[:4], LABELS[:4])]))
    found = ranked(RANKINGS.chosen(rank), Candidates(model, removable, two, GRID, None, 0, names))
    assert set(found) == ({*names} if rank != "conflicts" else set())
