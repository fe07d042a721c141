"""JSON files: one reader for all of them, and one sentence for what it cannot take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cbkernels
from cbkernels.files.json_files import MOST_LEVELS, json_object, json_text, json_value

DAMAGED = {
    "nested": "[" * 100_000 + "]" * 100_000,
    "nested as deeply as JSON can be parsed": '{"a":' * 900 + "1" + "}" * 900,
    "one level too deep": "[" * (MOST_LEVELS + 1) + "]" * (MOST_LEVELS + 1),
    "400 digits": '{"epochs": ' + "9" * 400 + "}",
    "minus 400 digits": '{"epochs": [-' + "9" * 400 + "]}",
    "5000 digits": '{"epochs": ' + "9" * 5_000 + "}",
    "a float that is infinite": '{"rate": 1e400}',
    "NaN": '{"rate": NaN}',
    "a number alone": "-Infinity",
    "a name twice": '{"a": [{"rate": 1, "b": 2, "rate": 3}]}',
    "cut off": '{"rate": ',
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_damaged_json_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^f\.json is damaged: it holds no JSON \(") as error:
        json_value(text, "f.json")
    assert len(str(error.value)) < 200
    assert "\n" not in str(error.value)


def test_what_is_json_passes() -> None:
    deep = "[" * MOST_LEVELS + "]" * MOST_LEVELS
    assert str(json_value(deep, "f")) == deep
    for content in ({"a": 1.7e308, "b": -(2**1000), "c": [True, None, ""]}, {"d": {}}):
        assert json_object(json_text(content), "f") == content
    assert json_value("[Infinity, -Infinity]", "f", finite=False) == [float("inf"), -float("inf")]
    with pytest.raises(ValueError, match="9 is not a finite number"):
        json_value("9" * 400, "f", finite=False)


def test_nothing_else_in_the_package_reads_json() -> None:
    package = Path(cbkernels.__file__).parent
    readers = [f.name for f in package.rglob("*.py") if re.search(r"\bjson\.loads?\(", f.read_text("utf-8"))]
    assert readers == ["json_files.py"]
