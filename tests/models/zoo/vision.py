"""Models of images, sound and series in transformers: one stage, many stages, convolutions, several inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from .entries import Entry
from .hugging_face import hugging_face, images

_VIT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
_CLIP_TEXT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50,
    "max_position_embeddings": 24, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_SWIN: dict[str, Any] = {
    "image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4,
}  # fmt: skip
_CONVOLUTIONS: dict[str, Any] = {"embedding_size": 8, "depths": [2, 2]}
_PYRAMID: dict[str, Any] = {
    "num_encoder_blocks": 2, "depths": [2, 2], "hidden_sizes": [8, 16], "num_attention_heads": [1, 2],
    "strides": [4, 2], "mlp_ratios": [2, 2],
}  # fmt: skip
_SOUND: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "conv_dim": (8, 8),
    "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}  # fmt: skip
_POSITIONS = "1 sum of an input and a branch lies outside of any module that could be removed: in .*Encoder.forward"


def _waves() -> dict[str, torch.Tensor]:
    return {"input_values": torch.randn(2, 1600)}


def _frames() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(2, 2, 3, 32, 32)}


def _series() -> dict[str, torch.Tensor]:
    return {
        "past_values": torch.randn(2, 9), "past_time_features": torch.randn(2, 9, 1),
        "future_values": torch.randn(2, 4),
        "past_observed_mask": torch.ones(2, 9), "future_time_features": torch.randn(2, 4, 1),
    }  # fmt: skip


def _autoformer_without_a_layer(output: Any, hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
    """The trend of a layer of the decoder, its second output, goes with the layer."""
    if isinstance(output, torch.Tensor):
        return hidden_states
    return type(output)([hidden_states, *[torch.zeros_like(part) for part in output[1:]]])


def _upernet() -> Any:
    from transformers import ConvNextConfig, UperNetConfig

    stages = [f"stage{i}" for i in range(1, 5)]
    backbone = ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 2, 1, 1], out_features=stages)
    return UperNetConfig(backbone_config=backbone, hidden_size=16, auxiliary_in_channels=16, auxiliary_channels=8,
                         pool_scales=[1, 2], num_labels=4)  # fmt: skip


def _mask2former() -> Any:
    from transformers import Mask2FormerConfig, SwinConfig

    stages = [f"stage{i}" for i in range(1, 5)]
    backbone = SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 2, 2],
                          window_size=4, out_features=stages)  # fmt: skip
    return Mask2FormerConfig(backbone_config=backbone, feature_size=32, mask_feature_size=16, hidden_dim=32,
                             encoder_feedforward_dim=32, encoder_layers=2, decoder_layers=3, num_attention_heads=2,
                             dim_feedforward=32, num_queries=5)  # fmt: skip


def _relu(block: Any, x: torch.Tensor) -> torch.Tensor:
    return F.relu(block.shortcut(x))


ONE_STAGE = [
    hugging_face("ViTModel", _VIT, images, {"layers.{0-2}": "attention mlp"}, in_sample=True),
    hugging_face("DeiTModel", _VIT, images, {"layers.{0-2}": "attention mlp"}),
    hugging_face("BeitModel", _VIT, images, {"layers.{0-2}": "attention mlp"}),
    hugging_face("Dinov2Model", {**_VIT, "mlp_ratio": 2}, images, {"encoder.layer.{0-2}": "attention mlp"}),
    hugging_face("CLIPVisionModel", _VIT, images, {"encoder.layers.{0-2}": "self_attn mlp"}),
    hugging_face(
        "CLIPModel", {"text_config": _CLIP_TEXT, "vision_config": _VIT, "projection_dim": 8},
        lambda: {**images(), "input_ids": torch.randint(3, 49, (2, 9))},
        {"vision_model.encoder.layers.{0-2}": "self_attn mlp", "text_model.encoder.layers.{0-2}": "self_attn mlp"},
        remarks="Two encoders with a configuration each.",
    ),
    hugging_face("SiglipVisionModel", _VIT, images, {"encoder.layers.{0-2}": "self_attn mlp"},
                 notes="in SiglipMultiheadAttentionPoolingHead.forward",
                 remarks="The pooling head has a sum of its own."),
    hugging_face(
        "SamVisionModel",
        {"hidden_size": 16, "output_channels": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
         "patch_size": 8, "window_size": 2, "global_attn_indexes": [2], "initializer_range": 0.2},
        images, {"vision_encoder.layers.{0-2}": "attn mlp"},
    ),
    hugging_face("TimesformerModel", {**_VIT, "num_frames": 2}, _frames,
                 {"encoder.layer.{0-2}": "temporal_dense attention output"}),
]  # fmt: skip

MANY_STAGES = [
    hugging_face("SwinModel", _SWIN, images, {"encoder.layers.{0-1}.blocks.{0-1}": "attention mlp"}, in_sample=True),
    hugging_face("Swinv2Model", _SWIN, images,
                 {"encoder.layers.{0-1}.blocks.{0-1}": "layernorm_before layernorm_after"}),
    hugging_face(
        "Swin2SRModel", {**_SWIN, "image_size": 16, "patch_size": 1, "num_channels": 3}, partial(images, 16),
        {"encoder.stages.{0-1}.layers.{0-1}": "layernorm_before layernorm_after"},
        notes="2 sums of an input and a branch lie outside .*: in Swin2SRStage.forward.*in Swin2SRModel.forward",
        remarks="Long sums around the stages and around all of them are left out.",
    ),
    hugging_face("DonutSwinModel", _SWIN, images, {"encoder.layers.{0-1}.blocks.{0-1}": "attention output"}),
    hugging_face(
        "ClapAudioModel",
        {"spec_size": 32, "num_mel_bins": 8, "patch_size": 2, "patch_stride": [2, 2], "window_size": 4,
         "depths": [2, 2], "num_attention_heads": [1, 2],
         "patch_embeds_hidden_size": 8, "hidden_size": 16, "num_hidden_layers": 2},
        lambda: {"input_features": torch.randn(2, 1, 128, 8)},
        {"audio_encoder.layers.{0-1}.blocks.{0-1}": "attention output"},
        remarks="Its configuration counts the stages.",
    ),
    hugging_face(
        "UperNetForSemanticSegmentation", _upernet, partial(images, 64),
        {"backbone.encoder.stages.{0,2,3}.layers.0": "pwconv2", "backbone.encoder.stages.1.layers.{0-1}": "pwconv2"},
        remarks="Its backbone is a ConvNeXt.",
    ),
    hugging_face(
        "Mask2FormerModel", _mask2former, partial(images, 64),
        {"pixel_level_module.encoder.swin.encoder.layers.{0,2,3}.blocks.0": "attention mlp",
         "pixel_level_module.encoder.swin.encoder.layers.1.blocks.{0-1}": "attention mlp",
         "pixel_level_module.decoder.encoder.layers.{0-1}": "self_attn fc2",
         "transformer_module.decoder.layers.{0-1}": "cross_attn self_attn fc2"},
        remarks="Its backbone is a Swin.",
    ),
    hugging_face("ConvNextModel", {"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2}, images,
                 {"encoder.stages.{0-1}.layers.{0-1}": "pwconv2"}),
    hugging_face("SegformerModel", {**_PYRAMID, "sr_ratios": [2, 1], "patch_sizes": [7, 3]}, images,
                 {"stages.{0-1}.blocks.{0-1}": "attention mlp"}),
    hugging_face(
        "PvtModel", {**_PYRAMID, "image_size": 32, "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2]}, images,
        {"encoder.block.{0-1}.{0-1}": "attention mlp"},
    ),
    hugging_face("PoolFormerModel", {"hidden_sizes": [8, 8], "depths": [2, 2], "num_encoder_blocks": 2,
                                     "patch_sizes": [7, 3], "strides": [4, 2], "padding": [2, 1]}, images,
                 {"encoder.block.{0-1}.{0-1}": "pooling output"}),
    hugging_face(
        "HieraModel",
        {"image_size": [32, 32], "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "num_query_pool": 1,
         "query_stride": [2, 2], "masked_unit_size": [4, 4], "patch_size": [3, 3], "patch_stride": [2, 2],
         "patch_padding": [1, 1]},
        images, {"encoder.stages.{0-1}.layers.{0-1}": "attn mlp"},
        refused={"encoder.stages.1.layers.0": "makes its shortcut with .*layernorm_before' and .*proj' and 'max'"},
    ),
]  # fmt: skip

CONVOLUTIONS = [
    hugging_face("ResNetModel", {**_CONVOLUTIONS, "hidden_sizes": [8, 16], "layer_type": "basic"}, images,
                 {"encoder.stages.{0-1}.layers.{0-1}": "layer"}, left=_relu, in_sample=True),
    hugging_face("RegNetModel", {**_CONVOLUTIONS, "hidden_sizes": [8, 16], "groups_width": 4}, images,
                 {"encoder.stages.{0-1}.layers.{0-1}": "layer"}, left=_relu),
    hugging_face(
        "BitModel", {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [2, 2], "num_groups": 4}, images,
        {"encoder.stages.{0-1}.layers.{0-1}": "conv3"},
        refused={"encoder.stages.{0-1}.layers.0": "makes its shortcut with .*norm1' and .*downsample'"},
        remarks="Pre-activation: the projection begins behind the first norm.",
    ),
    hugging_face("MobileNetV1Model", {"depth_multiplier": 0.25}, images, remarks="No layer of it adds anything."),
    hugging_face("MobileNetV2Model", {"depth_multiplier": 0.25}, images,
                 {"layer.{1,3,4,6,7,8,10,11,13,14}": "reduce_1x1"},
                 remarks="A layer adds where it keeps stride and width."),
]  # fmt: skip

OTHER_INPUTS = [
    hugging_face("Wav2Vec2Model", _SOUND, _waves, {"encoder.layers.{0-2}": "attention feed_forward"}, notes=_POSITIONS,
                 remarks="The encoder adds a convolution of positions itself."),
    hugging_face(
        "Wav2Vec2BertModel",
        {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
         "feature_projection_input_dim": 10},
        lambda: {"input_features": torch.randn(2, 12, 10)},
        {"encoder.layers.{0-2}": "ffn1 self_attn conv_module ffn2"}, remarks="A conformer.",
    ),
    hugging_face(
        "WhisperModel",
        {"d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 50,
         "max_source_positions": 10, "num_mel_bins": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
         "decoder_start_token_id": 1},
        lambda: {"input_features": torch.randn(2, 8, 20), "decoder_input_ids": torch.randint(3, 50, (2, 7))},
        {"encoder.layers.{0-1}": "self_attn fc2", "decoder.layers.{0-2}": "self_attn encoder_attn fc2"},
    ),
    hugging_face(
        "PatchTSTModel",
        {"num_input_channels": 2, "context_length": 32, "patch_length": 8, "stride": 8, "num_hidden_layers": 3,
         "d_model": 16, "num_attention_heads": 2, "ffn_dim": 32},
        lambda: {"past_values": torch.randn(2, 32, 2)}, {"encoder.layers.{0-2}": "self_attn ff"},
    ),
    hugging_face(
        "AutoformerModel",
        {"prediction_length": 4, "context_length": 8, "lags_sequence": [1], "d_model": 16, "encoder_layers": 2,
         "decoder_layers": 3, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
         "decoder_ffn_dim": 32, "num_time_features": 1, "moving_average": 3, "label_length": 4},
        _series, {"encoder.layers.{0-1}": "self_attn fc2", "decoder.layers.{0-2}": "self_attn encoder_attn fc2"},
        stand_in=_autoformer_without_a_layer,
        remarks="Behind every sum a moving average is taken away, which is no branch.",
    ),
    hugging_face(
        "PerceiverModel",
        {"num_latents": 4, "d_latents": 16, "d_model": 16, "num_blocks": 1, "num_self_attends_per_block": 3,
         "num_self_attention_heads": 2, "num_cross_attention_heads": 2},
        lambda: {"inputs": torch.randn(2, 5, 16)},
        {"encoder.cross_attention": "attention.output mlp", "encoder.self_attends.{0-2}": "attention.output mlp"},
        remarks="The first block reads the inputs into the latent values.",
    ),
]  # fmt: skip

ENTRIES: list[Entry] = [*ONE_STAGE, *MANY_STAGES, *CONVOLUTIONS, *OTHER_INPUTS]
"""In the order of docs/models.md."""
