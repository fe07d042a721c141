"""What entries of a configuration say once layers are gone: a table of the kinds that transformers has."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch", reason="layers in configurations: NOT TESTED HERE (no torch)")

from cbkernels.models.layer_indices import corrected, is_taken, require_unentered

KEPT = [0, 2, 3]
"""Of four layers, the second goes."""


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("layer_types", ["a", "b", "c", "d"], ["a", "c", "d"]),
        ("attention_window", [4, 6, 8, 10], [4, 8, 10]),
        ("intermediate_size", [1, 2, 3, 4], [1, 3, 4]),
        ("no_rope_layers", [1, 1, 0, 1], [1, 0, 1]),
        ("mlp_only_layers", [1, 3], [2]),
        ("moe_layers", (0, 1, 2, 3), (0, 1, 2)),
        ("fullatt_block_indexes", [0, 1, 3], [0, 2]),
        ("global_attn_indexes", [2], [1]),
        ("attn_layer_indices", [], []),
        ("deepstack_visual_indexes", [0, 2], [0, 1]),
        ("layers_to_transform", [3, 0, 7], [2, 0, 7]),
        ("layers_to_transform", 2, 1),
        ("vision_feature_layer", -1, -1),
        ("vision_feature_layer", -3, -3),
        ("vision_feature_layer", -4, -3),
        ("vision_feature_layer", 0, 0),
        ("vision_feature_layer", 1, 1),
        ("vision_feature_layer", 2, 1),
        ("vision_feature_layer", 4, 3),
        ("vision_feature_layers", [-2, 3], [-2, 2]),
        ("_out_indices", [1, 4], [1, 3]),
        ("kv_source_layers", [0, 0, 0, 3], [0, 0, 2]),
        ("per_layer_sizes", {0: "a", 1: "b", 3: "c"}, {0: "a", 2: "c"}),
    ],
)
def test_what_speaks_of_layers_follows(key: str, before: Any, after: Any) -> None:
    assert corrected(key, before, 4, KEPT) == after
    assert type(corrected(key, before, 4, KEPT)) is type(before)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id2label", {0: "a", 1: "b"}),
        ("hidden_sizes_of_stages", [1, 2, 3, 4]),
        ("num_hidden_layers", 4),
        ("num_feat_extract_layers", 3),
        ("image_token_index", 3),
        ("prediction_channel_indices", [0, 1]),
        ("architectures", ["a", "b", "c", "d"]),
        ("use_mlp_only_layers", True),
        ("vision_feature_layer", None),
        ("vision_feature_layer", True),
        ("vision_feature_layer", 5),
        ("out_indices", [1, 9]),
    ],
)
def test_what_speaks_of_something_else_stays(key: str, value: Any) -> None:
    assert corrected(key, value, 4, KEPT) is value


@pytest.mark.parametrize("key", ["deepstack_visual_indexes", "extract_layers", "some_layer_ids"])
def test_a_layer_that_goes_and_is_named_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"the configuration's '{key}' speaks of layer 1, which is to be removed"):
        corrected(key, [1, 3], 4, KEPT)


def test_a_layer_whose_keys_others_use_is_refused() -> None:
    with pytest.raises(ValueError, match="'kv_source_layers' speaks of layer 1"):
        corrected("kv_source_layers", [0, 1, 1, 1], 4, KEPT)


@pytest.mark.parametrize(
    ("key", "harmless", "harmful"),
    [
        ("deepstack_visual_indexes", [7], [7, 8]),
        ("deepstack_layer_map", [(7, 0)], [(7, 0), (9, 2)]),
        ("spatial_target_layers", [0], [0, 3]),
        ("hidden_sizes", [1, 2, 3], []),
    ],
)
def test_states_that_enter_behind_a_layer_that_goes_are_refused(key: str, harmless: Any, harmful: Any) -> None:
    require_unentered(key, harmless, 4, KEPT)
    if harmful:
        with pytest.raises(ValueError, match=f"'{key}' speaks of layer 1"):
            require_unentered(key, harmful, 4, KEPT)


def test_states_are_taken_from_the_part_that_is_named() -> None:
    assert is_taken("vision_feature_layer", "vision_config")
    assert not is_taken("vision_feature_layer", "text_config")
    assert is_taken("extract_layers", "backbone_config")
    assert not is_taken("extract_layers", "text_config")
    assert not is_taken("mlp_only_layers", "text_config")
