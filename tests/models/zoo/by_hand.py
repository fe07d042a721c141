"""Models as people write them without a library: the residual networks of papers, and forms that hide a block.

Every function is named like its entry and makes a model of four to six layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ...model_zoo import Part
from .entries import Entry

Forward = Callable[..., Any]


def conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


def norm(width: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(width)
    nn.init.uniform_(made.weight, 0.5, 1.5)
    nn.init.normal_(made.bias, std=0.2)
    return made


def mlp(width: int = 8, hidden: int = 12) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / 4)


def of_images(*parts: nn.Module, width: int = 8, inputs: int = 3) -> tuple[nn.Module, torch.Tensor]:
    """Stem, parts 1 to n, pooling, head."""
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)]
    return nn.Sequential(conv(inputs, 8), *parts, *head), torch.randn(4, inputs, 10, 10)


def of_rows(*parts: nn.Module) -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(5, 8), *parts, nn.Linear(8, 3)), torch.randn(6, 5)


def of_tokens(*parts: nn.Module) -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Linear(5, 8), *parts, nn.Linear(8, 3)), torch.randn(3, 7, 5)


# --- images ------------------------------------------------------------------------------------------------


def plain_convolutions() -> tuple[nn.Module, torch.Tensor]:
    layers = [nn.Sequential(conv(8, 8), norm(8), nn.ReLU()) for _ in range(4)]
    nn.init.zeros_(layers[2][1].weight)
    nn.init.constant_(layers[2][1].bias, -9.0)
    return of_images(*layers)


def vgg() -> tuple[nn.Module, torch.Tensor]:
    parts = [conv(3, 8), nn.ReLU(True), nn.MaxPool2d(2), conv(8, 8), nn.ReLU(True), conv(8, 8), nn.ReLU(True)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 12), nn.ReLU(True), nn.Linear(12, 4)]
    return nn.Sequential(*parts, *head), torch.randn(4, 3, 10, 10)


def resnet(*kinds: Callable[[int, int, int], nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    (block,) = kinds
    return of_images(block(8, 8, 1), block(8, 8, 1), block(8, 16, 2), block(16, 16, 1), width=16)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    return nn.Sequential(conv(inputs, outputs, stride, 1), norm(outputs)) if inputs != outputs else None


def _of_basic(b: Any, x: torch.Tensor) -> torch.Tensor:
    out = b.bn2(b.conv2(b.relu(b.bn1(b.conv1(x)))))
    out += x if b.downsample is None else b.downsample(x)
    return b.relu(out)


def basic(inputs: int, outputs: int, stride: int) -> nn.Module:
    return Part(
        _of_basic, conv1=conv(inputs, outputs, stride), bn1=norm(outputs), conv2=conv(outputs, outputs),
        bn2=norm(outputs), relu=nn.ReLU(inplace=True), downsample=_projection(inputs, outputs, stride),
    )  # fmt: skip


def bottleneck(inputs: int, outputs: int, stride: int, groups: int = 1) -> nn.Module:
    narrow = nn.Sequential(conv(inputs, 4, 1, 1), norm(4), nn.ReLU(), conv(4, 4, stride, 3, groups), norm(4), nn.ReLU())
    return Part(
        lambda b, x: F.relu(b.last(b.narrow(x)) + (x if b.downsample is None else b.downsample(x))),
        narrow=narrow, last=nn.Sequential(conv(4, outputs, 1, 1), norm(outputs)),
        downsample=_projection(inputs, outputs, stride),
    )  # fmt: skip


def resnext(inputs: int, outputs: int, stride: int) -> nn.Module:
    return bottleneck(inputs, outputs, stride, groups=4)


def _of_preactivation(b: Any, x: torch.Tensor) -> torch.Tensor:
    h = F.relu(b.bn1(x))
    return b.conv2(F.relu(b.bn2(b.conv1(h)))) + (x if b.shortcut is None else b.shortcut(h))


def preactivation(inputs: int, outputs: int, stride: int) -> nn.Module:
    shortcut = conv(inputs, outputs, stride, 1) if inputs != outputs else None
    return Part(
        _of_preactivation, bn1=norm(inputs), conv1=conv(inputs, outputs, stride), bn2=norm(outputs),
        conv2=conv(outputs, outputs), shortcut=shortcut,
    )  # fmt: skip


class Excitation(nn.Module):
    """Squeeze-and-excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = conv(width, 4, 1, 1), conv(4, width, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return x * gates


def excited(inputs: int, outputs: int, stride: int) -> nn.Module:
    return Part(
        lambda b, x: F.relu(b.se(b.convs(x)) + (x if b.downsample is None else b.downsample(x))),
        convs=nn.Sequential(conv(inputs, outputs, stride), norm(outputs), nn.ReLU(), conv(outputs, outputs)),
        se=Excitation(outputs), downsample=_projection(inputs, outputs, stride),
    )  # fmt: skip


def inverted(inputs: int, outputs: int, stride: int, is_gated: bool = False) -> nn.Module:
    wide = [conv(inputs, 16, 1, 1), norm(16), nn.ReLU6(), conv(16, 16, stride, 3, 16), norm(16), nn.ReLU6()]
    convs = nn.Sequential(*wide, *([Excitation(16)] if is_gated else []), conv(16, outputs, 1, 1), norm(outputs))
    added = inputs == outputs
    return Part(lambda b, x: x + b.convs(x) if added else b.convs(x), convs=convs)


def inverted_and_gated(inputs: int, outputs: int, stride: int) -> nn.Module:
    return inverted(inputs, outputs, stride, is_gated=True)


def convnext() -> tuple[nn.Module, torch.Tensor]:
    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        h = b.pwconv2(F.gelu(b.pwconv1(b.norm(b.dwconv(x).permute(0, 2, 3, 1)))))
        return x + (b.gamma * h).permute(0, 3, 1, 2)

    def block() -> nn.Module:
        return Part(forward, dwconv=conv(8, 8, 1, 7, 8), norm=nn.LayerNorm(8), pwconv1=nn.Linear(8, 16),
                    pwconv2=nn.Linear(16, 8), gamma=parameter(8))  # fmt: skip

    return of_images(block(), block(), block())


def densenet() -> tuple[nn.Module, torch.Tensor]:
    layers = [nn.Sequential(norm(width), nn.ReLU(), conv(width, 4)) for width in (8, 12, 16)]
    dense = [Part(lambda b, x: torch.cat([x, b.f(x)], 1), f=layer) for layer in layers]
    return of_images(*dense, width=20)


def inception() -> tuple[nn.Module, torch.Tensor]:
    def module() -> nn.Module:
        return Part(lambda b, x: torch.cat([F.relu(b.one(x)), F.relu(b.three(x))], 1), one=conv(8, 4, 1, 1),
                    three=conv(8, 4))  # fmt: skip

    return of_images(module(), module())


def xception() -> tuple[nn.Module, torch.Tensor]:
    def block(inputs: int, outputs: int) -> nn.Module:
        separable = [nn.ReLU(), conv(inputs, inputs, 1, 3, inputs), conv(inputs, outputs, 1, 1), norm(outputs)]
        shortcut = {"skip": conv(inputs, outputs, 1, 1), "skipbn": norm(outputs)} if inputs != outputs else {}
        return Part(
            lambda b, x: b.rep(x) + (b.skipbn(b.skip(x)) if inputs != outputs else x),
            rep=nn.Sequential(*separable), **shortcut,
        )  # fmt: skip

    return of_images(block(8, 8), block(8, 16), block(16, 16), width=16)


def dla() -> tuple[nn.Module, torch.Tensor]:
    """Deep layer aggregation: a root joins what two residual blocks return."""

    def tree() -> nn.Module:
        def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
            one = b.tree1(x)
            two = b.tree2(one)
            return F.relu(b.root(torch.cat([two, one], 1)))

        return Part(forward, tree1=basic(8, 8, 1), tree2=basic(8, 8, 1), root=conv(16, 8, 1, 1))

    return of_images(tree(), tree())


def edsr() -> tuple[nn.Module, torch.Tensor]:
    def block() -> nn.Module:
        return Part(lambda b, x: b.body(x).mul(0.1) + x, body=nn.Sequential(conv(8, 8), nn.ReLU(), conv(8, 8)))

    body = nn.Sequential(block(), block(), block())

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.head(x)
        return m.tail(x + m.body(x))

    tail = nn.Sequential(conv(8, 12), nn.PixelShuffle(2))
    return Part(forward, head=conv(3, 8), body=body, tail=tail), torch.randn(4, 3, 8, 8)


def unet() -> tuple[nn.Module, torch.Tensor]:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        fine = F.relu(m.enter(x))
        coarse = m.blocks(F.relu(m.down(fine)))
        return m.out(torch.cat([fine, F.relu(m.up(coarse))], 1))

    model = Part(
        forward, enter=conv(3, 8), down=conv(8, 8, 2), blocks=nn.Sequential(basic(8, 8, 1), basic(8, 8, 1)),
        up=nn.ConvTranspose2d(8, 8, 2, 2), out=conv(16, 3),
    )  # fmt: skip
    return model, torch.randn(4, 3, 8, 8)


def patch_mixer() -> tuple[nn.Module, torch.Tensor]:
    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        x = x + b.tokens(b.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + b.channels(b.norm2(x))

    def block() -> nn.Module:
        return Part(forward, norm1=nn.LayerNorm(8), tokens=mlp(7), norm2=nn.LayerNorm(8), channels=mlp())

    return of_tokens(block(), block(), block())


# --- rows and tokens ---------------------------------------------------------------------------------------


def with_a_gain() -> tuple[nn.Module, torch.Tensor]:
    """ReZero: one gain is still 0."""
    gains = [nn.Parameter(torch.tensor(gain)) for gain in (0.3, 0.5, 0.0)]
    return of_rows(*[Part(lambda b, x: x + b.g * b.f(x), f=mlp(), g=gain) for gain in gains])


def layer_scale() -> tuple[nn.Module, torch.Tensor]:
    return of_rows(*[Part(lambda b, x: x + b.f(x) * b.gamma, f=mlp(), gamma=parameter(8)) for _ in range(3)])


def scaled_sum() -> tuple[nn.Module, torch.Tensor]:
    return of_rows(*[Part(lambda b, x: (x + b.f(x)) * 0.5**0.5, f=mlp()) for _ in range(3)])


def activated_sum() -> tuple[nn.Module, torch.Tensor]:
    return of_rows(*[Part(lambda b, x: b.act(x + b.f(x)), f=mlp(), act=nn.GELU()) for _ in range(3)])


def ode() -> tuple[nn.Module, torch.Tensor]:
    """One function, applied four times: steps of an equation."""

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            x = x + 0.25 * b.f(x)
        return x

    return of_rows(Part(forward, f=mlp()), Part(forward, f=mlp()))


def loop_of_parameters() -> tuple[nn.Module, torch.Tensor]:
    """Gated residuals in a Python loop over lists of parameters: no module is called."""

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        for weight, gate in zip(b.weights, b.gates, strict=True):
            x = x + torch.sigmoid(gate) * torch.tanh(x @ weight)
        return x

    def layers() -> nn.Module:
        weights, gates = ([parameter(*shape) for _ in range(3)] for shape in ((8, 8), (8,)))
        return Part(forward, weights=nn.ParameterList(weights), gates=nn.ParameterList(gates))

    return of_rows(layers(), layers())


def loop_in_the_model() -> tuple[nn.Module, torch.Tensor]:
    """The sums are in the model's own forward."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.stem(x)
        for layer in m.layers:
            x = x + layer(x)
        return m.head(x)

    layers = nn.ModuleList(mlp() for _ in range(3))
    return Part(forward, stem=nn.Linear(5, 8), layers=layers, head=nn.Linear(8, 3)), torch.randn(6, 5)


def highway() -> tuple[nn.Module, torch.Tensor]:
    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(b.gate(x))
        return gate * b.f(x) + (1 - gate) * x

    return of_rows(*[Part(forward, gate=nn.Linear(8, 8), f=mlp()) for _ in range(3)])


def conformer() -> tuple[nn.Module, torch.Tensor]:
    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        x = x + 0.5 * b.ff1(x)
        x = x + b.mix(x.transpose(1, 2)).transpose(1, 2)
        return b.norm(x + 0.5 * b.ff2(x))

    def block() -> nn.Module:
        return Part(forward, ff1=mlp(), mix=nn.Conv1d(8, 8, 3, padding=1), ff2=mlp(), norm=nn.LayerNorm(8))

    return of_tokens(block(), block(), block())


class Attention(nn.Module):
    """Of one head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1)))


