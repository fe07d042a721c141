"""Small models as users write them, with random weights: (model, example input), no download, seconds on a CPU.

Needs torch, and transformers for the functions ``hugging_face_*``: import it after ``pytest.importorskip``.
Imports nothing of this package, so that a fresh process can load it by path. Models come in training mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

NUM_CLASSES = 4
NUM_WORDS = 50


def same(one: Any, two: Any) -> bool:
    """Whether two nests of dicts, lists and tensors are equal to the bit, types of tensors included."""
    if isinstance(one, torch.Tensor):
        return isinstance(two, torch.Tensor) and one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


class Part(nn.Module):
    """Parts by name and a forward pass: ``forward(part, *inputs)``."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.run(self, *inputs)


# --- torchvision's ResNet ---------------------------------------------------------------------------------


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class BasicBlock(nn.Module):
    """As in torchvision: in-place ReLU used twice, in-place addition, an optional projection."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inplanes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x
        out = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """As in torchvision: 1x1, 3x3, 1x1."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1, downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """As in torchvision, with two stages of narrow blocks: the first block of ``layer2`` has a projection."""

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], layers: tuple[int, ...] = (2, 3)) -> None:
        super().__init__()
        self.inplanes = 8
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = self._make_layer(block, 8, layers[0], 1)
        self.layer2 = self._make_layer(block, 16, layers[1], 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16 * block.expansion, NUM_CLASSES)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int) -> nn.Sequential:
        downsample = None
        if stride != 1 or self.inplanes != planes * block.expansion:
            downsample = nn.Sequential(
                nn.Conv2d(self.inplanes, planes * block.expansion, 1, stride, bias=False),
                nn.BatchNorm2d(planes * block.expansion),
            )
        first = block(self.inplanes, planes, stride, downsample)
        self.inplanes = planes * block.expansion
        return nn.Sequential(first, *(block(self.inplanes, planes) for _ in range(blocks - 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.avgpool(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


def _trained_statistics(model: nn.Module, example: torch.Tensor) -> None:
    """Batch norms as after some training, so that evaluation mode is no identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        model(example)


def resnet_basic(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """Blocks layer1.0, layer1.1, layer2.0 (projection), layer2.1, layer2.2; images (6, 3, 12, 12)."""
    torch.manual_seed(seed)
    model, example = ResNet(BasicBlock), torch.randn(6, 3, 12, 12)
    _trained_statistics(model, example)
    return model, example


def resnet_bottleneck(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """As ``resnet_basic`` with bottlenecks; layer1.0 has a projection too."""
    torch.manual_seed(seed)
    model, example = ResNet(Bottleneck), torch.randn(6, 3, 12, 12)
    _trained_statistics(model, example)
    return model, example


class BranchBlock(nn.Module):
    """A block that names its parts: ``relu(shortcut(x) + branch(x))``."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.shortcut(x) + self.branch(x))


def branch_net(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """Blocks "1", "2" (projection from 8 to 12), "3"; rows (6, 10)."""
    torch.manual_seed(seed)

    def branch(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs))

    model = nn.Sequential(
        nn.Linear(10, 8),
        BranchBlock(branch(8, 8)),
        BranchBlock(branch(8, 12), nn.Linear(8, 12, bias=False)),
        BranchBlock(branch(12, 12)),
        nn.Linear(12, NUM_CLASSES),
    )
    return model, torch.randn(6, 10)


# --- transformers written by hand -------------------------------------------------------------------------


class CausalSelfAttention(nn.Module):
    """As in nanoGPT."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.resid_dropout = nn.Dropout(0.1)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = (part.view(n, t, self.heads, c // self.heads).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = y.transpose(1, 2).contiguous().view(n, t, c)
        return self.resid_dropout(self.c_proj(y))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """As nanoGPT's MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.c_proj = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.c_proj(self.gelu(self.c_fc(x))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """As in nanoGPT, pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = CausalSelfAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class NanoGPT(nn.Module):
    """As in nanoGPT: the embedding and the head share one tensor; returns (logits, None)."""

    def __init__(self, num_blocks: int = 4, width: int = 16, heads: int = 2, length: int = 12) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(NUM_WORDS, width),
                "wpe": nn.Embedding(length, width),
                "drop": nn.Dropout(0.1),
                "h": nn.ModuleList([Block(width, heads) for _ in range(num_blocks)]),
                "ln_f": nn.LayerNorm(width),
            }
        )
        self.lm_head = nn.Linear(width, NUM_WORDS, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, idx: torch.Tensor) -> tuple[torch.Tensor, None]:
        parts = self.transformer
        x = parts.drop(parts.wte(idx) + parts.wpe(torch.arange(idx.shape[1], device=idx.device)))
        for block in parts.h:
            x = block(x)
        return self.lm_head(parts.ln_f(x)), None


