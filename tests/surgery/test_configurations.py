"""What a cut model's configuration says: entries follow, two models never share a change, and what is lost is said."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="configurations of cut models: NOT TESTED HERE (no torch)")
transformers = pytest.importorskip(
    "transformers", reason="configurations of cut models: NOT TESTED HERE (no transformers)"
)

from torch import nn  # noqa: E402

from cbkernels.surgery.surgery import remove_layers  # noqa: E402

from .. import model_zoo  # noqa: E402

TEXT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
        "max_position_embeddings": 64, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip
LLAMA = {**TEXT, "num_key_value_heads": 1, "head_dim": 8}
IMAGE = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32,
         "image_size": 16, "patch_size": 8}  # fmt: skip
BOTH = {"d_model": 16, "encoder_layers": 4, "decoder_layers": 4, "encoder_attention_heads": 2, "vocab_size": 50,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}  # fmt: skip
T5 = {"d_model": 16, "d_ff": 32, "num_layers": 3, "num_heads": 2, "d_kv": 8, "vocab_size": 50,
      "decoder_start_token_id": 0}  # fmt: skip
QWEN = {"depth": 4, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "patch_size": 4,
        "out_hidden_size": 16}  # fmt: skip


def words() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"input_ids": torch.randint(4, 40, (2, 8))}


def pixels() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"pixel_values": torch.randn(2, 3, 16, 16)}


def two_sided() -> dict[str, torch.Tensor]:
    return {**words(), "decoder_input_ids": words()["input_ids"][:, :6]}


def patches() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {"hidden_states": torch.randn(16, 96), "grid_thw": torch.tensor([[1, 4, 4]])}


def image_and_words() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.cat([torch.full((2, 4), 49), words()["input_ids"]], 1), **pixels()}


def made(architecture: str, config: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, architecture)(getattr(transformers, config)(**copy.deepcopy(settings))).eval()
    for parameter in model.parameters():  # so that every layer and every position of a window matters
        nn.init.normal_(parameter, std=0.3)
    return model


def qwen_vision(version: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    if version == "2.5":
        from transformers.models.qwen2_5_vl import configuration_qwen2_5_vl as configs
        from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as models

        config = configs.Qwen2_5_VLVisionConfig(**QWEN, window_size=8, **settings)
        return models.Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    from transformers.models.qwen3_vl import configuration_qwen3_vl as configs
    from transformers.models.qwen3_vl import modeling_qwen3_vl as models

    return models.Qwen3VLVisionModel(configs.Qwen3VLVisionConfig(**QWEN, num_position_embeddings=16, **settings)).eval()


def llava(layer: int | list[int]) -> Any:
    return made("LlavaForConditionalGeneration", "LlavaConfig", image_token_id=49, vision_feature_layer=layer,
                vision_config={"model_type": "clip_vision_model", **IMAGE, "projection_dim": 16},
                text_config={"model_type": "llama", **LLAMA})  # fmt: skip


def backbone(kind: str, **settings: Any) -> Any:
    return made(f"{kind}Backbone", f"{kind}Config", **IMAGE, out_indices=[1, 4], **settings)


def tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    parts = [v for k, v in output.items() if k != "past_key_values"] if hasattr(output, "items") else output
    return [tensor for part in parts for tensor in tensors(part)] if isinstance(parts, (list, tuple)) else []


def outputs(model: Any, example: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return [tensor.clone() for tensor in tensors(model(**example))]


def with_block_passed(model: Any, block: str, example: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """What the model returns when the block hands its input on."""

    def hand_on(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        return x if isinstance(output, torch.Tensor) else (x, *output[1:])

    hook = model.get_submodule(block).register_forward_hook(hand_on, prepend=True, with_kwargs=True)
    try:
        return outputs(model, example)
    finally:
        hook.remove()


def equal(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return len(one) == len(two) and all(map(torch.equal, one, two))


def configurations(model: Any) -> dict[str, Any]:
    return {name: module.config for name, module in model.named_modules() if hasattr(module, "config")}


FOLLOWS: dict[str, tuple[Callable[[], Any], Callable[[], dict[str, torch.Tensor]], str, str, Any]] = {
    "windows": (lambda: qwen_vision("2.5", fullatt_block_indexes=[1, 3]), patches, "blocks.0",
                "fullatt_block_indexes", [0, 2]),
    "a window goes": (lambda: qwen_vision("2.5", fullatt_block_indexes=[1, 3]), patches, "blocks.1",
                      "fullatt_block_indexes", [2]),
    "deepstack": (lambda: qwen_vision("3", deepstack_visual_indexes=[1, 2]), patches, "blocks.0",
                  "deepstack_visual_indexes", [0, 1]),
    "llava from the end": (lambda: llava(-2), image_and_words, "model.vision_tower.encoder.layers.3",
                           "vision_feature_layer", -1),
    "llava forward": (lambda: llava(3), image_and_words, "model.vision_tower.encoder.layers.1",
                      "vision_feature_layer", 2),
    "llava two": (lambda: llava([1, -2]), image_and_words, "model.vision_tower.encoder.layers.0",
                  "vision_feature_layer", [0, -2]),
    "dinov2": (lambda: backbone("Dinov2"), pixels, "encoder.layer.1", "out_features", ["stage1", "stage3"]),
    "dinov3": (lambda: backbone("DINOv3ViT"), pixels, "model.layer.2", "out_indices", [1, 3]),
    "beit": (lambda: backbone("Beit"), pixels, "beit.layers.0", "out_features", ["stem", "stage3"]),
    "longformer": (lambda: made("LongformerModel", "LongformerConfig", **TEXT, attention_window=[4, 4, 8, 4]), words,
                   "encoder.layer.1", "attention_window", [4, 8, 4]),
    "led": (lambda: made("LEDModel", "LEDConfig", **BOTH, attention_window=[4, 4, 8, 4],
                         max_encoder_position_embeddings=64, max_decoder_position_embeddings=64), two_sided,
            "decoder.layers.1", "attention_window", [4, 4, 8, 4]),
    "sam": (lambda: made("SamVisionModel", "SamVisionConfig", **IMAGE, output_channels=8, mlp_dim=32, window_size=1,
                         global_attn_indexes=[1, 3]), pixels, "vision_encoder.layers.1", "global_attn_indexes", [2]),
    "bamba": (lambda: made("BambaForCausalLM", "BambaConfig", **LLAMA, attn_layer_indices=[1, 3], mamba_n_heads=4,
                           mamba_d_head=8, mamba_n_groups=1, mamba_d_state=4), words, "model.layers.1",
              "attn_layer_indices", [2]),
    "gpt neo": (lambda: made("GPTNeoForCausalLM", "GPTNeoConfig", hidden_size=16, num_layers=4, num_heads=2,
                             attention_types=[[["global", "local"], 2]], vocab_size=50, window_size=2), words,
                "transformer.h.1", "attention_layers", ["global", "global", "local"]),
    "gemma 4": (lambda: made("Gemma4ForCausalLM", "Gemma4TextConfig", **{**LLAMA, "num_hidden_layers": 6},
                             global_head_dim=16, hidden_size_per_layer_input=0, vocab_size_per_layer_input=50), words,
                "model.layers.1", "layer_types", ["sliding_attention"] * 4 + ["full_attention"]),
}  # fmt: skip
"""Model, example, block, and what an entry of the configuration says afterwards."""


@pytest.mark.parametrize("kind", FOLLOWS)
def test_entries_that_name_layers_follow(kind: str, tmp_path: Path) -> None:
    make, example, block, key, expected = FOLLOWS[kind]
    model, x = make(), example()
    before, held, uncut = model.config.to_dict(), configurations(model), outputs(model, x)
    passed = with_block_passed(model, block, x)
    assert not equal(passed, uncut) or kind == "llava from the end"
    model, surgery = remove_layers(model, block)
    assert getattr(model.config, key) == expected
    assert equal(outputs(model, x), passed)
    model.save_pretrained(tmp_path)
    assert equal(outputs(type(model).from_pretrained(tmp_path).eval(), x), passed)
    surgery.undo()
    assert model.config.to_dict() == {**before, "architectures": model.config.architectures, "dtype": before["dtype"]}
    assert all(config is held[name] for name, config in configurations(model).items())
    assert equal(outputs(model, x), uncut)
    assert remove_layers(model, block, example=x)[1].removed == [block]


@pytest.mark.parametrize(
    ("make", "block", "message"),
    [
        (lambda: qwen_vision("3", deepstack_visual_indexes=[1, 2]), "blocks.1",
         "the configuration's 'deepstack_visual_indexes' speaks of layer 1, which is to be removed"),
        (lambda: made("Dinov2Backbone", "Dinov2Config", **IMAGE, out_indices=[1, 2]), "encoder.layer.1",
         r"the configuration's 'out_features' are \['stage1', 'stage2'\], of which two would be the same"),
        (lambda: made("EsmModel", "EsmConfig", **TEXT, mask_token_id=3), "encoder.layer.1",
         r"cannot say: the part 'contact_head.regression.weight' would be \[1, 6\] and is \[1, 8\]"),
        (lambda: made("Gemma3nForCausalLM", "Gemma3nTextConfig", **{**LLAMA, "intermediate_size": [32] * 4},
                      vocab_size_per_layer_input=50, hidden_size_per_layer_input=8, num_kv_shared_layers=0,
                      altup_num_inputs=2, laurel_rank=4, layer_types=["full_attention"] * 4,
                      activation_sparsity_pattern=[0.0] * 4), "model.layers.1",
         r"cannot say: the part 'model.embed_tokens_per_layer.weight' would be \[50, 24\] and is \[50, 32\]"),
    ],
)  # fmt: skip
def test_a_refusal_names_what_cannot_follow(make: Callable[[], Any], block: str, message: str) -> None:
    model = make()
    before, held = model.config.to_dict(), configurations(model)
    with pytest.raises(ValueError, match=message):
        remove_layers(model, block)
    assert model.config.to_dict() == before
    assert all(config is held[name] for name, config in configurations(model).items())


# --- what from_pretrained cannot give back ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "block", "lost"),
    [
        (lambda: made("ResNetModel", "ResNetConfig", embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2]),
         "encoder.stages.0.layers.1", "that only shortcuts remain of 'encoder.stages.0.layers.1'"),
        (lambda: made("GPT2LMHeadModel", "GPT2Config", n_embd=16, n_layer=3, n_head=2, vocab_size=50,
                      scale_attn_by_inverse_layer_idx=True), "transformer.h.1",
         r"what is left in 'transformer.h' \('scaling'\)"),
        (lambda: made("DiffLlamaForCausalLM", "DiffLlamaConfig", **{**LLAMA, "num_key_value_heads": 2}),
         "model.layers.1", r"what is left in 'model.layers' \('lambda_init'\)"),
    ],
)  # fmt: skip
def test_what_from_pretrained_would_not_give_back_is_said_once(make: Callable[[], Any], block: str, lost: str) -> None:
    example = pixels() if "stages" in block else words()
    with pytest.warns(UserWarning, match=f"cannot say {lost}, .*use surgery.save and Surgery.load instead") as said:
        remove_layers(make(), block, example=example)
    assert len(said) == 1
    assert said[0].filename == __file__


def test_nothing_is_said_where_nothing_is_lost() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        remove_layers(model_zoo.build("llama")[0], "model.layers.1")
        remove_layers(model_zoo.build("resnet_basic")[0], "layer1.1")


def test_generate_works_where_the_encoder_is_shorter(tmp_path: Path) -> None:
    model = made("T5ForConditionalGeneration", "T5Config", **T5)
    expected = model.generate(**words(), max_new_tokens=4, min_new_tokens=4)
    with pytest.warns(UserWarning, match=r"for num_layers = 2 layers, and the decoder of T5.* has 3, so use_cache is"):
        model, surgery = remove_layers(model, "encoder.block.1")
    cut = model.generate(**words(), max_new_tokens=4, min_new_tokens=4)
    assert cut.shape == expected.shape
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(again.generate(**words(), max_new_tokens=4, min_new_tokens=4), cut)
    surgery.undo()
    assert torch.equal(model.generate(**words(), max_new_tokens=4, min_new_tokens=4), expected)
    assert model.generation_config.use_cache is True


def test_the_cache_is_lost_once_and_only_where_the_encoder_ends_shorter() -> None:
    model = made("T5ForConditionalGeneration", "T5Config", **T5)
    before = model.generation_config.use_cache
    for blocks in (["encoder.block.1", "decoder.block.2"], ["decoder.block.1"]):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model, surgery = remove_layers(model, blocks)
        assert model.generation_config.use_cache is before
        assert model.generate(**words(), max_new_tokens=4, min_new_tokens=4, use_cache=True).shape == (2, 5)
        surgery.undo()
    for blocks in (["encoder.block.1"], ["encoder.block.1", "encoder.block.2", "decoder.block.2"]):
        with pytest.warns(UserWarning, match="as many layers of the decoder in the same call") as said:
            model, surgery = remove_layers(model, blocks)
        assert len(said) == 1
        assert model.generation_config.use_cache is False
        surgery.undo()
    wrapped = nn.Sequential(model)
    wrapped.config, wrapped.generation_config = model.config, model.generation_config
    with pytest.warns(UserWarning, match="as many layers of the decoder in the same call") as said:
        remove_layers(wrapped, "0.encoder.block.1")
    assert len([each for each in said if "same call" in str(each.message)]) == 1
    assert wrapped.generation_config is model.generation_config
    assert model.generation_config.use_cache is False


# --- adapters ---------------------------------------------------------------------------------------------


class AdapterConfig:
    """As peft's: a model has a dictionary of them, which its parts share."""

    def __init__(self, layers: Any, pattern: Any = None) -> None:
        self.layers_to_transform, self.layers_pattern = layers, pattern

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@pytest.mark.parametrize(
    ("before", "pattern", "after"),
    [([2, 3], None, [1, 2]), ([3, 1], ["layers"], [2]), (3, "layers", 2), (0, None, 0), (None, None, None),
     ([2, 3], "h", [2, 3])],
)  # fmt: skip
def test_the_layers_of_an_adapter_follow_in_the_cut_model_only(before: Any, pattern: Any, after: Any) -> None:
    shared, other = AdapterConfig(before, pattern), AdapterConfig([0], "h")
    student, teacher = (made("LlamaForCausalLM", "LlamaConfig", **LLAMA) for _ in range(2))
    student.peft_config = teacher.peft_config = student.model.peft_config = {"default": shared, "other": other}
    student, surgery = remove_layers(student, "model.layers.1")
    assert student.peft_config["default"].layers_to_transform == after
    assert student.model.peft_config is student.peft_config
    assert student.peft_config["other"].layers_to_transform == [0]
    assert teacher.peft_config == {"default": shared, "other": other}
    assert shared.layers_to_transform == before
    surgery.undo()
    assert student.peft_config is teacher.peft_config


