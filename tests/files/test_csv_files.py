"""Cells that a spreadsheet would take for a formula are text, numbers stay numbers, all of it is read back equal."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cbkernels as cb
from cbkernels.files.csv_files import csv_cell, csv_line
from cbkernels.runs import schema
from cbkernels.runs.folder import RunFolder
from cbkernels.runs.reader import read_run

from ..sample_runs import copied

FORMULAS = ["=1+1", "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''=1", "-", "="]
HARMLESS = ["conv1", "'quoted'", "'", "", "a=b", "a\nb", "a\rb", 'a"b', "a,b", "ä", " =1", "\x85\u2028x"]
NUMBERS = ["-1.5", "+2", "-inf", "1e-05", "nan", "-0.0"]


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("text", FORMULAS)
def test_no_text_begins_like_a_formula(text: str) -> None:
    ((cell, after),) = read(csv_line([text, "after"]))
    assert (cell[0], after) == ("'", "after")
    assert csv_cell(cell) == text


@pytest.mark.parametrize("text", HARMLESS + NUMBERS)
def test_all_else_is_written_as_it_is(text: str) -> None:
    ((cell, _),) = read(csv_line([text, ""]))
    assert cell == csv_cell(cell) == text


def test_numbers_stay_numbers() -> None:
    assert csv_line([-1.5, -2, float("-inf"), None, True]) == "-1.5,-2,-inf,,True\n"


def report_of(names: list[str]) -> cb.LayerReport:
    result = cb.bundle_entropy(np.arange(4.0)[:, None] // 2, np.arange(4))
    return cb.LayerReport(dict.fromkeys(names, result), step=0)


def test_layers_of_a_report(tmp_path: Path) -> None:
    names = [name for name in FORMULAS + HARMLESS if name]
    rows = read(report_of(names).to_csv(tmp_path / "r.csv"))
    at = rows[0].index("layer")
    assert [csv_cell(row[at]) for row in rows[1:]] == names
    assert not [row[at] for row in rows[1:] if row[at][0] in "=+-@\t\r"]


def test_layers_of_a_run_come_back(tmp_path: Path) -> None:
    names = [name for name in FORMULAS + HARMLESS if name]
    layer = next(column for column in schema.LAYERS.columns if column.name == "layer")
    at = schema.LAYERS.columns.index(layer)
    folder = copied("train_fnn", tmp_path / "run")
    measured = [schema.MeasuredLayer("train", 0, 0, name, result) for name, result in report_of(names).items()]
    RunFolder(folder).write_layers(measured)
    rows = read((folder / "layers.csv").read_bytes().decode())[1:]
    assert [layer.read(row[at]) for row in rows] == names
    run = read_run(folder)  # which shows them without ends of lines
    assert run.notes == ()
    assert {name for name in names if name.isprintable()} <= {*run.layers[0].layers, " =1"}


def test_a_run_goes_on_with_such_layers(tmp_path: Path) -> None:
    """Lines are counted as they lie in the file, for a name may have an end of a line in it."""
    pytest.importorskip("torch", reason="resumed runs: NOT TESTED HERE (no torch)")
    pytest.importorskip("safetensors", reason="resumed runs: NOT TESTED HERE (no safetensors)")
    from cbkernels.runs.log import RunLog

    log, line = RunLog(RunFolder(tmp_path)), {"run": "train", "round": 0, "epoch": 0}
    report: Any = report_of(["a\nb", "c\rd", "=1"])
    log.add_reports("train", 0, 0, [report])
    log.add_epoch(line)
    log.save({})
    whole = (tmp_path / "layers.csv").read_bytes()
    again = RunLog(RunFolder(tmp_path))
    assert again.load() is not None
    again.write()
    assert (tmp_path / "layers.csv").read_bytes() == whole
    again.add_reports("train", 0, 1, [report])
    again.save({})
    assert (tmp_path / "layers.csv").read_bytes().count(b"\n") > whole.count(b"\n")
