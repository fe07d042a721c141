"""One report: what is concluded from it, its tables, and that files bring it back bit for bit."""

from __future__ import annotations

import copy
import csv
import dataclasses
import doctest
import html.parser
import io
import json
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels import tables
from cbkernels.findings import columns, history
from cbkernels.findings import layer_report as report
from cbkernels.findings.layer_report import LayerReport

GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.7)


def result(entropy: float = 0.0, *, conflicting: int = 0, rows: int = 0, **other: Any) -> cb.BundleResult:
    """Of 512 rows of 10 columns; everything else as asked."""
    values = {
        "entropy": entropy, "num_bundles": 512, "num_conflicting": conflicting, "num_nan_rows": 0, "num_rows": 512,
        "num_conflicting_rows": rows, "num_columns": 10, "dtype": "float32", "device": "cpu", "backend": "cpu",
        "grid": GRID,
    }  # fmt: skip
    return cb.BundleResult(**{**values, **other})


STEP = GRID.step()
RESULTS = {
    "conv1": result(),
    "block.2#1": result(0.25, conflicting=3, rows=9, num_bundles=400),
    "block.2": result(0.5, conflicting=2, rows=40, num_bundles=300),
    "sick": result(math.nan, conflicting=1, rows=2, num_nan_rows=4),
    "fc": result(),
}
MARGINS = {"conv1": 8 * STEP, "block.2#1": 0.0, "block.2": STEP / 4, "fc": math.inf}


def full_report(**other: Any) -> LayerReport:
    values: dict[str, Any] = {
        "step": 7, "margins": MARGINS, "amplitudes": {"conv1": 3.5, "block.2#1": math.inf},
        "blocks": {"block.2": "block"},
        "skipped": {"lstm": "its output is a <PackedSequence>"}, "notes": ("2 sums lie in <Net>.forward",),
        "model": "Net", "autocast": "bfloat16", "reduce": "mean",
        "seconds": 0.12, "seconds_since_last": 14.88,
    }  # fmt: skip
    return LayerReport(RESULTS, **{**values, **other})


# --- a read-only mapping ----------------------------------------------------------------------------------


def test_is_a_mapping_in_the_order_given() -> None:
    made = full_report()
    assert isinstance(made, Mapping)
    assert list(made) == list(RESULTS)
    assert len(made) == 5
    assert made["block.2"] is RESULTS["block.2"]
    assert "lstm" not in made
    assert made.get("nothing") is None
    assert dict(made) == RESULTS


def test_unknown_and_skipped_layers_are_told_apart() -> None:
    with pytest.raises(KeyError, match="no layer is called 'conv'"):
        full_report()["conv"]
    with pytest.raises(KeyError, match="'lstm' was not measured: its output is a <PackedSequence>"):
        full_report()["lstm"]


def test_nothing_can_be_changed() -> None:
    results, margins, blocks = dict(RESULTS), dict(MARGINS), {"conv1": "stem"}
    made = LayerReport(results, margins=margins, blocks=blocks)
    for given in (results, margins, blocks):
        given.clear()
    assert (made.results, made.margins, made.blocks) == (RESULTS, MARGINS, {"conv1": "stem"})
    for mapping in (made.results, made.margins, made.amplitudes, made.blocks, made.skipped):
        with pytest.raises(TypeError):
            mapping["conv1"] = None  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.step = 8  # type: ignore[misc]


