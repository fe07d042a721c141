"""Language models of transformers: encoders, decoders, mixtures of experts, state spaces, encoder with decoder."""

from __future__ import annotations

from functools import partial
from typing import Any

from .entries import Entry
from .hugging_face import hugging_face, two_texts, words

_TEXT: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {**_TEXT, "num_key_value_heads": 1, "head_dim": 8}
_GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 24, "vocab_size": 50}
_BART = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 50, "max_position_embeddings": 64,
}  # fmt: skip
_STATE_SPACE = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 4}
_T5 = {"d_model": 16, "d_ff": 32, "num_heads": 2, "d_kv": 8, "vocab_size": 50, "decoder_start_token_id": 0}

_POST_NORM = "attention.output.dense output.dense"
_LLAMA = {"layers.{0-2}": "self_attn mlp"}
_NORMED = {"layers.{0-2}": "post_attention_layernorm post_feedforward_layernorm"}
_ENCODER_DECODER = {"encoder.layers.{0-1}": "self_attn fc2", "decoder.layers.{0-2}": "self_attn encoder_attn fc2"}
_DIFFER = "the model differs in ways that the configuration of .* cannot say"

ENCODERS = [
    hugging_face("BertModel", _TEXT, words, {"encoder.layer.{0-2}": _POST_NORM}, in_sample=True),
    hugging_face("RobertaModel", _TEXT, words, {"encoder.layer.{0-2}": _POST_NORM}),
    hugging_face("ElectraModel", {**_TEXT, "embedding_size": 16}, words, {"encoder.layer.{0-2}": _POST_NORM}),
    hugging_face(
        "DistilBertModel", {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "vocab_size": 50}, words,
        {"transformer.layer.{0-2}": "attention ffn"},
    ),
    hugging_face(
        "AlbertModel", {**_TEXT, "embedding_size": 16}, words,
        {"encoder.albert_layer_groups.0.albert_layers.0": "attention.dense ffn_output"},
        remarks="One layer, called three times; without it nothing is left.",
    ),
    hugging_face(
        "DebertaV2Model", {**_TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, words,
        {"encoder.layer.{0-2}": _POST_NORM},
    ),
    hugging_face("FNetModel", _TEXT, words, {"encoder.layer.{0-2}": "fourier.self output.dense"},
                 remarks="A Fourier transform stands for the attention."),
    hugging_face(
        "SqueezeBertModel", {**_TEXT, "embedding_size": 16}, words,
        {"encoder.layers.{0-2}": "post_attention.conv1d output.conv1d"}, in_sample=True,
        notes="only the branches of 3 blocks are measured",
        remarks="The model calls the forward of its layers itself, past their hooks.",
    ),
    hugging_face("ModernBertModel", {**_TEXT, "cls_token_id": 1, "sep_token_id": 2}, words,
                 {"layers.{0-2}": "attn mlp"}, refused={"layers.0": _DIFFER}),
    hugging_face(
        "XLNetModel", {"vocab_size": 50, "d_model": 16, "n_layer": 3, "n_head": 2, "d_inner": 32}, words,
        {"layer.{0-2}": "ff.layer_2"}, in_sample=True, notes="1 of the branches of 'layer.0' are made by no module",
        remarks="The last product of the attention is computed by no module; the sum it goes into is not measured "
        "alone.",
    ),
    hugging_face("LongformerModel", {**_TEXT, "attention_window": 4}, words, {"encoder.layer.{0-2}": _POST_NORM}),
    hugging_face("EsmModel", {**_TEXT, "mask_token_id": 3, "position_embedding_type": "rotary"}, words,
                 {"encoder.layer.{0-2}": _POST_NORM}),
    hugging_face("NystromformerModel", {**_TEXT, "segment_means_seq_len": 3, "num_landmarks": 3, "conv_kernel_size": 3},
                 words, {"encoder.layer.{0-2}": _POST_NORM}),
    hugging_face("MraModel", _TEXT, words, {"encoder.layer.{0-2}": "output.dense"},
                 remarks="Without its CUDA kernel the library takes zeros for the attention, which then is no branch."),
    hugging_face(
        "ReformerModel",
        {"attention_head_size": 8, "hidden_size": 16, "num_attention_heads": 2, "axial_pos_embds": False,
         "feed_forward_size": 32, "is_decoder": True, "attn_layers": ["local"] * 3, "local_attn_chunk_length": 4,
         "vocab_size": 50, "max_position_embeddings": 64},
        partial(words, 8), {"encoder.layers.{0-2}": "attention feed_forward"},
        stand_in=lambda output, prev_attn_output, hidden_states, **_: output._replace(
            hidden_states=hidden_states, attn_output=prev_attn_output
        ),
        remarks="Two streams: each layer adds its attention to one and its feed-forward part to the other.",
    ),
]  # fmt: skip

DECODERS = [
    hugging_face("GPT2LMHeadModel", _GPT2, words, {"transformer.h.{0-2}": "attn mlp"}, in_sample=True),
    hugging_face("GPTNeoXModel", _TEXT, words, {"layers.{0-2}": "attention mlp"}),
    hugging_face("LlamaForCausalLM", _GROUPED, words, {"model.layers.{0-2}": "self_attn mlp"}),
    hugging_face("MistralModel", _GROUPED, words, _LLAMA),
    hugging_face("Qwen2Model", _GROUPED, words, _LLAMA),
    hugging_face("Qwen3Model", _GROUPED, words, _LLAMA),
    hugging_face("GemmaModel", _GROUPED, words, _LLAMA),
    hugging_face("Gemma2Model", _GROUPED, words, _NORMED),
    hugging_face("Gemma3TextModel", _GROUPED, words, _NORMED),
    hugging_face(
        "Gemma3nTextModel",
        {**_GROUPED, "num_hidden_layers": 4, "vocab_size_per_layer_input": 50, "hidden_size_per_layer_input": 8,
         "num_kv_shared_layers": 0, "layer_types": ["sliding_attention"] * 3 + ["full_attention"], "laurel_rank": 4,
         "activation_sparsity_pattern": [0.0] * 4, "intermediate_size": [32] * 4},
        words,
        {"layers.{0-3}": "laurel post_attention_layernorm post_feedforward_layernorm post_per_layer_input_norm"},
        notes="1 of the branches of 'layers.0' are made by no module",
        remarks="Four streams, which every layer mixes before and after its branches.",
    ),
    hugging_face("GraniteModel", _GROUPED, words, _LLAMA),
    hugging_face("OPTModel", {**_TEXT, "word_embed_proj_dim": 16, "ffn_dim": 32}, words,
                 {"decoder.layers.{0-2}": "self_attn fc2"}, in_sample=True),
    hugging_face("FalconModel", _TEXT, words, {"h.{0-2}": "self_attention mlp"}),
    hugging_face("BloomModel", {"hidden_size": 16, "n_layer": 3, "n_head": 2, "vocab_size": 50}, words,
                 {"h.{0-2}": "self_attention.dense mlp.dense_4h_to_h"}),
    hugging_face("PhiModel", {**_TEXT, "partial_rotary_factor": 0.5}, words, _LLAMA),
    hugging_face("MixtralModel", {**_GROUPED, "num_local_experts": 2, "num_experts_per_tok": 1}, words, _LLAMA),
    hugging_face("Llama4TextModel", {**_GROUPED, "num_local_experts": 2, "intermediate_size_mlp": 32}, words,
                 {"layers.{0-2}": "self_attn feed_forward"}),
    hugging_face(
        "DeepseekV3Model",
        {**_TEXT, "num_key_value_heads": 2, "moe_intermediate_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2,
         "n_group": 2, "topk_group": 1, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4,
         "qk_nope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1},
        words, _LLAMA, refused={"layers.0": _DIFFER},
        remarks="Its first layer is dense, the others are mixtures of experts.",
    ),
    hugging_face("MambaModel", {"hidden_size": 16, "num_hidden_layers": 3, "vocab_size": 50, "state_size": 4}, words,
                 {"layers.{0-2}": "mixer"}),
    hugging_face("FalconH1Model", {**_GROUPED, "mamba_d_ssm": 32, **_STATE_SPACE}, words,
                 {"layers.{0-2}": "mamba self_attn feed_forward"}),
    hugging_face("BambaModel", {**_GROUPED, "attn_layer_indices": [1], **_STATE_SPACE}, words,
                 {"layers.{0,2}": "mamba feed_forward", "layers.1": "self_attn feed_forward"}),
    hugging_face(
        "Zamba2Model",
        {**_TEXT, "num_hidden_layers": 5, "num_key_value_heads": 2, "mamba_d_state": 4, "mamba_headdim": 8,
         "n_mamba_heads": 4, "mamba_ngroups": 1, "num_mem_blocks": 1, "use_mem_rope": True, "adapter_rank": 4,
         "layers_block_type": ["mamba", "mamba", "hybrid", "mamba", "hybrid"], "use_mamba_kernels": False},
        words, {"layers.{0,1,3}": "mamba", "layers.{2,4}": "mamba_decoder.mamba"},
        remarks="One transformer is shared by all hybrid layers; its sums are in the branch.",
    ),
    hugging_face(
        "JambaModel",
        {**_GROUPED, "num_hidden_layers": 4, "attn_layer_offset": 1, "attn_layer_period": 2, "num_experts": 2,
         "num_experts_per_tok": 1, "use_mamba_kernels": False, "mamba_d_state": 4},
        words, {"layers.{0,2}": "mamba feed_forward", "layers.{1,3}": "self_attn feed_forward"},
    ),
]  # fmt: skip

WITH_BOTH = [
    hugging_face(
        "T5Model", {**_T5, "num_layers": 3}, two_texts,
        {"encoder.block.{0-2}": "layer.0.SelfAttention layer.1.DenseReluDense",
         "decoder.block.{0-2}": "layer.0.SelfAttention layer.1.EncDecAttention layer.2.DenseReluDense"},
        refused={"{encoder,decoder}.block.0": _DIFFER}, in_sample=True,
        remarks="The first layers hold the position biases of all.",
    ),
    hugging_face("BartModel", _BART, two_texts, _ENCODER_DECODER),
    hugging_face("PegasusModel", _BART, two_texts, _ENCODER_DECODER),
]  # fmt: skip

ENTRIES: list[Entry] = [*ENCODERS, *DECODERS, *WITH_BOTH]
"""In the order of docs/models.md."""
