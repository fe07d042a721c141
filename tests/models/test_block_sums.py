"""What a practitioner would call blocks, branches and shortcuts, in one small model for every way to write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="residual sums: NOT TESTED HERE (no torch)")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from cbkernels.models.evaluation import evaluating  # noqa: E402
from cbkernels.models.residual_blocks import Findings, findings  # noqa: E402
from cbkernels.surgery.surgery import remove_layers  # noqa: E402

from ..model_zoo import Part  # noqa: E402

ROWS = (6, 8)
TOKENS = (2, 5, 8)
IMAGES = (2, 4, 6, 6)
Forward = Callable[..., Any]


class Block(Part):
    """Of parts by name, see ``Part``; its name is in what is told of it."""


def mlp(width: int = 8, out: int = 8) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, out))


def conv(inputs: int = 4, outputs: int = 4, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)


def convs(inputs: int = 4, outputs: int = 4, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU(), conv(outputs, outputs))


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / 4)


def seen(model: nn.Module, *inputs: torch.Tensor) -> Findings:
    with evaluating(model) as inner:
        return findings(inner, lambda: inner(*inputs))


def around(block: nn.Module) -> nn.Module:
    """A model whose part "block" is the block."""
    return Block(lambda model, *inputs: model.block(*inputs), block=block)


# --- blocks ------------------------------------------------------------------------------------------------


def rezero() -> nn.Module:
    """ReZero, SkipInit, LayerScale as a product; the gain is still 0."""
    return Block(lambda b, x: x + b.gain * b.f(x), f=mlp(), gain=nn.Parameter(torch.zeros(())))


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = parameter(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


def gated() -> nn.Module:
    """As in DiT, SD3 and Flux: shift, scale and gate come from the condition, a second input."""

    def forward(b: Any, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = b.modulation(F.silu(condition)).chunk(3, -1)
        return x + gate.unsqueeze(1) * b.f(b.norm(x) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1))

    return Block(forward, norm=nn.LayerNorm(8), f=mlp(), modulation=nn.Linear(3, 24))


def mixer() -> nn.Module:
    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        x = x + b.tokens(b.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + b.channels(b.norm2(x))

    return Block(forward, norm1=nn.LayerNorm(8), tokens=mlp(5, 5), norm2=nn.LayerNorm(8), channels=mlp())


def conformer() -> nn.Module:
    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        x = x + 0.5 * b.ff1(x)
        x = x + b.mix(x.transpose(1, 2)).transpose(1, 2)
        return b.norm(x + 0.5 * b.ff2(x))

    return Block(forward, ff1=mlp(), mix=nn.Conv1d(8, 8, 3, padding=1), ff2=mlp(), norm=nn.LayerNorm(8))


def preactivation() -> nn.Module:
    """The shortcut starts behind norm and ReLU."""

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(b.bn1(x))
        return b.conv2(torch.relu(b.bn2(b.conv1(h)))) + b.shortcut(h)

    parts = {"bn1": nn.BatchNorm2d(4), "bn2": nn.BatchNorm2d(6), "conv1": conv(4, 6), "conv2": conv(6, 6)}
    return Block(forward, **parts, shortcut=conv(4, 6, kernel=1))


def option_a() -> nn.Module:
    """The first ResNet's shortcut without weights."""

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(b.f(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1)))

    return Block(forward, f=convs(4, 6, 2))


def squeezed() -> nn.Module:
    """Squeeze-and-excitation, written in the block."""

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        h = b.f(x)
        return torch.relu(x + h * torch.sigmoid(b.excite(F.relu(b.squeeze(h.mean((2, 3), keepdim=True))))))

    return Block(forward, f=convs(), squeeze=conv(4, 2, kernel=1), excite=conv(2, 4, kernel=1))


def two_attributes() -> nn.Module:
    """The projection is a convolution and a norm of their own, as in Xception."""
    return Block(
        lambda b, x: b.f(x) + b.skipbn(b.skip(x)), f=convs(4, 6), skip=conv(4, 6, kernel=1), skipbn=nn.BatchNorm2d(6)
    )


def unnamed_projection() -> nn.Module:
    """Nothing but its weight tells which of the two is the shortcut."""
    return Block(lambda b, x: F.relu(b.b(x) + b.a(x)), a=conv(4, 6, kernel=1), b=convs(4, 6))