def test_equality_takes_all_of_it_and_nan_for_nan() -> None:
    assert full_report() == full_report()
    twin = LayerReport({**RESULTS, "sick": result(float("nan"), conflicting=1, rows=2, num_nan_rows=4)}, step=7)
    assert twin == LayerReport(RESULTS, step=7)
    for other in (
        {"step": 8}, {"margins": {}}, {"amplitudes": {}}, {"blocks": {}}, {"skipped": {}}, {"notes": ()},
        {"learning_rates": {"peak": 1e-3, "current": 0.0}},
        {"model": ""}, {"autocast": None}, {"reduce": "cls"}, {"seconds": 1.0}, {"seconds_since_last": None},
    ):  # fmt: skip
        assert full_report() != full_report(**other), other
    assert LayerReport({"a": result()}) != LayerReport({"a": result(device="cuda:0")})
    assert LayerReport({"a": result(), "b": result()}) != LayerReport({"b": result(), "a": result()})
    assert full_report() != RESULTS


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])
def test_copies_and_pickles(duplicate: Any) -> None:
    twin = duplicate(full_report())
    assert twin == full_report()
    with pytest.raises(TypeError):
        twin.margins["conv1"] = 0.0


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"results": [1]}, TypeError, "results is a list"),
        ({"results": {1: result()}}, TypeError, "key 1; layer names are strings"),
        ({"results": {"a": 0.5}}, TypeError, r"results\['a'\] is 0.5; it must be a BundleResult"),
        ({"margins": {"b": 1.0}}, ValueError, "margins has the layer 'b', of which there is no result"),
        ({"margins": {"a": math.nan}}, ValueError, r"margins\['a'\] is nan"),
        ({"margins": {"a": -1.0}}, ValueError, r"margins\['a'\] is -1.0"),
        ({"margins": {"a": "wide"}}, TypeError, r"margins\['a'\] is 'wide'; it must be a number"),
        ({"amplitudes": {"a": -2}}, ValueError, r"amplitudes\['a'\] is -2"),
        ({"skipped": {"b": None}}, TypeError, r"skipped\['b'\] is None; it must be a str"),
        ({"notes": "one"}, TypeError, "notes is 'one'; pass a tuple of sentences"),
        (
            {"learning_rates": {"peak": -1}},
            ValueError,
            r"learning_rates\['peak'\] is -1; it must not be negative or NaN",
        ),
        ({"learning_rates": 0.1}, TypeError, "learning_rates is a float; pass a mapping"),
        ({"notes": (1,)}, TypeError, r"notes is \(1,\); pass a tuple of sentences"),
        ({"step": 1.5}, TypeError, "step is 1.5; it must be an integer"),
        ({"seconds": -1}, ValueError, "seconds is -1"),
        ({"seconds_since_last": math.inf}, ValueError, "seconds_since_last is inf"),
    ],
)
def test_refusals(arguments: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        LayerReport(**{"results": {"a": result()}, **arguments})


@pytest.mark.parametrize(
    "pair",
    [
        (result(), result(grid=None)),
        (result(), result(log_epsilon=1e-5)),
        (result(grid=None), result(grid=None, tolerance=(1e-5, 1e-8))),
    ],
)
def test_one_report_has_one_definition_of_equal(pair: tuple[cb.BundleResult, cb.BundleResult]) -> None:
    with pytest.raises(ValueError, match=r"'a' was measured with .* and 'b' with .*; measure all layers"):
        LayerReport({"a": pair[0], "b": pair[1]})


def test_integers_and_numpy_numbers_become_plain_ones() -> None:
    made = LayerReport({"a": result()}, step=np.int64(3), margins={"a": np.float32(0.5)}, seconds=np.float64(2))
    assert type(made.step) is int
    assert type(made.margins["a"]) is float
    assert json.loads(made.to_json())["seconds"] == 2


# --- what follows from the numbers ------------------------------------------------------------------------


def test_conflicting_layers() -> None:
    made = full_report()
    assert made.conflicting() == ["block.2#1", "block.2", "sick"]
    assert made.conflicting(min_rows=9) == ["block.2#1", "block.2"]
    assert made.conflicting(min_rows=10) == ["block.2"]
    assert made.first_conflicting == "block.2#1"
    assert made.first_nan == "sick"
    healthy = LayerReport({"a": result(), "b": result()})
    assert (healthy.conflicting(), healthy.first_conflicting, healthy.first_nan) == ([], None, None)
    for wrong in (0, -1, True, 2.0):
        with pytest.raises(ValueError, match=f"min_rows is {wrong!r}"):
            made.conflicting(min_rows=wrong)  # type: ignore[arg-type]


def test_conflicts_are_asked_of_the_integers() -> None:
    made = LayerReport({"a": result(0.5), "b": result(0.0, conflicting=1, rows=2)})
    assert made.conflicting() == ["b"]
    assert made.first_conflicting == "b"


def test_margin_bits() -> None:
    bits = full_report().margin_bits
    assert list(bits) == list(RESULTS)
    assert bits["conv1"] == GRID.bits(8 * STEP, amplitude=3.5) < 3.0  # the bound costs a little
    assert bits["block.2#1"] == -math.inf
    assert bits["block.2"] == -2.0  # no amplitude: the paper's resolution
    assert bits["sick"] is None
    assert bits["fc"] == math.inf
    assert LayerReport({"a": result(grid=None)}, margins={"a": 1.0}).margin_bits == {"a": None}


@pytest.mark.parametrize("amplitude", [math.inf, 3e38])
def test_margins_of_values_without_a_bound_prove_nothing(amplitude: float) -> None:
    made = LayerReport({"a": result(), "b": result()}, margins={"a": 5.0, "b": math.inf},
                       amplitudes={"a": amplitude, "b": amplitude})  # fmt: skip
    assert made.margin_bits == {"a": -math.inf, "b": math.inf}


def test_positive_bits_prove_that_nothing_conflicts() -> None:
    """Real rows, moved together until they conflict: the last margin with more than 0 bits is before that."""
    labels = np.array([0, 1])
    proven = 0
    for distance in np.geomspace(1e-4, 1.0, 200):
        acts = np.array([[1.0], [1.0 + distance]])
        made = LayerReport(
            cb.bundle_entropy_layers({"a": acts}, labels, grid=GRID),
            margins={"a": cb.conflict_margin(acts, labels)},
            amplitudes={"a": float(acts.max())},
        )
        bits = made.margin_bits["a"]
        assert bits is not None
        proven += bits > 0
        assert bits <= 0 or not made.conflicting()
    assert 50 < proven < 200


def test_ranked_most_removable_first() -> None:
    made = LayerReport({k: RESULTS[k] for k in MARGINS}, margins=MARGINS)
    assert made.ranked() == ["block.2#1", "block.2", "conv1", "fc"]
    assert full_report().ranked("conflicts") == ["sick", "block.2", "block.2#1", "conv1", "fc"]
    assert full_report().ranked("bundles") == ["block.2", "block.2#1", "conv1", "sick", "fc"]
    tie = LayerReport({"a": result(0.5, conflicting=1, rows=3), "b": result(0.5, conflicting=1, rows=8)})
    assert tie.ranked("conflicts") == ["b", "a"]
    plain = LayerReport({k: result(grid=None) for k in "abc"}, margins={"a": 3.0, "b": 1.0, "c": 1.0})
    assert plain.ranked("margin") == ["b", "c", "a"]


def test_ranked_takes_the_amplitude_into_account() -> None:
    """The same distance between larger values is fewer bits."""
    margins, amplitudes = {"a": 1.0, "b": 1.0}, {"a": 0.1, "b": 1e6}
    assert LayerReport({k: result() for k in "ab"}, margins=margins, amplitudes=amplitudes).ranked() == ["b", "a"]


def test_ranked_refuses_what_was_not_measured() -> None:
    with pytest.raises(ValueError, match="by is 'margin', which 'sick' lacks; measure with margin=True"):
        full_report().ranked()
    with pytest.raises(ValueError, match="by is 'size'; choose one of margin, conflicts, bundles"):
        full_report().ranked("size")


def test_share_of_the_time() -> None:
    assert full_report().share == pytest.approx(0.8)
    assert full_report(seconds_since_last=None).share is None
    assert full_report(seconds=0.0, seconds_since_last=0.0).share is None


def test_equality_says_all_that_a_reader_needs() -> None:
    words = full_report().equality
    assert words.startswith("equal on the float32 update grid, lr=0.001 batch_size=64 w=0.7, activations in float32")
    assert "autocast bfloat16" in words
    assert "of a sequence: mean" in words
    assert "2^-120" not in words
    stream = LayerReport({"a": result(grid=None, exact=False), "b": result(grid=None, dtype="float16")})
    assert stream.equality.startswith("equal values, activations in float32 and float16")
    assert "2^-120" in stream.equality
    assert "ln(p + 1e-05)" in LayerReport({"a": result(log_epsilon=1e-5)}).equality
    assert LayerReport({}).equality == "no layer was measured"


def test_scalars_are_all_layers_and_four_numbers() -> None:
    healthy = LayerReport({k: RESULTS[k] for k in MARGINS}, margins=MARGINS)
    scalars = healthy.scalars()
    assert {k: v for k, v in scalars.items() if k.startswith("bundle_entropy/")} == {
        f"bundle_entropy/{layer}": RESULTS[layer].entropy for layer in MARGINS
    }
    summary = {
        "x_summary/num_conflicting_layers": 2.0,
        "x_summary/largest_entropy": 0.5,
        "x_summary/mean_entropy": 0.75 / 4,
    }  # a margin of 0 has no bits
    assert healthy.scalars("x", layers=False) == summary
    assert all(type(value) is float for value in scalars.values())


def test_scalars_are_finite_and_never_look_healthy_when_a_layer_is_nan() -> None:
    """A -Infinity in trainer_state.json is no JSON."""
    scalars = full_report().scalars()
    assert all(map(math.isfinite, scalars.values()))
    assert not {"bundle_entropy_summary/largest_entropy", "bundle_entropy_summary/mean_entropy"} & set(scalars)
    assert scalars["bundle_entropy_summary/num_conflicting_layers"] == 3
    assert "bundle_entropy_summary/smallest_margin_bits" not in LayerReport({"a": result()}).scalars()
    assert LayerReport({}).scalars() == {"bundle_entropy_summary/num_conflicting_layers": 0.0}


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ({}, ""),
        ({"peak": 1e-3}, ""),
        (
            {"peak": 1e-3, "current": 1.26e-6},
            "The grid takes the peak learning rate 0.001; the current one is 1.26e-06.",
        ),
        ({"current": 1e-3, "peak": 0.1}, "The grid takes the current learning rate 0.001; the peak is 0.1."),
        ({"given": 1e-3, "current": 0.1}, "The grid takes the given learning rate 0.001; the current one is 0.1."),
        (
            {"peak": 1e-3, "current": 0.0, "largest": 0.1},
            "The grid takes the peak learning rate 0.001, the smallest of the optimizer's groups (the largest is 0.1); "
            "the current one is 0.",
        ),
    ],
)
def test_which_learning_rate_the_grid_takes_is_told_where_another_one_differs(
    rates: dict[str, float], words: str
) -> None:
    made = full_report(learning_rates=rates)
    for text in (str(made), made._repr_html_().replace("&#x27;", "'")):
        assert text.count("The grid takes") == bool(words)
        assert words in text
    shuffled = json.loads(json.dumps(made.to_dict(), sort_keys=True))
    assert shuffled["learning_rates"] == rates
    assert str(LayerReport.from_dict(shuffled)) == str(made)
    del shuffled["learning_rates"]
    assert LayerReport.from_dict(shuffled).learning_rates == {}, "a report of an earlier version"
    scalars = {name.removeprefix("x_summary/"): value for name, value in made.scalars("x", layers=False).items()}
    others = {f"{name}_learning_rate": rate for name, rate in rates.items() if rate != 1e-3}
    assert {name: rate for name, rate in scalars.items() if name.endswith("_learning_rate")} == (
        {"grid_learning_rate": 1e-3, **others} if words else {}
    )


