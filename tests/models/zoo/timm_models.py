"""Models of timm, torchvision and vit-pytorch, tiny ones where the library lets their sizes be chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .entries import Entry, drawn


def _timm(
    name: str, kind: str, blocks: Mapping[str, str] | None = None, size: int = 32,
    sizes: Mapping[str, Any] | None = None, **more: Any,
) -> Entry:  # fmt: skip
    """An entry that ``timm.create_model`` makes."""

    def build() -> tuple[nn.Module, torch.Tensor]:
        import timm

        model = timm.create_model(kind, pretrained=False, num_classes=4, **(sizes or {}))
        return drawn(model), torch.randn(2, 3, size, size)

    return Entry(f"{name}, timm", "timm", build, blocks or {}, **more)


def _of(library: str, name: str, make: Callable[[], nn.Module], blocks: Mapping[str, str] | None = None,
        size: int = 32, **more: Any) -> Entry:  # fmt: skip
    def build() -> tuple[nn.Module, torch.Tensor]:
        return drawn(make()), torch.randn(2, 3, size, size)

    return Entry(f"{name}, {library}", library, build, blocks or {}, **more)


def _relu(block: Any, x: torch.Tensor) -> torch.Tensor:
    projection = getattr(block, "downsample", None)
    return F.relu(x if projection is None else projection(x))


# --- timm ----------------------------------------------------------------------------------------------------


def _tiny_vit() -> nn.Module:
    from timm.models.tiny_vit import TinyVit

    sizes = {
        "embed_dims": (8, 16, 16, 32),
        "depths": (2, 2, 2, 2),
        "num_heads": (1, 2, 2, 2),
        "window_sizes": (4, 4, 4, 2),
    }
    return TinyVit(num_classes=4, **sizes)


def _maxvit() -> nn.Module:
    from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitTransformerCfg

    attention = MaxxVitTransformerCfg(dim_head=4, window_size=(2, 2), grid_size=(2, 2))
    sizes = MaxxVitCfg(embed_dim=(8, 16), depths=(2, 2), block_type=("M", "M"), stem_width=8, transformer_cfg=attention)
    return MaxxVit(sizes, img_size=32, num_classes=4)


def _timm_mixer() -> nn.Module:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=4, img_size=32, patch_size=8, num_blocks=3, embed_dim=16)


def _convmixer() -> nn.Module:
    from timm.models.convmixer import ConvMixer

    return ConvMixer(dim=16, depth=3, kernel_size=3, patch_size=4, num_classes=4)


_VIT = {"img_size": 32, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2}
_ATTENTION = {"blocks.{0-2}": "attn mlp"}
_SWIN = {"img_size": 64, "depths": (2, 2), "embed_dim": 8, "num_heads": (2, 2), "window_size": 4}
_STAGES = {"stages.{0,2,3}.blocks.0": "{}", "stages.1.blocks.{0-1}": "{}"}


def _staged(branches: str) -> dict[str, str]:
    """Stages of one, two, one and one block."""
    return dict.fromkeys(_STAGES, branches)


TIMM = [
    _timm("ViT", "vit_tiny_patch16_224", _ATTENTION, sizes=_VIT, in_sample=True),
    _timm("ViT with parallel branches", "vit_small_patch16_18x2_224", {"blocks.{0-2}": "attns.0 attns.1 ffns.0 ffns.1"},
          sizes=_VIT),
    _timm("DeiT III", "deit3_small_patch16_224", _ATTENTION, sizes=_VIT, remarks="LayerScale is a part of the branch."),
    _timm("BEiT", "beit_base_patch16_224", _ATTENTION, sizes=_VIT),
    _timm("EVA-02", "eva02_tiny_patch14_224", _ATTENTION, 28, {**_VIT, "img_size": 28, "patch_size": 7}),
    _timm("CaiT", "cait_xxs24_224", {"blocks.{0-2}": "attn mlp", "blocks_token_only.{0-1}": "attn mlp"}, sizes=_VIT,
          refused={"blocks_token_only.{0-1}": "adds to what is not the first of its inputs"},
          remarks="The last layers add to the class token, their second input."),
    _timm("TNT", "tnt_s_legacy_patch16_224", {"blocks.{0-2}": "attn_in mlp_in attn_out mlp"},
          sizes={"img_size": 32, "depth": 3, "embed_dim": 24, "inner_dim": 8, "num_heads_outer": 2,
                 "num_heads_inner": 2},
          refused={"blocks.{0-2}": "adds branches to more than one of its outputs"},
          remarks="Two streams, pixels and patches."),
    _of("timm", "TinyViT", _tiny_vit, {"stages.0.blocks.{0-1}": "conv3"}, 64, left=lambda block, x: block.act3(x),
        notes="12 sums of an input and a branch lie outside .*: in TinyVitBlock.forward",
        remarks="A transformer block has a convolution between its two sums, without which nothing passes; its "
        "branches are measured."),
    _of("timm", "MaxViT", _maxvit, {
        "stages.{0-1}.blocks.{0-1}": "conv.conv3_1x1 attn_block.attn attn_block.mlp attn_grid.attn attn_grid.mlp"},
        refused={"stages.{0-1}.blocks.0": "the shortcut of .* is 'conv.shortcut', which is not a direct part of it"},
        remarks="A block is a convolution, a window and a grid attention."),
    _timm("Swin", "swin_tiny_patch4_window7_224", {"layers.{0-1}.blocks.{0-1}": "attn mlp"}, 64, _SWIN),
    _timm("Swin V2", "swinv2_tiny_window8_256", {"layers.{0-1}.blocks.{0-1}": "norm1 norm2"}, 64, _SWIN,
          remarks="The norms are the ends of the branches."),
    _of("timm", "MLP-Mixer", _timm_mixer, {"blocks.{0-2}": "mlp_tokens mlp_channels"}),
    _of("timm", "ConvMixer", _convmixer, {"blocks.{0-2}.0": "fn"}),
    _timm("ConvNeXt", "convnext_atto", _staged("mlp"), sizes={"depths": (1, 2, 1, 1), "dims": (8, 8, 16, 16)}),
    _timm("PVT v2", "pvt_v2_b0", _staged("attn mlp"), sizes={"depths": (1, 2, 1, 1), "embed_dims": (8, 8, 16, 16),
                                                           "num_heads": (1, 1, 2, 2)}),
    _timm("XCiT", "xcit_nano_12_p8_224", {"blocks.{0-2}": "attn local_mp mlp", "cls_attn_blocks.{0-1}": "attn mlp"},
          sizes={"img_size": 32, "embed_dim": 16, "depth": 3, "num_heads": 2}),
    _timm("ResNet v2", "resnetv2_50", _staged("conv3"), sizes={"layers": (1, 2, 1, 1), "channels": (16, 16, 32, 32)},
          refused={"stages.{0-3}.blocks.0": "makes its shortcut with .*norm1' and .*downsample'"},
          remarks="Pre-activation: the projection begins behind the first norm."),
    _timm("legacy Xception", "legacy_xception", {"block{1-12}": "rep"}, 64,
          refused={"block{1,2,3,12}": "makes its shortcut with .*skip' and .*skipbn'"},
          remarks="The projection is two attributes of the block."),
    _timm("DLA", "dla34", {
        "level{2,5}.tree{1-2}": "bn2", "level{3,4}.tree{1-2}.tree{1-2}": "bn2"}, 64, left=_relu,
        refused=dict.fromkeys(["level{2,5}.tree1", "level{3,4}.tree1.tree1"], "not the first of its inputs"),
        remarks="A tree projects the input of its first block itself and hands that over as a second input."),
]  # fmt: skip


# --- torchvision ---------------------------------------------------------------------------------------------


def _tv_resnet(block: str, **sizes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from torchvision.models import resnet

        return resnet.ResNet(getattr(resnet, block), [1, 2, 1, 1], num_classes=4, **sizes)

    return make


def _mobilenet_v3() -> nn.Module:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    rows = [(16, 3, 16, 16, True, "RE", 2), (16, 3, 32, 24, False, "RE", 2), (24, 3, 32, 24, True, "HS", 1),
            (24, 3, 32, 24, True, "HS", 1)]  # fmt: skip
    return MobileNetV3([InvertedResidualConfig(*row, 1, 1.0) for row in rows], 32, num_classes=4)


def _mobilenet_v2() -> nn.Module:
    from torchvision.models import MobileNetV2

    return MobileNetV2(num_classes=4, inverted_residual_setting=[[1, 8, 1, 1], [6, 16, 3, 2], [6, 24, 2, 2]])


def _densenet() -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(4, (2, 2), 8, num_classes=4)


def _inception() -> nn.Module:
    from torchvision.models import Inception3

    model = Inception3(num_classes=4, aux_logits=False, init_weights=False)
    dead = model.Mixed_5b.branch3x3dbl_3.bn
    nn.init.constant_(dead.weight, 0.01)
    nn.init.constant_(dead.bias, -9.0)
    return model


def _regnet() -> nn.Module:
    from torchvision.models.regnet import BlockParams, RegNet

    sizes = BlockParams([2, 2], [8, 16], [4, 8], [1.0, 1.0], [2, 2], 0.25)
    return RegNet(sizes, num_classes=4, stem_width=8)


def _efficientnet() -> nn.Module:
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    rows = [(1, 3, 1, 8, 8, 1), (4, 3, 2, 8, 16, 3), (4, 3, 2, 16, 24, 2)]
    return EfficientNet([MBConvConfig(*row) for row in rows], 0.2, num_classes=4)


def _tv_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 2)], num_classes=4)


def _tv_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=4)


def _tv_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=4)


def _tv_maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit((64, 64), 8, 2, [8, 16], [2, 1], 4, 0.1, num_classes=4)


_RESIDUALS = "layer{1,3,4}.0"
_FIRST = "blocks.{0-1}.layers.0.layers"
TORCHVISION = [
    _of("torchvision", "ResNet-18", _tv_resnet("BasicBlock"), {_RESIDUALS: "bn2", "layer2.{0-1}": "bn2"}, left=_relu),
    _of("torchvision", "ResNeXt", _tv_resnet("Bottleneck", groups=2, width_per_group=4),
        {_RESIDUALS: "bn3", "layer2.{0-1}": "bn3"}, left=_relu),
    _of("torchvision", "MobileNetV2", _mobilenet_v2, {"features.{3-4}": "conv", "features.6": "conv"},
        remarks="A layer adds where it keeps stride and width."),
    _of("torchvision", "MobileNetV3", _mobilenet_v3, {"features.{3-4}": "block"}),
    _of("torchvision", "EfficientNet", _efficientnet,
        {"features.1.0": "block", "features.2.{1-2}": "block", "features.3.1": "block"}),
    _of("torchvision", "RegNet-Y", _regnet, {"trunk_output.block1.block1-{0-1}": "f",
                                             "trunk_output.block2.block2-{0-1}": "f"},
        left=lambda block, x: F.relu(x if block.proj is None else block.proj(x))),
    _of("torchvision", "ConvNeXt", _tv_convnext, {"features.{1,3}.{0-1}": "block"}, in_sample=True),
    _of("torchvision", "Swin", _tv_swin, {"features.{1,3}.{0-1}": "attn mlp"}),
    _of("torchvision", "ViT", _tv_vit, {"encoder.layers.encoder_layer_{0-2}": "self_attention mlp"}),
    _of("torchvision", "MaxViT", _tv_maxvit, {
        f"{_FIRST}.MBconv": "layers", f"{_FIRST}.{{window,grid}}_attention": "attn_layer mlp_layer",
        "blocks.0.layers.1.layers.MBconv": "layers",
        "blocks.0.layers.1.layers.{window,grid}_attention": "attn_layer mlp_layer"}, 64,
        left=lambda block, x: block.proj(x) if hasattr(block, "proj") and hasattr(block, "layers") else x,
        remarks="Its three parts are items of a Sequential, and so blocks of their own."),
    _of("torchvision", "DenseNet", _densenet, remarks="It concatenates and adds nothing."),
    _of("torchvision", "Inception v3", _inception, size=75,
        remarks="It concatenates and adds nothing. One of its batch norms is dead."),
]  # fmt: skip


# --- vit-pytorch ---------------------------------------------------------------------------------------------


def _vit_pytorch(name: str, **sizes: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        from importlib import import_module

        of_class = getattr(import_module("vit_pytorch" if name != "CaiT" else "vit_pytorch.cait"), name)
        return of_class(
            image_size=32, patch_size=8, num_classes=4, dim=16, depth=3, heads=2, mlp_dim=32, dim_head=8, **sizes
        )

    return make


_NO_BLOCKS = {
    "notes": "sums of an input and a branch lie outside of any module .*: in Transformer.forward",
    "remarks": "The sums are in the code of the whole transformer, whose parts are measured; no module is a block.",
}
VIT_PYTORCH = [
    _of("vit-pytorch", "ViT", _vit_pytorch("ViT"), **_NO_BLOCKS),
    _of("vit-pytorch", "SimpleViT", _vit_pytorch("SimpleViT"), **_NO_BLOCKS),
    _of("vit-pytorch", "CaiT", _vit_pytorch("CaiT", cls_depth=2), **_NO_BLOCKS),
]  # fmt: skip

ENTRIES: list[Entry] = [*TIMM, *TORCHVISION, *VIT_PYTORCH]
"""In the order of docs/models.md."""
