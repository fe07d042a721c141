"""Values of JSON as typed dataclasses: of the wrong type, or out of their range, they are left out or refused."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import pytest

from cbkernels.files.typed_json import Count, NotNegative, Share, required, typed
from cbkernels.runs import schema


@dataclass(frozen=True)
class Inner:
    accuracy: Share | None = None


@dataclass(frozen=True)
class Outer:
    epochs: Count | None = None
    seconds: NotNegative | None = None
    each: Mapping[str, Share] = field(default_factory=dict)
    inner: tuple[Inner, ...] = ()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"epochs": -1}, "epochs is -1, not 0 or more"),
    ({"epochs": 0.5}, "epochs is 0.5, not a whole number"),
    ({"seconds": -0.25}, "seconds is -0.25, not 0 or more"),
    ({"each": {"a": 0.5, "b": 7.5}}, "each.b is 7.5, not in 0 to 1"),
    ({"inner": [{"accuracy": 1}, {"accuracy": -1e-9}]}, r"inner\[1\].accuracy is -1e-09, not in 0 to 1"),
]


@pytest.mark.parametrize(("content", "said"), WRONG, ids=[said for _, said in WRONG])
def test_numbers_out_of_range_are_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^f.json is damaged: {said}$"):
        required(Outer, content, "f.json")


def test_the_ends_of_a_range_belong_to_it() -> None:
    content = {"epochs": 0, "seconds": 0, "each": {"a": 0, "b": 1}, "inner": [{"accuracy": 1.0}]}
    assert required(Outer, content, "f.json") == Outer(0, 0.0, {"a": 0.0, "b": 1.0}, (Inner(1.0),))


def test_the_others_are_kept_where_damage_is_tolerated() -> None:
    damage: list[str] = []
    assert typed(Outer, {"epochs": -1, "each": {"a": 0.5, "b": 7.5}}, damage) == Outer(each={"a": 0.5})
    assert len(damage) == 2


def test_every_accuracy_and_count_of_a_run_has_a_range() -> None:
    """Whoever adds a field sees that it needs one; what may be negative is named here."""
    kinds = [kind for kind in vars(schema).values() if isinstance(kind, type) and is_dataclass(kind)]
    free = set()
    for kind in kinds:
        if kind.__module__ != schema.__name__ or kind in (schema.MeasuredLayer, schema.Column, schema.Table):
            continue
        for each, hint in typing.get_type_hints(kind, include_extras=True).items():
            if {int, float} & set(typing.get_args(hint)):
                free.add(each)
        assert fields(kind)
    assert free == {"train_loss", "least_margin_bits", "margin_bits", "similarity", "scores"}