def test_notes_are_told_below_the_definition_and_not_among_the_layers() -> None:
    made = full_report()
    lines = str(made).splitlines()
    assert lines[lines.index("Note: 2 sums lie in <Net>.forward.") - 1] == tables.definition_note(made.equality)
    assert made.to_csv() == full_report(notes=()).to_csv()
    content = made.to_dict()
    assert content.pop("notes") == ["2 sums lie in <Net>.forward"]
    assert LayerReport.from_dict(content).notes == (), "a report of an earlier version"


# --- JSON -------------------------------------------------------------------------------------------------

REPORTS = {
    "full": full_report(),
    "empty": LayerReport({}),
    "plain": LayerReport({"a": result(grid=None, exact=False, device="cuda:0", backend="cuda", dtype="bfloat16")}),
    "tolerance": LayerReport({"a": result(0.1, grid=None, tolerance=(1e-5, 1e-8), log_epsilon=1e-5)}),
    "names": LayerReport({'a "b", c': result(), "ä\n€": result()}, skipped={"": "\x00"}),
}


@pytest.mark.parametrize("made", REPORTS.values(), ids=REPORTS)
def test_json_brings_everything_back(made: LayerReport, tmp_path: Path) -> None:
    text = made.to_json(tmp_path / "report.json")
    assert (tmp_path / "report.json").read_text("utf-8") == text
    loaded = LayerReport.from_json(tmp_path / "report.json")
    for name in [f.name for f in dataclasses.fields(LayerReport)]:
        assert repr(getattr(loaded, name)) == repr(getattr(made, name)), name
    for layer in made:
        for field in dataclasses.fields(cb.BundleResult):
            assert repr(getattr(loaded[layer], field.name)) == repr(getattr(made[layer], field.name)), field.name
    assert loaded == made
    assert LayerReport.from_dict(made.to_dict()) == made