@pytest.mark.parametrize("only", [1, [1]])
def test_the_only_layer_of_an_adapter_stays(only: Any) -> None:
    model = made("LlamaForCausalLM", "LlamaConfig", **LLAMA)
    model.peft_config = {"default": AdapterConfig(only)}
    with pytest.raises(ValueError, match="'layers_to_transform' speaks of layer 1, which is to be removed"):
        remove_layers(model, "model.layers.1")


# --- one configuration, two models ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "config", "settings", "block", "key", "inside"),
    [
        ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 16, "n_layer": 4, "n_head": 2, "vocab_size": 50},
         "transformer.h.1", "n_layer", "transformer"),
        ("BartForConditionalGeneration", "BartConfig", BOTH, "model.encoder.layers.1", "encoder_layers",
         "model.decoder"),
    ],
)  # fmt: skip
def test_a_teacher_with_the_same_configuration_keeps_it(
    architecture: str, config: str, settings: dict[str, Any], block: str, key: str, inside: str
) -> None:
    shared = getattr(transformers, config)(**settings)
    student, teacher = (getattr(transformers, architecture)(shared) for _ in range(2))
    before = shared.to_dict()
    student, surgery = remove_layers(student, block)
    assert teacher.config is shared
    assert shared.to_dict() == before
    assert getattr(student.config, key) == 3
    assert student.get_submodule(inside).config is student.config
    surgery.undo()
    assert student.config is shared
    assert shared.to_dict() == before


