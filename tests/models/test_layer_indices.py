"""What entries of a configuration say once layers are gone: a table of the kinds that transformers has."""

from __future__ import annotations

from typing import Any

import pytest

from cbkernels.models.layer_indices import corrected, is_taken

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
        ("vision_feature_layer", -1, -1),
        ("vision_feature_layer", -3, -3),
        ("vision_feature_layer", -4, -3),
        ("vision_feature_layer", 0, 0),
        ("vision_feature_layer", 1, 1),
        ("vision_feature_layer", 2, 1),
        ("vision_feature_layer", 4, 3),
        ("vision_feature_layers", [-2, 3], [-2, 2]),
        ("_out_indices", [1, 4], [1, 3]),
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
    with pytest.raises(ValueError, match=rf"the configuration's '{key}' is \[1, 3\] and names layer 1, which is to be"):
        corrected(key, [1, 3], 4, KEPT)


def test_states_are_taken_from_the_part_that_is_named() -> None:
    assert is_taken("vision_feature_layer", "vision_config")
    assert not is_taken("vision_feature_layer", "text_config")
    assert is_taken("extract_layers", "backbone_config")
    assert not is_taken("extract_layers", "text_config")
    assert not is_taken("mlp_only_layers", "text_config")