def test_json_is_strict_and_names_what_it_holds() -> None:
    content = full_report().to_dict()
    json.dumps(content, allow_nan=False)
    assert content["equality"] == full_report().equality
    assert content["first_conflicting"] == "block.2#1"
    layers = {layer["layer"]: layer for layer in content["layers"]}
    assert layers["sick"]["entropy"] is None
    assert layers["sick"]["margin"] is None
    assert layers["fc"]["margin"] == "inf"
    assert layers["block.2#1"]["margin_bits"] == "-inf"
    assert layers["block.2#1"]["amplitude"] == "inf"


def test_an_older_file_survives_a_failed_write(tmp_path: Path) -> None:
    full_report().to_json(tmp_path / "report.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        full_report().to_json(tmp_path / "folder")
    assert caught.value.filename == str(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        full_report().to_csv(tmp_path / "nowhere" / "x.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "report.json"]


def damaged(**changes: Any) -> bytes:
    return json.dumps({**full_report().to_dict(), **changes}).encode()


def damaged_layer(**changes: Any) -> bytes:
    content = full_report().to_dict()
    return json.dumps({**content, "layers": [{**content["layers"][0], **changes}]}).encode()


def without(name: str) -> bytes:
    content = full_report().to_dict()
    del content[name]
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "Expecting value"),
        (full_report().to_json().encode()[:-200], "line"),
        (b"\x80\x04K\x01.", "utf-8"),
        (b"[" * 100_000, ""),
        (b"[1, 2]", "this is 'list' and not what LayerReport.to_dict"),
        (b'{"layers": [], "kind": "cbkernels.History"}', "this is 'cbkernels.History'"),
        (b'{"model_type": "bert"}', r"this is \['model_type'\]"),
        (damaged(format=2), "format 2; this version reads 1"),
        (damaged(layers=3), "layers is 3"),
        (damaged(layers=[1]), r"layers\[...\] is 1"),
        (damaged(grid={"learning_rate": 1}), "batch_size"),
        (damaged(grid=[1]), "damaged"),
        (damaged(tolerance=0.5), "tolerance is 0.5"),
        (damaged(step="3"), "step is '3'"),
        (damaged(seconds=None), "damaged"),
        (damaged(blocks={"a": 1}), r"blocks\['a'\] is 1"),
        (damaged(model=None), "model is None"),
        (damaged(layers=[*full_report().to_dict()["layers"][:1]] * 2), "'conv1' is there twice"),
        (without("layers"), "lacks 'layers'"),
        (without("skipped"), "lacks 'skipped'"),
        (damaged_layer(entropy="high"), "entropy is 'high'"),
        (damaged_layer(entropy=True), "entropy is True"),
        (damaged_layer(num_rows=12.5), "num_rows is 12.5"),
        (damaged_layer(num_rows=-1), "num_rows is -1"),
        (damaged_layer(exact=1), "exact is 1"),
        (damaged_layer(dtype=None), "dtype is None"),
        (damaged_layer(layer=5), "layer is 5"),
        (damaged_layer(margin="wide"), "margin is 'wide'"),
        (damaged_layer(margin=-1.0), r"margins\['conv1'\] is -1.0"),
        (damaged_layer(margin=math.nan), r"it holds no JSON \(nan is not a finite number"),
        (damaged_layer(entropy=-0.25), r"entropy is -0.25; it must be 0 or more"),
        (damaged_layer(entropy="inf"), r"entropy is inf; it must be 0 or more and finite"),
        (damaged_layer(num_columns=10**400), r"it holds no JSON \(10{39} is not a finite number"),
    ],
)
def test_damaged_and_foreign_files_are_one_sentence_with_their_name(
    content: bytes, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "some file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"some file.json cannot be loaded: .*{sentence}") as caught:
        LayerReport.from_json(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        LayerReport.from_json(tmp_path / "absent.json")


# --- tables -----------------------------------------------------------------------------------------------


def test_csv_is_tidy(tmp_path: Path) -> None:
    made = full_report()
    text = made.to_csv(tmp_path / "layers.csv")
    assert (tmp_path / "layers.csv").read_text("utf-8") == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == columns.NAMES
    assert [row["layer"] for row in rows] == list(made)
    assert all(len(row) == len(columns.NAMES) and None not in row for row in rows)
    second = rows[2]
    expected = {
        "step": "7", "layer": "block.2", "block": "block", "num_rows": "512", "num_columns": "10",
        "num_bundles": "300", "num_conflicting": "2", "num_conflicting_rows": "40", "num_nan_rows": "0",
        "entropy": "0.5", "margin": repr(STEP / 4), "margin_bits": "-2.0", "amplitude": "", "dtype": "float32",
        "device": "cpu", "backend": "cpu", "exact": "True", "grid_dtype": "float32", "learning_rate": "0.001",
        "batch_size": "64", "weight_amplitude": "0.7", "rtol": "", "atol": "", "log_epsilon": "",
        "autocast": "bfloat16", "reduce": "mean", "model": "Net", "version": cb.__version__,
    }  # fmt: skip
    assert second == expected
    assert rows[3]["entropy"] == "nan"
    plain = next(csv.DictReader(io.StringIO(REPORTS["tolerance"].to_csv())))
    assert (plain["rtol"], plain["atol"], plain["log_epsilon"]) == ("1e-05", "1e-08", "1e-05")
    assert plain["grid_dtype"] == plain["weight_amplitude"] == ""


def test_a_weight_amplitude_of_zero_is_not_an_empty_cell() -> None:
    zero = cb.UpdateGrid(1e-3, 64, 0.0)
    row = next(csv.DictReader(io.StringIO(LayerReport({"a": result(grid=zero)}).to_csv())))
    assert row["weight_amplitude"] == "0.0"


def test_pandas_has_the_same_columns_and_numbers() -> None:
    pytest.importorskip("pandas", reason="to_pandas: NOT TESTED HERE (no pandas)")
    frame = full_report().to_pandas()
    assert tuple(frame.columns) == columns.NAMES
    assert frame["layer"].tolist() == list(RESULTS)
    assert frame["num_bundles"].dtype == np.int64
    assert frame["entropy"].dtype == frame["margin_bits"].dtype == np.float64
    assert frame.set_index("layer").loc["block.2", "margin_bits"] == -2.0
    assert tuple(LayerReport({}).to_pandas().columns) == columns.NAMES


def test_text_is_the_table_the_definition_and_the_cost() -> None:
    lines = str(full_report()).splitlines()
    assert lines[0] == "Net, step 7, 512 rows, 3 of 5 layers conflict"
    assert re.split(r"  +", lines[1]) == [
        "layer", "columns", "bundles", "conflicting", "rows in conflict", "NaN rows", "entropy (nats)", "margin (bits)",
    ]  # fmt: skip
    assert lines[3].split() == ["block.2#1", "10", "400", "3", "9", "0", "0.25", "-inf"]
    assert lines[4].split() == ["block.2", "10", "300", "2", "40", "0", "0.5", "-2.0"]
    assert lines[5].split() == ["sick", "10", "512", "1", "2", "4", "NaN", "-"]
    assert lines[7] == "not measured: lstm (its output is a <PackedSequence>)"
    assert lines[8] == f"Rows are one bundle when they are {full_report().equality}."
    assert lines[-1] == "Measured in 0.12 s, 0.8 % of the time since the last measurement."


def test_text_leaves_out_what_is_not_there() -> None:
    text = str(LayerReport({"a": result(grid=None)}))
    assert "NaN" not in text
    assert "argin" not in text
    assert "easured in" not in text
    assert re.search(r"margin\na .* 0.5\n", str(LayerReport({"a": result(grid=None)}, margins={"a": 0.5})))
    assert str(LayerReport({})) == "no layer was measured"
    assert "Measured in 250 s, 50 %" in str(full_report(seconds=250, seconds_since_last=250))


def test_the_margin_is_called_a_proof_only_with_every_amplitude() -> None:
    proof = "prove that no bundle conflicts"
    assert proof not in str(full_report())
    assert proof in str(LayerReport({"a": result()}, margins={"a": 1.0}, amplitudes={"a": 2.0}))
    for amplitudes in ({}, {"a": 2.0}):
        said = str(LayerReport({"a": result()}, margins={"a": 1.0}, amplitudes=amplitudes))
        assert "; 0 or less proves nothing." in said


def test_repr_is_one_line() -> None:
    text = repr(full_report())
    assert "\n" not in text
    assert text.startswith("LayerReport(step=7, 5 layers, 3 conflicting from 'block.2#1' on, NaN from 'sick' on; equal")
    assert repr(LayerReport({})) == "LayerReport(0 layers, 0 conflicting; no layer was measured)"


class Tags(html.parser.HTMLParser):
    """Checks that tags are closed in order; keeps cells and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def test_html_is_escaped_closed_and_needs_no_network() -> None:
    made = LayerReport({"<script>x</script>": result(), "b": result(0.5, conflicting=1, rows=2)},
                       model="<b>Net", skipped={"<i>": "<u>"}, notes=("of <s>",), seconds=1.0)  # fmt: skip
    text = made._repr_html_()
    parsed = Tags()
    parsed.feed(text)
    assert not parsed.open
    assert {tag for tag, _ in parsed.seen} == {"div", "style", "b", "table", "thead", "tbody", "tr", "th", "td", "p"}
    assert parsed.cells[0] == "<script>x</script>"
    assert len([tag for tag, _ in parsed.seen if tag == "b"]) == 1
    assert "http" not in text
    assert "url(" not in text
    assert "Measured in 1 s." in text
    assert "&lt;i&gt; (&lt;u&gt;)" in text
    assert "<p>Note: of &lt;s&gt;.</p>" in text


def test_html_colours_what_conflicts_or_is_nan_and_works_on_dark_pages() -> None:
    parsed = Tags()
    parsed.feed(full_report()._repr_html_())
    styles = [attributes.get("style") for tag, attributes in parsed.seen if tag == "tr"][1:]
    assert [style is not None for style in styles] == [False, True, True, True, False]
    alphas = [float(re.findall(r"[\d.]+\)", style)[0][:-1]) for style in styles if style]
    assert alphas == [0.38, 0.6, 0.6]
    assert not re.search(r"#[0-9a-f]{3}|:(white|black)", full_report()._repr_html_())


def test_html_colours_a_layer_of_nan_rows_that_has_no_conflict() -> None:
    diverged = LayerReport({"fc": result(math.nan, num_nan_rows=512)}, step=0)
    assert diverged._repr_html_().count("<tr style=") == 1


# --- what must not be needed ------------------------------------------------------------------------------

_WITHOUT = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "pandas", "matplotlib", "IPython"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
from cbkernels.findings.layer_report import LayerReport
from cbkernels.findings.history import History
report = LayerReport.from_json(sys.argv[1])
history = History([report])
print(report, repr(report), report._repr_html_(), report.to_csv(), report.scalars(), history, history.mean())
for what in (report, history):
    for call in (what.to_pandas, what.plot):
        try:
            call()
        except ImportError as error:
            print(error, file=sys.stderr)
"""


def test_needs_neither_torch_nor_pandas_nor_matplotlib(tmp_path: Path) -> None:
    full_report().to_json(tmp_path / "report.json")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WITHOUT, str(tmp_path / "report.json")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stderr.splitlines() == [
        "to_pandas needs pandas: pip install pandas",
        "pictures need matplotlib: pip install matplotlib",
    ] * 2  # fmt: skip


@pytest.mark.parametrize("module", [report, history, tables], ids=lambda m: m.__name__)
def test_examples_run(module: Any) -> None:
    outcome = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert (outcome.failed, outcome.attempted > 0) == (0, True)
