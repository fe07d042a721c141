"""Diffusion transformers and a U-Net of diffusers, and a BERT with adapters of PEFT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .entries import Entry, drawn

Built = tuple[nn.Module, dict[str, Any]]
_HEADS = {"num_attention_heads": 2, "attention_head_dim": 8}
_LATENTS: Mapping[str, Any] = {**_HEADS, "in_channels": 4, "sample_size": 8, "patch_size": 2, "num_layers": 3}


def _steps() -> torch.Tensor:
    return torch.tensor([1, 2])


def dit() -> Built:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(**_LATENTS, num_embeds_ada_norm=10, norm_num_groups=1)
    return drawn(model), {"hidden_states": torch.randn(2, 4, 8, 8), "timestep": _steps(), "class_labels": _steps()}


def pixart() -> Built:
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        **_LATENTS, out_channels=8, cross_attention_dim=16, caption_channels=12, norm_num_groups=1
    )
    conditions = {"resolution": None, "aspect_ratio": None}
    return drawn(model), {
        "hidden_states": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 5, 12), "timestep": _steps(),
        "added_cond_kwargs": conditions,
    }  # fmt: skip


def sd3() -> Built:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        **_LATENTS, joint_attention_dim=12, caption_projection_dim=16, pooled_projection_dim=10, out_channels=4
    )
    return drawn(model), {
        "hidden_states": torch.randn(2, 4, 8, 8), "encoder_hidden_states": torch.randn(2, 5, 12),
        "pooled_projections": torch.randn(2, 10), "timestep": _steps(),
    }  # fmt: skip


def flux() -> Built:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        **_HEADS, patch_size=1, in_channels=4, num_layers=2, num_single_layers=3, joint_attention_dim=12,
        pooled_projection_dim=10, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    return drawn(model), {
        "hidden_states": torch.randn(2, 6, 4), "encoder_hidden_states": torch.randn(2, 5, 12),
        "pooled_projections": torch.randn(2, 10), "timestep": torch.tensor([0.1, 0.2]), "img_ids": torch.zeros(6, 3),
        "txt_ids": torch.zeros(5, 3), "guidance": None,
    }  # fmt: skip


def unet() -> Built:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )  # fmt: skip
    return model, {"sample": torch.randn(2, 3, 8, 8), "timestep": _steps()}


def lora() -> Built:
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    model = BertModel(BertConfig(**sizes, vocab_size=50, pad_token_id=0))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value", "dense"]))
    return adapted, {"input_ids": torch.randint(3, 50, (2, 9))}


def _left(block: Any, x: torch.Tensor) -> torch.Tensor:
    projection = getattr(block, "conv_shortcut", None)
    return x if projection is None else projection(x)


_TWO_STREAMS = "adds branches to more than one of its outputs"
ENTRIES: list[Entry] = [
    Entry("DiT", "diffusers", dit, {"transformer_blocks.{0-2}": "attn1 ff"}, in_sample=True,
          refused={"transformer_blocks.0": "the model raises AttributeError"},
          remarks="The gates are part of the branches. The model asks its first block for the embedding of "
          "the condition."),
    Entry("PixArt", "diffusers", pixart, {"transformer_blocks.{0-2}": "attn1 attn2 ff"}),
    Entry("Stable Diffusion 3", "diffusers", sd3,
          {"transformer_blocks.{0-1}": "attn ff ff_context", "transformer_blocks.2": "attn ff"},
          refused={"transformer_blocks.{0-1}": _TWO_STREAMS,
                   "transformer_blocks.2": "returns neither a tensor nor a tuple that begins with one"},
          remarks="Two streams, image and text; the last block returns None for the text."),
    Entry("Flux", "diffusers", flux,
          {"transformer_blocks.{0-1}": "attn ff ff_context", "single_transformer_blocks.{0-2}": "proj_out"},
          refused={"transformer_blocks.{0-1}": _TWO_STREAMS,
                   "single_transformer_blocks.{0-2}": "makes its shortcut with 'cat'"},
          remarks="Two streams; a single block joins them before it adds."),
    Entry("diffusion U-Net", "diffusers", unet,
          {"{down,up}_blocks.{0-1}.resnets.0": "conv2", "up_blocks.{0-1}.resnets.1": "conv2",
           "mid_block.resnets.{0-1}": "conv2", "{down_blocks.1,up_blocks.0,mid_block}.attentions.0": "to_out.0",
           "up_blocks.0.attentions.1": "to_out.0"}, left=_left),
    Entry("LoRA on BertModel", "PEFT", lora,
          {"base_model.model.encoder.layer.{0-2}": "attention.output.dense output.dense"},
          remarks="An adapter is a part of its layer, also while it is zero."),
]  # fmt: skip
"""In the order of docs/models.md."""
