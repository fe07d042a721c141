"""Many reports: arrays of layers x steps, layers that come and go, the paper's mean, files."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels.findings.history import History
from cbkernels.findings.layer_report import LayerReport

GRID = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.7)
STEP = GRID.step()


def result(entropy: float = 0.0, *, bundles: int = 512, grid: cb.UpdateGrid | None = GRID, **other: Any) -> Any:
    """Conflicting when the entropy is positive."""
    values = {
        "entropy": entropy, "num_bundles": bundles, "num_conflicting": int(entropy > 0),
        "num_nan_rows": int(math.isnan(entropy)),
        "num_rows": 512, "num_conflicting_rows": int(entropy > 0) * 8, "num_columns": 10,
        "dtype": "float32", "device": "cpu",
        "backend": "cpu", "grid": grid,
    }  # fmt: skip
    return cb.BundleResult(**{**values, **other})


def report(step: int | None, grid: cb.UpdateGrid | None = GRID, **entropies: float) -> LayerReport:
    return LayerReport({layer: result(entropy, grid=grid) for layer, entropy in entropies.items()}, step=step)


@pytest.fixture
def surgery() -> History:
    """Three layers; one goes, one comes, one is NaN at one step."""
    return History(
        [
            report(0, a=0.5, b=0.25, c=0.0),
            LayerReport({"a": result(math.nan), "c": result(1.0, bundles=7)}, step=5, margins={"c": STEP / 2}),
            report(20, a=0.0, new=2.0, c=0.5),
        ]
    )


def test_arrays_are_layers_by_steps(surgery: History) -> None:
    assert surgery.steps == [0, 5, 20]
    assert surgery.layers == ["a", "new", "b", "c"]
    nan = math.nan
    np.testing.assert_array_equal(
        surgery.entropy, [[0.5, nan, 0.0], [nan, nan, 2.0], [0.25, nan, nan], [0.0, 1.0, 0.5]]
    )
    np.testing.assert_array_equal(surgery.measured, np.array([[1, 1, 1], [0, 0, 1], [1, 0, 0], [1, 1, 1]], bool))
    np.testing.assert_array_equal(surgery.bundles, [[512, 512, 512], [0, 0, 512], [512, 0, 0], [512, 7, 512]])
    np.testing.assert_array_equal(surgery.num_conflicting, [[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 1]])
    np.testing.assert_array_equal(surgery.margin_bits, [[nan] * 3, [nan] * 3, [nan] * 3, [nan, -1.0, nan]])
    assert [surgery.entropy.dtype, surgery.measured.dtype, surgery.bundles.dtype] == [np.float64, np.bool_, np.int64]


def test_the_mean_over_steps(surgery: History) -> None:
    """NaN stays NaN; what was not measured is left out."""
    mean = surgery.mean()
    assert list(mean) == surgery.layers
    assert math.isnan(mean.pop("a"))
    assert mean == {"new": 2.0, "b": 0.25, "c": 0.5}


def test_the_mean_is_that_of_the_paper() -> None:
    """Mean of H(t) over the steps, whatever their distance."""
    assert History([report(0, a=0.0), report(1, a=0.3), report(100, a=0.6)]).mean() == {"a": pytest.approx(0.3)}


def test_is_a_sequence_of_reports(surgery: History) -> None:
    assert len(surgery) == 3
    assert [r.step for r in surgery] == [0, 5, 20]
    assert surgery[-1].step == 20
    assert repr(surgery) == "History(3 reports of 4 layers, steps 0 to 20)"
    assert repr(History()) == "History(0 reports of 0 layers)"


def test_reports_without_a_step_count_on() -> None:
    assert History([report(None, a=0.0), report(None, a=0.0)]).steps == [0, 1]
    assert History([report(4, a=0.0), report(None, a=0.0), report(9, a=0.0)]).steps == [4, 5, 9]


def test_empty() -> None:
    empty = History()
    assert (empty.steps, empty.layers, empty.mean()) == ([], [], {})
    assert empty.entropy.shape == empty.measured.shape == (0, 0)
    assert empty.equality == "no layer was measured"
    assert History([LayerReport({})]).entropy.shape == (0, 1)


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        (["abc", "abc"], "abc"),
        (["abc", "ac"], "abc"),
        (["ac", "abc"], "abc"),
        (["ab", "xab", "abz"], "xabz"),
        (["bc", "ad"], "adbc"),
        (["ab", "ba"], "ab"),
    ],
)
def test_layers_keep_the_order_of_the_model(sequences: list[str], expected: str) -> None:
    made = History(report(step, **dict.fromkeys(layers, 0.0)) for step, layers in enumerate(sequences))
    assert "".join(made.layers) == expected


# --- one definition -----------------------------------------------------------------------------------------

COARSE = cb.UpdateGrid(learning_rate=1e-3, batch_size=64, weight_amplitude=0.7, dtype="bfloat16")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (LayerReport({"a": result(grid=None)}), "measured as 'plain equality' and the history as"),
        (LayerReport({"a": result(grid=COARSE)}), "'equality on a bfloat16 update grid' and the history as 'equality"),
        (LayerReport({"a": result(grid=None, tolerance=(1e-5, 0.0))}), "isclose"),
        (LayerReport({"a": result(log_epsilon=1e-5)}), r"ln\(p \+ 1e-05\)"),
        (LayerReport({"a": result()}, reduce="cls"), "reduce='cls'"),
    ],
)
def test_reports_that_cannot_be_compared_are_refused(other: LayerReport, words: str) -> None:
    made = History([report(0, a=0.0), LayerReport({})])
    with pytest.raises(ValueError, match=f"{words}.* which cannot be compared; start another History"):
        made.append(other)
    assert len(made) == 2
    with pytest.raises(ValueError, match="cannot be compared"):
        History([other, report(1, a=0.0)])


def test_rates_and_weights_may_change_from_step_to_step() -> None:
    made = History([report(0, a=0.0), report(1, cb.UpdateGrid(5e-4, 64, 0.9), a=0.0)])
    assert made.equality == (
        "equal on the float32 update grid, lr=0.0005 to 0.001 batch_size=64 w=0.7 to 0.9, activations in float32"
    )
    assert History([report(0, None, a=0.0)]).equality == "equal values, activations in float32"


@pytest.mark.parametrize("other", [{"a": 0.5}, None, History()])
def test_only_reports_are_appended(other: Any) -> None:
    with pytest.raises(TypeError, match=f"report is a {type(other).__name__}"):
        History().append(other)


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
def test_files_bring_it_back(surgery: History, count: int, tmp_path: Path) -> None:
    made = History(list(surgery)[:count])
    made.save(tmp_path / "history.json")
    loaded = History.load(tmp_path / "history.json")
    assert loaded == made
    np.testing.assert_array_equal(loaded.entropy, made.entropy)
    assert History.from_dict(made.to_dict()) == made
    assert list(tmp_path.iterdir()) == [tmp_path / "history.json"]


def test_equality_and_copies(surgery: History) -> None:
    twin = copy.deepcopy(surgery)
    assert twin == surgery == pickle.loads(pickle.dumps(surgery))
    twin.append(report(30, a=0.0))
    assert twin != surgery
    assert len(surgery) == 3
    assert History([report(0, a=0.0)]) != History([report(0, a=0.5)])
    assert History() != []


def test_a_loaded_history_goes_on(surgery: History) -> None:
    loaded = History.from_dict(json.loads(json.dumps(surgery.to_dict(), allow_nan=False)))
    loaded.append(report(21, a=0.0))
    assert loaded.steps == [0, 5, 20, 21]
    with pytest.raises(ValueError, match="cannot be compared"):
        loaded.append(report(22, None, a=0.0))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["reports"][1]["layers"][0].pop("num_rows"), "the report lacks 'num_rows'"),
        (lambda d: d["reports"].insert(0, 5), "this is 'int'"),
        (lambda d: d.update(reports={}), "reports is dict"),
        (lambda d: d.pop("reports"), "reports is NoneType"),
        (lambda d: d.update(kind="cbkernels.LayerReport"), "this is 'cbkernels.LayerReport' and not what History"),
        (lambda d: d.update(format=0), "format 0"),
        (lambda d: d["reports"][1].update(grid=None), "cannot be compared"),
    ],
)
def test_damaged_files_are_named(surgery: History, change: Any, sentence: str, tmp_path: Path) -> None:
    content = surgery.to_dict()
    change(content)
    (tmp_path / "bad.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match=f"bad.json cannot be loaded: .*{sentence}"):
        History.load(tmp_path / "bad.json")


def test_csv_has_a_line_a_step_and_layer(surgery: History, tmp_path: Path) -> None:
    text = surgery.to_csv(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text("utf-8") == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["step"], row["layer"], row["entropy"]) for row in rows] == [
        ("0", "a", "0.5"), ("0", "b", "0.25"), ("0", "c", "0.0"), ("5", "a", "nan"), ("5", "c", "1.0"),
        ("20", "a", "0.0"), ("20", "new", "2.0"), ("20", "c", "0.5"),
    ]  # fmt: skip


def test_pandas_has_the_same_rows(surgery: History) -> None:
    pytest.importorskip("pandas", reason="to_pandas: NOT TESTED HERE (no pandas)")
    frame = surgery.to_pandas()
    assert len(frame) == 8
    wide = frame.pivot(index="layer", columns="step", values="entropy").loc[surgery.layers]
    np.testing.assert_array_equal(wide.to_numpy(), surgery.entropy)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("history.jsonl", '{"epoch": 0}\n{"epoch": 1}\n', "each of its lines is an epoch of a run, whose folder"),
        ("result.json", '{"command": "train"}', "it is of a run, whose folder cbkernels.runs.reader.read_run reads"),
        ("model.safetensors", "", "it holds tensors; safetensors.torch.load_file reads them"),
    ],
)
def test_a_file_of_a_run_is_known_and_its_reader_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(says)):
        History.load(tmp_path / name)