def functional() -> nn.Module:
    """No children at all."""
    return Block(lambda b, x: x + F.linear(F.gelu(F.linear(x, b.one)), b.two), one=parameter(9, 8), two=parameter(8, 9))


def in_a_loop() -> nn.Module:
    """A gated residual over a ParameterList."""

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        for weight, gate in zip(b.weights, b.gates, strict=True):
            x = x + gate * torch.tanh(x @ weight)
        return x

    weights, gates = ([parameter(*shape) for _ in range(3)] for shape in ((8, 8), (8,)))
    return Block(forward, weights=nn.ParameterList(weights), gates=nn.ParameterList(gates))


def windowed() -> nn.Module:
    """As Swin in timm: the shape changes between the two sums."""

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape
        x = x.permute(0, 2, 3, 1)
        x = x + torch.roll(b.attn(torch.roll(b.norm1(x), 1, 1)), -1, 1)
        x = x.reshape(shape[0], -1, shape[1])
        x = x + b.mlp(b.norm2(x))
        return x.transpose(1, 2).reshape(shape)

    return Block(forward, norm1=nn.LayerNorm(4), attn=mlp(4, 4), norm2=nn.LayerNorm(4), mlp=mlp(4, 4))


def lerped() -> nn.Module:
    return Block(lambda b, x: torch.lerp(x, b.f(x), 0.3), f=mlp())


def in_two_streams() -> nn.Module:
    """As in Flux: the stream of the text comes back first."""

    def forward(b: Any, x: torch.Tensor, text: torch.Tensor) -> Any:
        both = b.attn(torch.cat([text, x], 1))
        return text + b.out_text(both[:, : text.shape[1]]), x + b.out(both[:, text.shape[1] :])

    return Block(forward, attn=mlp(), out=nn.Linear(8, 8), out_text=nn.Linear(8, 8))


def masked_add(b: Any, x: torch.Tensor) -> torch.Tensor:
    out = b.f(x)
    out += x
    return F.relu(out, inplace=True)


def pooled(b: Any, x: torch.Tensor) -> torch.Tensor:
    return x + b.f(x)