def test_nested_configurations_stay_one_object() -> None:
    model = llava(-2)
    shared = model.config
    model, surgery = remove_layers(model, "model.language_model.layers.1")
    assert model.config is model.model.config
    assert model.config is not shared
    assert model.config.text_config is model.model.language_model.config
    assert (model.config.text_config.num_hidden_layers, shared.text_config.num_hidden_layers) == (3, 4)
    assert model.config.vision_feature_layer == -2
    surgery.undo()
    assert model.config is shared
    assert model.model.language_model.config is shared.text_config


def test_a_plain_object_as_configuration_is_shared_and_stays() -> None:
    """nanoGPT's: it counts the blocks, and as only shortcuts replace them it stays right."""

    @dataclasses.dataclass
    class Settings:
        n_layer: int = 4

    settings = Settings()
    models = [model_zoo.nano_gpt()[0] for _ in range(2)]
    for model in models:
        model.config = settings
    remove_layers(models[0], "transformer.h.1")
    assert models[0].config is models[1].config is settings
    assert (settings, len(models[0].transformer.h)) == (Settings(), 4)


# --- positions that no table knows ------------------------------------------------------------------------


class CountsItsLayers(nn.Module):
    """Does something behind its third layer, whatever its configuration says."""

    def __init__(self) -> None:
        super().__init__()
        self.config = type("Settings", (), {"to_dict": vars})()
        self.config.num_layers = 4
        self.layers = nn.ModuleList([model_zoo.Block(8, 2) for _ in range(4)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x) * (3 if i == 2 else 1)
        return x


def test_an_example_tells_when_the_position_of_a_layer_matters() -> None:
    torch.manual_seed(0)
    model, x = CountsItsLayers(), torch.randn(2, 3, 8)
    before = model.eval()(x)
    with pytest.raises(ValueError, match=r"without \['layers.1'\] the model gives another output than with these"):
        remove_layers(model, "layers.1", example=x)
    assert torch.equal(model(x), before)
    assert model.config.num_layers == 4
    assert len(remove_layers(model, "layers.3", example=x)[0].layers) == 3
    assert len(remove_layers(model, "layers.1", example=x, force=True)[0].layers) == 2


class CallsPastHooks(CountsItsLayers):
    """As SqueezeBERT does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer.forward(x)
        return x


def test_nothing_is_compared_with_what_hooks_cannot_show() -> None:
    torch.manual_seed(0)
    model, x = CallsPastHooks(), torch.randn(2, 3, 8)
    assert len(remove_layers(model, "layers.1", example=x)[0].layers) == 3