def nano_gpt(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """Blocks transformer.h.0 to .3; words (6, 9)."""
    torch.manual_seed(seed)
    return NanoGPT(), torch.randint(NUM_WORDS, (6, 9))


class EncoderClassifier(nn.Module):
    """``nn.TransformerEncoder`` on an embedding."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_WORDS, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, NUM_CLASSES)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embedding(idx)).mean(1))  # type: ignore[no-any-return]


def torch_encoder(norm_first: bool = True, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """Blocks encoder.layers.0 to .2; words (6, 9)."""
    torch.manual_seed(seed)
    return EncoderClassifier(norm_first), torch.randint(NUM_WORDS, (6, 9))


# --- models without residual blocks -----------------------------------------------------------------------


def plain_conv_net(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """Nothing in it can be removed; images (6, 1, 8, 8)."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(4 * 64, NUM_CLASSES),
    )
    return model, torch.randn(6, 1, 8, 8)


class SequenceClassifier(nn.Module):
    """An LSTM whose last step is classified; ``lstm`` returns (output, (h, c))."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_WORDS, 8)
        self.lstm = nn.LSTM(8, 12, num_layers=2, batch_first=True, dropout=0.1)
        self.hidden = nn.Linear(12, 10)
        self.head = nn.Linear(10, NUM_CLASSES)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        output, _ = self.lstm(self.embedding(idx))
        return self.head(torch.tanh(self.hidden(output[:, -1])))  # type: ignore[no-any-return]


def lstm_classifier(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """Words (6, 9)."""
    torch.manual_seed(seed)
    return SequenceClassifier(), torch.randint(NUM_WORDS, (6, 9))


class OneReLU(nn.Module):
    """One in-place ReLU module called twice: ``relu`` and ``relu#1``; the second call overwrites fc2's output."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(10, 8), nn.Linear(8, 8), nn.Linear(8, NUM_CLASSES)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.fc1(x))
        x = self.relu(self.fc2(x))
        return self.fc3(x)  # type: ignore[no-any-return]


def one_relu_twice(seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """Rows (6, 10)."""
    torch.manual_seed(seed)
    return OneReLU(), torch.randn(6, 10)


# --- Hugging Face -----------------------------------------------------------------------------------------


def hugging_face(kind: str, seed: int = 0, **config: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A tiny transformer of four layers with random weights and a dict of keyword arguments for it.

    Args:
        kind: a key of ``HUGGING_FACE``.
        seed: of the weights and the words.
        config: entries of the configuration to change.
    """
    import transformers

    architecture, of_config, sizes = HUGGING_FACE[kind]
    torch.manual_seed(seed)
    settings = getattr(transformers, of_config)(
        **{**sizes, "vocab_size": NUM_WORDS, "num_labels": NUM_CLASSES, "pad_token_id": 0, **config}
    )
    model = getattr(transformers, architecture)(settings)
    words = torch.randint(1, NUM_WORDS, (6, 9))
    mask = torch.ones_like(words)
    words[2, 6:], mask[2, 6:] = 0, 0
    return model, {"input_ids": words, "attention_mask": mask}


_BERT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
         "max_position_embeddings": 24}  # fmt: skip
_GPT2 = {"n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 24, "bos_token_id": 1, "eos_token_id": 2}
_LLAMA = {**_BERT, "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2}

HUGGING_FACE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", _BERT),
    "bert_classifier": ("BertForSequenceClassification", "BertConfig", _BERT),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "gpt2_classifier": ("GPT2ForSequenceClassification", "GPT2Config", _GPT2),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _LLAMA),
}
"""Kind -> class, class of its configuration, sizes; layers are in ``encoder.layer``, ``h`` or ``layers``."""


# --- all of them ------------------------------------------------------------------------------------------


WITHOUT_TRANSFORMERS = {
    "resnet_basic": resnet_basic,
    "resnet_bottleneck": resnet_bottleneck,
    "branch_net": branch_net,
    "nano_gpt": nano_gpt,
    "torch_encoder": torch_encoder,
    "plain_conv_net": plain_conv_net,
    "lstm_classifier": lstm_classifier,
    "one_relu_twice": one_relu_twice,
}
"""Name -> function that makes the model; ``build`` knows the Hugging Face ones too."""


def build(name: str, seed: int = 0) -> tuple[Any, Any]:
    """A model by its name, see ``WITHOUT_TRANSFORMERS`` and ``HUGGING_FACE``, and an input for ``call``."""
    if name in HUGGING_FACE:
        return hugging_face(name, seed)
    return WITHOUT_TRANSFORMERS[name](seed=seed)


def call(model: Any, example: Any) -> Any:
    """The model's output for an example as ``build`` returns it."""
    return model(**example) if isinstance(example, dict) else model(example)


def output_of(model: Any, example: Any) -> torch.Tensor:
    """The main tensor of the output in evaluation mode; the model is then in training mode again as it was."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        output = call(model, example)
    model.train(was_training)
    if isinstance(output, torch.Tensor):
        return output
    return next(iter(output.values())) if hasattr(output, "values") else output[0]


def gradient_step(model: Any, example: Any, optimizer: Any) -> float:
    """One step of training towards small outputs; the loss before it."""
    optimizer.zero_grad()
    output = call(model.train(), example)
    if not isinstance(output, torch.Tensor):
        output = next(iter(output.values())) if hasattr(output, "values") else output[0]
    loss = output.float().square().mean() + output.float().logsumexp(-1).mean()
    if not math.isfinite(loss.item()):
        raise AssertionError("the model diverged")
    loss.backward()
    optimizer.step()
    return float(loss.item())