NO = None
BLOCKS: dict[str, tuple[Callable[[], nn.Module], Any, tuple[str, ...], str | None, str | None, str | None]] = {
    # name: block, shapes of its inputs, branches, shortcut, behind, why it cannot be replaced
    "rezero": (rezero, [ROWS], ("f",), NO, NO, NO),
    "layer scale, a module": (
        lambda: Block(lambda b, x: x + b.scale(b.drop(b.f(x))), f=mlp(), scale=LayerScale(), drop=nn.Dropout()),
        [ROWS], ("f",), NO, NO, NO,
    ),
    "scaled sum": (lambda: Block(lambda b, x: (x + b.f(x)) * 0.5**0.5, f=mlp()), [ROWS], ("f",), NO, NO, NO),
    "EDSR": (lambda: Block(lambda b, x: x + 0.1 * b.f(x), f=convs()), [IMAGES], ("f",), NO, NO, NO),
    "EDSR, in place": (lambda: Block(lambda b, x: b.f(x).mul_(0.1).add_(x), f=convs()), [IMAGES], ("f",), NO, NO, NO),
    "alpha": (lambda: Block(lambda b, x: torch.add(x, b.f(x), alpha=0.1), f=mlp()), [ROWS], ("f",), NO, NO, NO),
    "addcmul": (
        lambda: Block(lambda b, x: torch.addcmul(x, b.gain, b.f(x)), f=mlp(), gain=parameter(8)),
        [ROWS], ("f",), NO, NO, NO,
    ),
    "lerp": (lerped, [ROWS], ("f",), NO, NO, NO),
    "scatter_add": (
        lambda: Block(lambda b, x: x.scatter_add(1, torch.arange(8).flip(0).expand(6, 8), b.f(x)), f=mlp()),
        [ROWS], ("f",), NO, NO, NO,
    ),
    "index_add to a part": (
        lambda: Block(lambda b, x: x.index_add(1, torch.tensor([1, 3, 4]), b.f(x[:, 1:4]), alpha=0.5), f=mlp(3, 3)),
        [ROWS], ("f",), NO, NO, NO,
    ),
    "addmm": (
        lambda: Block(lambda b, x: torch.addmm(x, b.f(x), b.out), f=mlp(), out=parameter(8, 8)),
        [ROWS], ("f",), NO, NO, NO,
    ),
    "addmm of the input": (
        lambda: Block(lambda b, x: b.norm(torch.addmm(x, x, b.out)) + 0, out=parameter(8, 8), norm=nn.Identity()),
        [ROWS], (), NO, NO, NO,
    ),
    "baddbmm": (
        lambda: Block(lambda b, x: torch.baddbmm(x, b.f(x), b.out.expand(2, 8, 8)), f=mlp(), out=parameter(8, 8)),
        [TOKENS], ("f",), NO, NO, NO,
    ),
    "index_add, in place": (
        lambda: Block(lambda b, x: x.clone().index_add_(0, torch.arange(6), b.f(x)), f=mlp()),
        [ROWS], ("f",), NO, NO, NO,
    ),
    "gate of a parameter": (
        lambda: Block(lambda b, x: (1 - b.g) * x + b.g * b.f(x), f=mlp(), g=parameter(1)), [ROWS], ("f",), NO, NO, NO,
    ),
    "gate of a condition": (gated, [TOKENS, (2, 3)], ("f",), NO, NO, NO),
    "mixer": (mixer, [TOKENS], ("tokens", "channels"), NO, NO, NO),
    "conformer": (conformer, [TOKENS], ("ff1", "mix", "ff2"), NO, "norm", NO),
    "GELU behind the sum, a module": (
        lambda: Block(lambda b, x: b.act(x + b.f(x)), f=mlp(), act=nn.GELU()), [ROWS], ("f",), NO, "act", NO,
    ),
    "GELU behind the sum, a function": (
        lambda: Block(lambda b, x: F.gelu(x + b.f(x)), f=mlp()), [ROWS], ("f",), NO, NO, "ends in 'gelu'",
    ),
    "ReLU as a clamp": (lambda: Block(lambda b, x: (x + b.f(x)).clamp(min=0), f=mlp()), [ROWS], ("f",), NO, "relu", NO),
    "clamp": (
        lambda: Block(lambda b, x: (x + b.f(x)).clamp(0, 1), f=mlp()), [ROWS], ("f",), NO, NO, "ends in 'clamp'",
    ),
    "ReLU in place": (lambda: Block(masked_add, f=convs()), [IMAGES], ("f",), NO, "relu", NO),
    "activation behind the branch": (
        lambda: Block(lambda b, x: x + F.relu(b.norm(b.f(x))), f=nn.Linear(8, 8), norm=nn.LayerNorm(8)),
        [ROWS], ("norm",), NO, NO, NO,
    ),
    "branch behind a norm, minus": (
        lambda: Block(lambda b, x: x - b.f(b.norm(x)), f=mlp(), norm=nn.LayerNorm(8)), [ROWS], ("f",), NO, NO, NO,
    ),
    "two branches in one sum": (
        lambda: Block(lambda b, x: x + (b.a(x) + b.b(x)), a=mlp(), b=mlp()), [ROWS], ("a", "b"), NO, NO, NO,
    ),
    "two branches in two sums": (
        lambda: Block(lambda b, x: x + b.a(x) + b.b(x), a=mlp(), b=mlp()), [ROWS], ("a", "b"), NO, NO, NO,
    ),
    "pre-activation projection": (
        preactivation, [IMAGES], ("conv2",), "shortcut", NO, "makes its shortcut with 'block.bn1' and 'relu' and",
    ),
    "projection of two attributes": (
        two_attributes, [IMAGES], ("f",), "skip", NO, "makes its shortcut with 'block.skip' and 'block.skipbn'",
    ),
    "projection without a name": (unnamed_projection, [IMAGES], ("b",), "a", "relu", NO),
    "projection into three": (
        lambda: Block(
            lambda b, x: b.down(x) + b.f(x) + b.g(x), f=convs(4, 6), g=convs(4, 6), down=conv(4, 6, kernel=1)
        ),
        [IMAGES], ("f", "g"), "down", NO, NO,
    ),
    "option A": (option_a, [IMAGES], ("f",), NO, "relu", "makes its shortcut with 'slice' and"),
    "norm on the shortcut": (
        lambda: Block(lambda b, x: F.relu(b.identity(x) + b.a(x)), identity=nn.BatchNorm2d(4), a=convs()),
        [IMAGES], ("a",), "identity", "relu", NO,
    ),
    "squeeze and excitation": (squeezed, [IMAGES], ("f",), NO, "relu", NO),
    "attention residual": (
        lambda: Block(lambda b, x: x + x * torch.sigmoid(b.f(x)), f=convs()), [IMAGES], ("f",), NO, NO, NO,
    ),
    "shapes between the sums": (windowed, [IMAGES], ("attn", "mlp"), NO, NO, NO),
    "bias and position": (
        lambda: Block(lambda b, x: x + b.table + (b.f(x) + b.bias), f=mlp(), table=parameter(8), bias=parameter(8)),
        [ROWS], ("f",), NO, NO, NO,
    ),
    "functions only": (functional, [ROWS], (), NO, NO, NO),
    "a loop over a ParameterList": (in_a_loop, [ROWS], (), NO, NO, NO),
    "two streams": (in_two_streams, [TOKENS, (2, 3, 8)], ("out_text", "out"), NO, NO, "adds branches to more than one"),
    "the second input": (
        lambda: Block(lambda b, c, x: x + b.f(x) * b.gate(c), f=mlp(), gate=nn.Linear(3, 8)),
        [(6, 3), ROWS], ("f",), NO, NO, "adds to what is not the first",
    ),
    "branches in a stack": (
        lambda: Block(lambda b, x: x + torch.stack([b.a(x), b.b(x)]).sum(0), a=mlp(), b=mlp()),
        [ROWS], ("a", "b"), NO, NO, NO,
    ),
    "a branch for one token": (
        lambda: Block(lambda b, x: x + torch.cat([b.f(x[:, :1]), x[:, 1:]], 1), f=mlp()), [TOKENS], ("f",), NO, NO, NO,
    ),
    "two plain operands": (
        lambda: Block(lambda b, x: x * b.one + torch.roll(x, 1, 1) * b.two + b.f(x), f=mlp(), one=parameter(8),
                      two=parameter(8)),
        [ROWS], ("f",), NO, NO, "makes its shortcut with 'roll'",
    ),
    "projection beside attention": (
        lambda: Block(
            lambda b, x: b.a(x) + b.out(F.scaled_dot_product_attention(*b.qkv(x[:, None]).chunk(3, -1))[:, 0]),
            a=nn.Linear(8, 6), qkv=nn.Linear(8, 24), out=nn.Linear(8, 6),
        ),
        [TOKENS], ("out",), "a", NO, NO,
    ),
    "blurred by a constant": (
        lambda: Block(lambda b, x: F.conv2d(x + b.f(x), b.norm.running_var.diag()[..., None, None]), f=convs(),
                      norm=nn.BatchNorm2d(4)), [IMAGES], ("f",), NO, NO, "ends in 'convolution'",
    ),
    "pooling": (
        lambda: Block(lambda b, x: x + b.f(x + (b.pool(b.norm(x)) - b.norm(x))), f=convs(), norm=nn.BatchNorm2d(4),
                      pool=nn.AvgPool2d(3, 1, 1)), [IMAGES], ("f",), NO, NO, NO,
    ),
    "PoolFormer": (
        lambda: Block(lambda b, x: pooled(b, x + b.pool(b.norm(x))), f=convs(), norm=nn.BatchNorm2d(4),
                      pool=nn.AvgPool2d(3, 1, 1)), [IMAGES], ("pool", "f"), NO, NO, NO,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("is_dead", [False, True])
def test_a_block_is_told_however_it_is_written(name: str, is_dead: bool) -> None:
    make, shapes, branches, shortcut, behind, obstacle = BLOCKS[name]
    torch.manual_seed(0)
    model, inputs = around(make()), [torch.randn(shape) for shape in shapes]
    if is_dead:
        for weights in model.parameters():
            nn.init.zeros_(weights)
    found = seen(model, *inputs)
    assert {block: of.branches for block, of in found.blocks.items()} == {
        "block": tuple(f"block.{branch}" for branch in branches)
    }
    of_block = found.sums["block"]
    assert of_block.shortcut == (None if shortcut is None else f"block.{shortcut}")
    assert of_block.behind == (f"block.{behind}" if behind not in (None, "relu") else behind)
    assert (of_block.obstacle or "").startswith(obstacle or "")
    assert (of_block.obstacle is None) == (obstacle is None)
    assert bool(found.notes) == (not branches), found.notes


def test_what_cannot_stand_for_a_block_is_refused_with_its_reason() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(), Block(lambda b, x: x + b.f(x), f=convs()), option_a())
    with pytest.raises(ValueError, match=r"'2' \(Block\) makes its shortcut with 'slice' and .*so nothing can stand"):
        remove_layers(model, "2", example=torch.randn(IMAGES))
    assert remove_layers(model, "1", example=torch.randn(IMAGES))[1].removed == ["1"]


def test_stochastic_depth_is_looked_through() -> None:
    ops = pytest.importorskip("torchvision.ops", reason="StochasticDepth: NOT TESTED HERE (no torchvision)")
    model = around(Block(lambda b, x: x + b.drop(b.f(x)), f=mlp(), drop=ops.StochasticDepth(0.5, "row")))
    assert seen(model, torch.randn(ROWS)).blocks["block"].branches == ("block.f",)


# --- what is none ------------------------------------------------------------------------------------------


def dead(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    nn.init.zeros_(norm.weight)
    nn.init.constant_(norm.bias, -9.0)
    return norm


def lora() -> nn.Module:
    """As PEFT writes it, B still zero."""
    a, b = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)
    nn.init.zeros_(b.weight)
    return Block(lambda m, x: m.base(x) + m.lora_B(m.lora_A(m.drop(x))) * 2.0, base=nn.Linear(8, 8), lora_A=a, lora_B=b,
                 drop=nn.Dropout())  # fmt: skip


def highway() -> nn.Module:
    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(b.gate(x))
        return gate * b.f(x) + (1 - gate) * x

    return Block(forward, gate=nn.Linear(8, 8), f=mlp())


def rotary() -> nn.Module:
    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        turned = torch.cat([-x[..., 4:], x[..., :4]], -1)
        return x * b.cos + turned * b.cos.sin()

    return Block(forward, cos=parameter(8), idle=nn.Linear(2, 2))


def quantized() -> nn.Module:
    """The straight-through estimator ``x + (q - x)``."""

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        q = b.codes(torch.cdist(x, b.codes.weight).argmin(-1)) + 0 * b.f(x)
        return x + (q - x).detach()

    return Block(forward, codes=nn.Embedding(7, 8), f=nn.Linear(8, 8))


NO_BLOCKS = {
    "conv, dead norm, relu": (
        lambda: nn.Sequential(*[nn.Sequential(conv(), dead(nn.BatchNorm2d(4)), nn.ReLU()) for _ in range(6)]), [IMAGES],
    ),
    "dense block": (lambda: around(Block(lambda b, x: torch.cat([x, b.f(x)], 1), f=convs())), [IMAGES]),
    "two paths": (lambda: around(Block(lambda b, x: b.a(x) + b.b(x), a=mlp(), b=mlp())), [ROWS]),
    "two activated paths": (
        lambda: around(Block(lambda b, x: F.relu(b.a(x)) + b.b(x), a=nn.Linear(8, 8), b=mlp())), [ROWS],
    ),
    "LoRA": (lambda: around(lora()), [ROWS]),
    "adapter beside a layer": (
        lambda: around(Block(lambda b, x: b.base(x) + b.up(F.relu(b.down(x))), base=nn.Linear(8, 8),
                             down=nn.Linear(8, 2), up=nn.Linear(2, 8))), [ROWS],
    ),
    "a layer before the sum": (
        lambda: around(Block(lambda b, x: (h := b.stem(x)) + b.f(h), stem=nn.Linear(8, 8), f=mlp())), [ROWS],
    ),
    "mean of the input": (
        lambda: around(Block(lambda b, x: x.mean(1, keepdim=True) + b.f(x), f=mlp())), [TOKENS],
    ),
    "zeros like the input": (lambda: around(Block(lambda b, x: torch.zeros_like(x) + b.f(x), f=mlp())), [ROWS]),
    "highway": (lambda: around(highway()), [ROWS]),
    "rotary": (lambda: around(rotary()), [TOKENS]),
    "addmm to another part": (
        lambda: around(Block(lambda b, x: torch.addmm(b.f(x), x, b.out), f=mlp(), out=parameter(8, 8))), [ROWS],
    ),
    "the input added elsewhere": (
        lambda: around(Block(lambda b, x: b.f(x).scatter_add(1, torch.arange(8).flip(0).expand(6, 8), x), f=mlp())),
        [ROWS],
    ),
    "position": (
        lambda: around(Block(lambda b, x: x + b.table(torch.arange(5)), table=nn.Embedding(5, 8))), [TOKENS],
    ),
    "shift of a condition": (
        lambda: around(Block(lambda b, x, c: b.norm(x) * b.scale(c) + b.shift(c), norm=nn.LayerNorm(8),
                             scale=nn.Linear(3, 8), shift=nn.Linear(3, 8))), [ROWS, (6, 3)],
    ),
    "squeeze and excitation": (
        lambda: around(Block(lambda b, x: x * torch.sigmoid(b.f(x.mean((2, 3), keepdim=True))), f=convs())), [IMAGES],
    ),
    "straight-through estimator": (lambda: around(quantized()), [TOKENS]),
    "a layer behind the sum": (
        lambda: around(Block(lambda b, x: b.out(x + b.f(x)), f=mlp(), out=nn.Linear(8, 8))), [ROWS],
    ),
    "names of a torchvision block": (
        lambda: around(Block(lambda b, x: b.relu(b.bn2(b.conv2(b.relu(b.bn1(b.conv1(x)))))), conv1=conv(), conv2=conv(),
                             bn1=nn.BatchNorm2d(4), bn2=nn.BatchNorm2d(4), relu=nn.ReLU())), [IMAGES],
    ),
    "a child called branch": (lambda: around(Block(lambda b, x: b.branch(x), branch=convs())), [IMAGES]),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_BLOCKS)
def test_no_block_is_seen_where_there_is_none(name: str) -> None:
    make, shapes = NO_BLOCKS[name]
    torch.manual_seed(0)
    assert seen(make(), *[torch.randn(shape) for shape in shapes]).blocks == {}


def test_a_part_that_blocks_share_is_no_block_beside_them() -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.position = Block(lambda b, x: x + b.f(x), f=nn.Linear(8, 8))
    model.blocks = nn.Sequential(*[
        Block(lambda b, x: (h := b.position(x)) + b.g(h), position=model.position, g=mlp()) for _ in range(2)
    ])  # fmt: skip
    model.forward = lambda x: model.blocks(x) * 2  # type: ignore[method-assign]
    blocks = seen(model, torch.randn(ROWS)).blocks
    assert {name: block.branches for name, block in blocks.items()} == {
        f"blocks.{i}": ("position.f", f"blocks.{i}.g") for i in range(2)
    }


# --- what could not be attributed --------------------------------------------------------------------------


class OfLists(nn.Module):
    """As in vit-pytorch: a list of pairs of branches, added in the holder's own loop."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleList([mlp(), mlp()]) for _ in range(depth)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for attention, feed_forward in self.layers:
            x = attention(x) + x
            x = feed_forward(x) + x
        return x


def test_a_module_that_holds_the_list_of_the_blocks_is_no_block() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 8), OfLists(3), nn.Linear(8, 2)), torch.randn(TOKENS)
    found = seen(model, x)
    assert found.blocks == {}
    assert found.notes == (
        "6 sums of an input and a branch lie outside of any module that could be removed: in OfLists.forward",
    )
    assert found.unowned == tuple(f"1.layers.{i}.{part}" for i in range(3) for part in range(2))
    before = sum(p.numel() for p in model.parameters())
    for example in (x, None):
        with pytest.raises(ValueError, match=r"'1\.layers\.1\.0' .* is in no residual block"):
            remove_layers(model, "1.layers.1.0", example=example)
    assert sum(p.numel() for p in model.parameters()) == before


def test_sums_in_the_models_own_code_are_told() -> None:
    torch.manual_seed(0)
    model = Block(lambda m, x: m.a(x) + x + 0 * m.f(m.block(x)), a=mlp(), f=mlp(),
                  block=Block(lambda b, x: x + b.f(x), f=mlp()))  # fmt: skip
    found = seen(model, torch.randn(ROWS))
    assert list(found.blocks) == ["block"]
    assert found.notes[0].startswith("1 sum of an input and a branch lies outside of any module")
    assert found.notes[0].endswith("in Block.forward")
    assert found.unowned[0] == "a"


def test_sums_with_a_part_of_the_input_are_told() -> None:
    """As in a dual path network, which concatenates what it adds and what it does not."""
    torch.manual_seed(0)
    model = around(Block(lambda b, x: torch.cat([x[:, :3] + b.f(x), b.g(x)], 1), f=mlp(8, 3), g=mlp()))
    found = seen(model, torch.randn(ROWS))
    assert (found.blocks, found.unowned) == ({}, ("block.f",))
    assert len(found.notes) == 1


def test_branches_that_no_module_makes_are_counted() -> None:
    torch.manual_seed(0)
    found = seen(around(in_a_loop()), torch.randn(ROWS))
    assert found.notes == ("3 of the branches of 'block' are made by no module",)
