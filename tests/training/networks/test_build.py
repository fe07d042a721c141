"""The papers' networks: parameters, names, values, what hooks and surgery see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks: NOT TESTED HERE (no torch)")

import cbkernels as cb  # noqa: E402
from cbkernels.models.residual_blocks import find_residual_blocks  # noqa: E402
from cbkernels.training.networks.architecture import Architecture  # noqa: E402
from cbkernels.training.networks.build import build_network  # noqa: E402
from cbkernels.training.networks.fully_connected import fnn  # noqa: E402
from cbkernels.training.networks.residual import PlainBlock  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products are slower with more threads, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded(seed: int = 0) -> Any:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("depth", "width"), [(1, 1), (3, 128), (50, 10)])
def test_parameters_and_names(depth: int, width: int) -> None:
    model = fnn(depth, width)
    assert (
        sum(p.numel() for p in model.parameters()) == 65 * width + (depth - 1) * (width + 1) * width + (width + 1) * 10
    )
    assert [name for name, _ in model.named_children()] == ["hidden", "output"]
    assert list(model.state_dict()) == [
        f"{layer}.{part}" for layer in (*(f"hidden.{i}" for i in range(depth)), "output") for part in ("weight", "bias")
    ]


def test_computes_what_it_says() -> None:
    model = fnn(2, 5, num_inputs=4, num_classes=3, generator=seeded(1))
    x = torch.randn(7, 2, 2, generator=seeded(2))
    h = x.reshape(7, 4).numpy()
    for layer in model.hidden:
        h = np.maximum(h @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    logits = h @ model.output.weight.detach().numpy().T + model.output.bias.detach().numpy()
    assert model(x).detach().numpy() == pytest.approx(logits, abs=1e-6)
    assert (logits < 0).any()


def test_he_uniform_weights_and_zero_biases() -> None:
    model = fnn(2, 400, generator=torch.Generator().manual_seed(0))
    for layer, fan_in in ((model.hidden[0], 64), (model.hidden[1], 400), (model.output, 400)):
        bound = (6 / fan_in) ** 0.5
        weights = layer.weight.detach()
        assert float(weights.abs().max()) <= bound
        assert float(weights.abs().max()) > 0.99 * bound
        assert float(weights.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert (layer.bias == 0).all()


def test_torch_weights_are_those_of_linear() -> None:
    model = fnn(1, 400, weights="torch", generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    theirs = torch.nn.Linear(64, 400)
    for part in ("weight", "bias"):
        ours, other = getattr(model.hidden[0], part).detach(), getattr(theirs, part).detach()
        assert float(ours.abs().max()) == pytest.approx(float(other.abs().max()), rel=0.02)
        assert float(ours.std()) == pytest.approx(float(other.std()), rel=0.1)


def test_a_generator_decides_and_the_global_one_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (fnn(2, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert (torch.rand(3) == expected).all()
    assert (first.output.weight == second.output.weight).all()
    assert not (first.output.weight == other.output.weight).any()


@pytest.mark.parametrize("sizes", [(0, 8), (3, 0), (3, 8, -1), (3, 8, 64, 2.5)])
def test_refuses_sizes(sizes: Any) -> None:
    with pytest.raises(ValueError, match="must be a positive integer"):
        fnn(*sizes)


def test_refuses_unknown_weights() -> None:
    with pytest.raises(ValueError, match="'glorot'"):
        fnn(2, 8, weights="glorot")


# --- convolutional networks


def small(model: str, blocks: tuple[int, ...] = (2, 1, 0, 1), **more: Any) -> Any:
    architecture = Architecture(blocks, model, width_multiplier=1 / 8)
    return build_network(architecture, (3, 16, 16), 10, generator=seeded(), **more)


@pytest.mark.parametrize(
    ("blocks", "millions"),
    [
        ((1, 0, 0, 0), "0.084"), ((1, 1, 1, 1), "4.74"), ((2, 2, 3, 2), "12.19"), ((3, 3, 5, 3), "19.65"),
        ((3, 6, 12, 3), "28.80"), ((3, 6, 25, 3), "44.16"), ((3, 12, 31, 3), "53.02"), ((3, 12, 41, 3), "64.83"),
    ],
)  # fmt: skip
def test_plain_networks_have_the_papers_numbers_of_parameters(blocks: tuple[int, ...], millions: str) -> None:
    model = build_network(Architecture(blocks, "vgg"), (3, 32, 32), 10, generator=seeded())
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert f"{count:.{len(millions.partition('.')[2])}f}" == millions


@pytest.mark.parametrize("blocks", [(3, 12, 41, 3), (1, 0, 2, 0), (0, 1, 0, 0)])
def test_projections_are_all_that_a_residual_network_adds(blocks: tuple[int, ...]) -> None:
    plain, residual = (
        build_network(Architecture(blocks, kind, width_multiplier=1 / 8), (3, 32, 32), 10) for kind in ("vgg", "resnet")
    )
    added, before = 0, 8
    for number, filters in zip(blocks, (8, 16, 32, 64), strict=True):
        if number and filters > 8:
            added += before * filters + filters + 2 * filters
        before = filters if number else before
    count = [sum(p.numel() for p in model.parameters()) for model in (plain, residual)]
    assert count[1] - count[0] == added > 0


@pytest.mark.parametrize(("width", "first"), [(50, 25), (51, 13)])
def test_only_images_wider_than_50_pixels_are_pooled(width: int, first: int) -> None:
    model = build_network(Architecture((1, 1, 1, 1), "vgg", width_multiplier=1 / 16), (1, 10, width), 7)
    sizes = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[3]))
    assert model(torch.randn(2, 1, 10, width)).shape == (2, 7)
    assert sizes == [first, -(-first // 2), -(-first // 4), -(-first // 8)]
    assert model.head.in_features == 32


def test_an_empty_stage_takes_its_stride_and_width_with_it() -> None:
    for kind in ("vgg", "resnet"):
        model = small(kind, (0, 2, 0, 1))
        assert model.block_names() == [[], ["stages.1.0", "stages.1.1"], [], ["stages.3.0"]]
        branches = [model.get_submodule(name).branch for stage in model.block_names() for name in stage]
        assert [(b.conv1.in_channels, b.conv1.out_channels, b.conv1.stride[0]) for b in branches] == [
            (8, 16, 2), (16, 16, 1), (16, 64, 2),
        ]  # fmt: skip
        assert model.head.in_features == 64
        assert model(torch.randn(2, 3, 16, 16)).shape == (2, 10)
    without_blocks = small("vgg", (0, 0, 0, 0))
    assert without_blocks.block_names() == [[], [], [], []]
    assert without_blocks(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_widths_are_rounded_and_at_least_one() -> None:
    model = build_network(Architecture((1, 1, 1, 1), "vgg", width_multiplier=0.007), (1, 8, 8), 2)
    assert [stage[0].branch.conv1.out_channels for stage in model.stages] == [1, 1, 2, 4]


def test_blocks_compute_what_they_say() -> None:
    """With the operations written out, and with statistics and scales that are not those of the start."""
    generator = seeded(3)

    def normed(x: Any, norm: Any) -> Any:
        mean, var, gamma, beta = (
            p.detach()[:, None, None] for p in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (x - mean) / (var + 1e-5).sqrt() * gamma + beta

    def convolved(x: Any, conv: Any) -> Any:
        return torch.nn.functional.conv2d(x, conv.weight, conv.bias, conv.stride, conv.padding)

    for kind in ("vgg", "resnet"):
        model = small(kind, (1, 2, 0, 0)).eval()
        with torch.no_grad():
            for tensor in [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]:
                tensor += torch.rand(tensor.shape, generator=generator) * 0.1 - 0.03
            x = torch.randn(4, 3, 16, 16, generator=generator)
            h = normed(convolved(x, model.stem.conv), model.stem.bn).relu()
            for block in (model.stages[0][0], model.stages[1][0], model.stages[1][1]):
                branch = block.branch
                b = normed(convolved(h, branch.conv1), branch.bn1).relu()
                b = normed(convolved(b, branch.conv2), branch.bn2)
                if kind == "resnet":
                    shortcut = block.shortcut
                    b = b + (normed(convolved(h, shortcut.conv), shortcut.bn) if len(list(shortcut.children())) else h)
                h = b.relu()
            logits = h.mean((2, 3)) @ model.head.weight.T + model.head.bias
            assert (model(x) - logits).abs().max() < 1e-5 * logits.abs().max()
            assert model.stages[1][0].branch.conv1.stride == (2, 2)


def test_he_normal_weights_zero_biases_and_plain_norms() -> None:
    model = build_network(Architecture((1, 1, 0, 0), "resnet"), (3, 32, 32), 1000, generator=seeded())
    seen = 0
    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            expected = (2 / module.weight[0].numel()) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.05), module
            assert float(module.weight.detach().abs().max()) > 3 * expected
            assert (module.bias == 0).all()
            seen += 1
        elif isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert (module.running_mean == 0).all()
            assert (module.running_var == 1).all()
    assert seen == 7


def test_torch_weights_are_those_of_conv2d() -> None:
    model = build_network(Architecture((1, 0, 0, 0), "vgg"), (3, 32, 32), 1000, weights="torch", generator=seeded())
    torch.manual_seed(0)
    of_torch = (torch.nn.Conv2d(64, 64, 3), torch.nn.Linear(64, 1000))
    for ours, theirs in zip((model.stages[0][0].branch.conv1, model.head), of_torch, strict=True):
        bound = float(ours.weight[0].numel() ** -0.5)
        for layer in (ours, theirs):
            for values in (layer.weight.detach(), layer.bias.detach()):
                assert 0.9 * bound < float(values.abs().max()) <= bound
                assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=0.2 if len(values) == 64 else 0.05)
                assert float(values.min()) < -0.8 * bound


@pytest.mark.parametrize("kind", ["fnn", "vgg", "resnet"])
def test_building_takes_numbers_of_its_generator_only(kind: str) -> None:
    architecture = Architecture((2,) if kind == "fnn" else (1, 1, 0, 1), kind, width_multiplier=1 / 8)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (
        build_network(architecture, (3, 8, 8), 10, generator=seeded(s)).state_dict() for s in (1, 1, 2)
    )
    assert (torch.rand(3) == expected).all()
    assert all((first[name] == again[name]).all() for name in first)
    weights = [name for name in first if first[name].ndim > 1]
    assert weights
    assert not any((first[name] == other[name]).any() for name in weights)


@pytest.mark.parametrize(
    ("deep", "short"),
    [("fnn 9", "fnn 4"), ("cnn 4", "cnn 2"), ("vgg 2 3 2 1", "vgg 2 1 2 1"), ("resnet 1 3", "resnet 1 2")],
)
def test_blocks_in_front_of_a_cut_start_with_the_same_weights(deep: str, short: str) -> None:
    """What policy "added" found of them before the training holds of the shorter network too (docs/method.md)."""
    built = []
    for model, *blocks in (deep.split(), short.split()):
        counts = tuple(map(int, blocks)) if model in ("fnn", "cnn") else (*map(int, blocks), 0, 0)[:4]
        architecture = Architecture(counts, model, width_multiplier=1 / 16)
        built.append(build_network(architecture, (1, 8, 8), 10, generator=seeded(3)))
    left, before = built[1].state_dict(), built[0].state_dict()
    names = [(one, other) for one, other in zip(*(network.block_names() for network in built), strict=True)]
    cut = next(stage for stage, (one, other) in enumerate(names) if one != other)
    in_front = [name for _, other in names[: cut + 1] for name in other]
    compared = [name for name in left if name.startswith(tuple(f"{block}." for block in in_front))]
    assert len(compared) >= len(in_front) > 0
    assert all(left[name].equal(before[name]) for name in compared)


def test_fnn_is_built_by_its_architecture() -> None:
    model = build_network(Architecture((3,), "fnn", width=5), (1, 8, 8), 10, generator=seeded())
    same = fnn(3, 5, 64, 10, generator=seeded())
    assert model.block_names() == [["hidden.0", "hidden.1", "hidden.2"]]
    assert all((a == b).all() for a, b in zip(model.parameters(), same.parameters(), strict=True))
    started_by_torch = build_network(Architecture((3,), "fnn", width=5), (1, 8, 8), 10, weights="torch")
    assert (started_by_torch.hidden[1].bias != 0).any()


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_a_hook_on_any_module_sees_values_that_stay(kind: str) -> None:
    model = small(kind).eval()
    seen: dict[str, tuple[Any, Any]] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda m, i, output, name=name: seen.update({name: (output, output.clone())}))
    with torch.no_grad():
        model(torch.randn(4, 3, 16, 16, generator=seeded()))
    assert len(seen) > 30
    assert all(bool((kept == copy).all()) for kept, copy in seen.values())


@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_channels_last_and_compiled_give_the_same(kind: str) -> None:
    model = small(kind).eval()
    x = torch.randn(4, 3, 16, 16, generator=seeded())
    with torch.no_grad():
        expected = model(x)
        compiled = torch.compile(model, backend="eager")(x) if kind == "resnet" else expected  # one is slow enough
        model.to(memory_format=torch.channels_last)
        in_place = model(x.to(memory_format=torch.channels_last))
    assert (compiled == expected).all()
    assert (in_place - expected).abs().max() < 1e-4


def test_the_monitor_sees_branches_before_the_shortcut() -> None:
    model = small("resnet")
    names = [name for stage in model.block_names() for name in stage]
    x = torch.randn(8, 3, 16, 16, generator=seeded())
    monitor = cb.LayerMonitor(model, (x, torch.arange(8) % 2), grid=None)
    assert set(monitor.measure()) == {*names, *(f"{name}.branch" for name in names)}


@pytest.mark.parametrize("example", [None, torch.zeros(2, 3, 16, 16).normal_(generator=seeded())])
def test_removed_blocks_leave_their_shortcut_and_relu(example: Any) -> None:
    model = small("resnet").eval()
    names = [name for stage in model.block_names() for name in stage]
    found = find_residual_blocks(model, None if example is None else lambda: model(example))
    assert list(found) == names == ["stages.0.0", "stages.0.1", "stages.1.0", "stages.3.0"]
    assert all(block.branches == (f"{name}.branch",) for name, block in found.items())
    kept = {name: model.get_submodule(name) for name in names}
    x = torch.randn(4, 3, 16, 16, generator=seeded(1))
    model, surgery = cb.remove_layers(model, ["stages.0.0", "stages.1.0.branch"], example=example)
    assert surgery.removed == ["stages.0.0", "stages.1.0"]
    with torch.no_grad():
        h = kept["stages.0.1"](model.stem(x).relu())
        h = kept["stages.1.0"].shortcut(h).relu()
        h = kept["stages.3.0"](h)
        assert (model(x) == model.head(h.mean((2, 3)))).all()
    assert model.block_names() == [["stages.0.0", "stages.0.1"], ["stages.1.0"], [], ["stages.3.0"]]


def test_a_plain_block_cannot_be_cut_out() -> None:
    with pytest.raises(ValueError, match=r"'stages.0.0' \(PlainBlock\)"):
        cb.remove_layers(small("vgg"), ["stages.0.0"])


def test_every_parameter_of_a_block_learns() -> None:
    for kind in ("vgg", "resnet"):
        model = small(kind)
        torch.nn.functional.cross_entropy(
            model(torch.randn(8, 3, 16, 16, generator=seeded())), torch.arange(8)
        ).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert all(isinstance(block, PlainBlock) for stage in model.stages for block in stage)


@pytest.mark.parametrize(
    ("architecture", "shape", "classes", "weights", "says"),
    [
        (Architecture((1, 1, 1), "vgg"), (3, 8, 8), 10, "he", r"\[1, 1, 1\]; vgg has 4 stages"),
        (Architecture((1, 1), "fnn"), (3, 8, 8), 10, "he", r"\[1, 1\]; fnn has 1 stage, pass 1 number"),
        (Architecture((0,), "fnn"), (3, 8, 8), 10, "he", "depth is 0"),
        (Architecture((1,), "own"), (3, 8, 8), 10, "he", "model is 'own'"),
        (Architecture((1, 1, 1, 1), "vgg"), (3, 8), 10, "he", r"image_shape is \(3, 8\)"),
        (Architecture((1, 1, 1, 1), "vgg"), (3, 8, 0), 10, "he", r"image_shape is \(3, 8, 0\)"),
        (Architecture((1, 1, 1, 1), "resnet"), (3, 8, 8), 0, "he", "num_classes is 0"),
        (Architecture((1, 1, 1, 1), "resnet"), (3, 8, 8), 10, "he_uniform", "weights is 'he_uniform'"),
    ],
)
def test_refuses_what_cannot_be_built(architecture: Any, shape: Any, classes: int, weights: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build_network(architecture, shape, classes, weights=weights)


# --- convolutions of one width


@pytest.mark.parametrize(("pixels", "sizes"), [(8, [4, 2, 2]), (28, [14, 7, 3]), (3, [3, 3, 3])])
def test_convolutions_of_one_width_halve_images_down_to_3_pixels(pixels: int, sizes: list[int]) -> None:
    model = build_network(Architecture((3,), "cnn", width=5), (1, pixels, pixels), 7, generator=seeded())
    x = torch.rand(2, 1, pixels, pixels)
    seen = []
    for layer in model.hidden:
        x = layer(x)
        seen.append(x.shape)
    assert seen == [(2, 5, size, size) for size in sizes]
    assert model.block_names() == [["hidden.0", "hidden.1", "hidden.2"]]
    logits = model(torch.rand(2, 1, pixels, pixels))
    assert logits.shape == (2, 7)
    filters = 9 * (1 + 5 + 5) * 5 + 3 * 5
    assert sum(p.numel() for p in model.parameters()) == filters + 3 * 10 + (5 + 1) * 7


def test_a_convolution_of_one_width_computes_what_it_says() -> None:
    layer = build_network(Architecture((1,), "cnn", width=2), (1, 4, 4), 3, generator=seeded()).hidden[0].eval()
    x = torch.rand(1, 1, 4, 4)
    padded = np.pad(x[0, 0].numpy(), 1)
    weight, bias = layer.conv.weight.detach().numpy(), layer.conv.bias.detach().numpy()
    full = np.array([
        [[(padded[r : r + 3, c : c + 3] * weight[f, 0]).sum() + bias[f] for c in range(4)] for r in range(4)]
        for f in range(2)
    ])  # fmt: skip
    normed = np.maximum(full / np.sqrt(1 + layer.bn.eps), 0)
    pooled = normed.reshape(2, 2, 2, 2, 2).max((2, 4))
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), pooled, rtol=1e-5, atol=1e-6)