def parallel_residual() -> tuple[nn.Module, torch.Tensor]:
    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        h = b.norm(x)
        return x + b.attn(h) + b.mlp(h)

    return of_tokens(*[Part(forward, norm=nn.LayerNorm(8), attn=Attention(), mlp=mlp()) for _ in range(3)])


def mixture_of_experts() -> tuple[nn.Module, torch.Tensor]:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(8, 3)
            self.experts = nn.ModuleList(mlp() for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weights = self.router(x).softmax(-1)
            best = weights.argmax(-1)
            out = torch.zeros_like(x)
            for i, expert in enumerate(self.experts):
                chosen = best == i
                out[chosen] = expert(x[chosen]) * weights[chosen][:, i : i + 1]
            return out

    def forward(b: Any, x: torch.Tensor) -> torch.Tensor:
        x = x + b.attn(b.norm1(x))
        return x + b.moe(b.norm2(x))

    def block() -> nn.Module:
        return Part(forward, norm1=nn.LayerNorm(8), attn=Attention(), norm2=nn.LayerNorm(8), moe=Experts())

    return of_tokens(block(), block(), block())


def torch_encoder() -> tuple[nn.Module, torch.Tensor]:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    return of_tokens(encoder)


def torch_decoder() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    return nn.TransformerDecoder(layer, 3), (torch.randn(3, 7, 8), torch.randn(3, 4, 8))


def lstm() -> tuple[nn.Module, torch.Tensor]:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.head(torch.tanh(m.hidden(m.lstm(m.embedding(x))[0][:, -1])))

    model = Part(
        forward, embedding=nn.Embedding(20, 8), lstm=nn.LSTM(8, 12, 2, batch_first=True), hidden=nn.Linear(12, 10),
        head=nn.Linear(10, 4),
    )  # fmt: skip
    return model, torch.randint(20, (6, 9))


def _relu(block: Any, x: torch.Tensor) -> torch.Tensor:
    projection = getattr(block, "downsample", None)
    return F.relu(x if projection is None else projection(x))


def _entry(
    build: Callable[..., Any], blocks: Mapping[str, str] | None = None, name: str = "", **more: Any
) -> Entry:  # fmt: skip
    return Entry(name or build.__name__.replace("_", " "), "by hand", build, blocks or {}, **more)


def _resnet(kind: Callable[[int, int, int], nn.Module], branch: str, blocks: str = "{1-4}", **more: Any) -> Entry:
    name = f"ResNet, {kind.__name__.replace('_', ' ')}"
    return _entry(lambda: resnet(kind), {blocks: branch}, name, **more)


_NOT_IN_A_MODULE = r"3 sums of an input and a branch lie outside of any module that could be removed: in Part.forward"
ENTRIES = [
    _entry(plain_convolutions, in_sample=True, remarks="One of its batch norms is dead."),
    _entry(vgg, name="VGG"),
    _resnet(basic, "bn2", left=_relu, in_sample=True),
    _resnet(bottleneck, "last", left=_relu),
    _resnet(resnext, "last", left=_relu),
    _resnet(preactivation, "conv2", refused={"3": "makes its shortcut with '3.bn1' and 'relu' and '3.shortcut'"},
            in_sample=True, remarks="The projection begins behind the first norm and its ReLU."),
    _resnet(excited, "se", left=_relu, remarks="Squeeze-and-excitation."),
    _resnet(inverted, "convs", "{1,2,4}", in_sample=True,
            remarks="As in MobileNetV2: the one that widens adds nothing."),
    _resnet(inverted_and_gated, "convs", "{1,2,4}", remarks="As in MobileNetV3 and EfficientNet."),
    _entry(convnext, {"{1-3}": "pwconv2"}, name="ConvNeXt"),
    _entry(densenet, name="DenseNet", remarks="It concatenates and adds nothing."),
    _entry(inception, name="Inception", remarks="It concatenates and adds nothing."),
    _entry(xception, {"{1-3}": "rep"}, name="Xception",
           refused={"2": "makes its shortcut with '2.skip' and '2.skipbn'"},
           remarks="The projection is two attributes of the block."),
    _entry(dla, {"{1-2}.tree{1-2}": "bn2"}, name="DLA", left=_relu),
    _entry(edsr, {"body.{0-2}": "body"}, name="EDSR", in_sample=True,
           notes="1 sum of an input and a branch lies outside of any module that could be removed: in Part.forward",
           remarks="The long sum around all blocks is the model's own."),
    _entry(unet, {"blocks.{0-1}": "bn2"}, name="U-Net", left=_relu),
    _entry(patch_mixer, {"{1-3}": "tokens channels"}, name="MLP-Mixer", in_sample=True),
    _entry(with_a_gain, {"{1-3}": "f"}, name="ReZero", in_sample=True),
    _entry(layer_scale, {"{1-3}": "f"}, name="LayerScale, a product"),
    _entry(scaled_sum, {"{1-3}": "f"}, name="(x + f(x)) / sqrt(2)"),
    _entry(activated_sum, {"{1-3}": "f"}, name="GELU behind the sum", left=lambda block, x: F.gelu(x)),
    _entry(ode, {"{1-2}": "f"}, name="ODE steps", remarks="One function, called four times."),
    _entry(loop_of_parameters, {"{1-2}": ""}, name="gates over a ParameterList", in_sample=True,
           notes="3 of the branches of '1' are made by no module",
           remarks="Python code over a list of parameters: no module makes the branches, so that only the sum of all "
           "is measured."),
    _entry(loop_in_the_model, name="loop in the model", in_sample=True, notes=_NOT_IN_A_MODULE,
           remarks="The layers are branches of sums in the model's own code. They are measured; no block holds them."),
    _entry(highway, name="highway network",
           remarks="What carries the input on is a layer's own gate, so that no shortcut is left without the layer."),
    _entry(conformer, {"{1-3}": "ff1 mix ff2"}, name="Conformer, by hand"),
    _entry(parallel_residual, {"{1-3}": "attn mlp"}, in_sample=True),
    _entry(mixture_of_experts, {"{1-3}": "attn moe"}),
    _entry(torch_encoder, {"1.layers.{0-2}": "self_attn linear2"}, name="nn.TransformerEncoder", in_sample=True),
    _entry(torch_decoder, {"layers.{0-2}": "self_attn multihead_attn linear2"}, name="nn.TransformerDecoder"),
    _entry(lstm, name="LSTM", in_sample=True),
]  # fmt: skip
"""Models without a library."""
