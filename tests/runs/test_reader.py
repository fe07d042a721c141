"""The one reader of run folders: what a run wrote comes back typed, and damage is left out and said."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cbkernels import LayerReport
from cbkernels.runs import reader, schema
from cbkernels.runs.reader import data_found_at, read_run
from cbkernels.runs.schema import Epoch, RemoveResult, TrainResult

from .. import sample_runs
from ..sample_runs import changed, content_of, copied


def test_every_field_that_is_written_is_in_the_schema(real_runs: dict[str, Path]) -> None:
    """And nothing of a healthy run is damaged, missing, or of another type than its field."""

    def check(kind: Any, content: dict[str, Any], where: str) -> None:
        unknown = set(content) - {field.name for field in fields(kind)}
        assert not unknown, f"{where} has {unknown}, which schema.py does not name"

    parts: dict[str, Any] = {
        "cost": schema.NetworkCost, "before": schema.NetworkCost, "after": schema.NetworkCost, "rounds": schema.Round,
        "blocks": schema.Block, "steps": schema.Step, "study": schema.Part, "guard": schema.Part, "test": schema.Part,
        "accuracy": schema.Accuracies, "repr": schema.Cycle, "compared": schema.Pruning,
    }  # fmt: skip
    commands = set()
    for name, folder in real_runs.items():
        run = read_run(folder)
        assert run.notes == (), name
        for line in (folder / "history.jsonl").read_text().splitlines():
            check(Epoch, json.loads(line), f"{name}, a line of the history")
        if run.result is None:
            assert name == "unfinished"
            continue
        commands.add(run.command)
        check(type(run.result), dict(run.written_result), name)
        for key, kind in parts.items():
            content = run.written_result.get(key)
            for each in content if isinstance(content, list) else [content] if content else []:
                check(kind, each, f"{name}, {key}")
                for step in each.get("steps", ()):
                    check(schema.Step, step, f"{name}, {key}, a step")
    assert commands == set(schema.RESULTS)


def test_what_was_measured_comes_back(real_runs: dict[str, Path]) -> None:
    for name in ("fnn", "resnet"):
        tables = read_run(real_runs[name]).layers
        for file in ("layers.csv", "margins.csv"):
            for row in csv.DictReader((real_runs[name] / file).read_text().splitlines()):
                (table,) = [each for each in tables if each.dtype == row["grid"].split(" ")[0]]
                at = list(table.layers).index(row["layer"]), list(table.epochs).index(int(row["epoch"]))
                for column in set(row) - {"run", "round", "epoch", "layer", "grid"}:
                    value = table.columns[column][at]
                    assert str(value) == row[column] or (math.isnan(value) and row[column] == "nan")


def test_results_are_typed() -> None:
    trained = read_run(sample_runs.OLD / "train_resnet")
    assert isinstance(trained.result, TrainResult)
    assert trained.result.cost == schema.NetworkCost(
        **{name: content_of(trained.folder / "result.json")["cost"][name] for name in content_of(
            trained.folder / "result.json")["cost"]}
    )  # fmt: skip
    assert trained.result.repr[0].reduced.epoch == 2
    assert trained.result.repr[0].reduced.test_accuracy == 0.1
    assert trained.history[2].repr_event == "dropped"
    removed = read_run(sample_runs.OLD / "remove").result
    assert isinstance(removed, RemoveResult)
    assert removed.removed == ("stages.0.1",)
    assert removed.curves["any"][0] == schema.CurvePoint(1, 0.1, 0.0, 2)
    assert removed.blocks[1].margin_bits == 8.404316225276903


def test_refuses_what_is_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no such run folder"):
        read_run(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"is not a run folder, it has no config\.json; pass the --out of"):
        read_run(tmp_path)
    config = tmp_path / "config.json"
    for content, said in (
        ("{", r"config\.json is damaged: it holds no JSON \(Expecting"),
        ("[1]", r"config\.json is damaged: it holds a list, not a JSON object"),
        ('{"command": "demo"}', "command is 'demo'; a report can be made of train, autotune, remove"),
        ('{"command": ["train"]}', r"command is \['train'\]; a report can be made of"),
        ("[" * 100_000, r"config\.json is damaged: it holds no JSON"),
    ):
        config.write_text(content)
        with pytest.raises(ValueError, match=said):
            read_run(tmp_path)


def test_a_config_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied("train_fnn", tmp_path / "a")
    monkeypatch.setitem(reader.MOST_BYTES, "config.json", 10)
    with pytest.raises(ValueError, match=r"config\.json has more than 0 MiB; such a file is not read"):
        read_run(folder)


def test_damaged_files_are_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied("train_fnn", tmp_path / "a")
    history = (folder / "history.jsonl").read_text()
    (folder / "history.jsonl").write_text(history[: -len(history) // 10])
    assert read_run(folder).notes == ("history.jsonl is damaged or cut off at line 3: what is there is left out.",)
    assert [line.epoch for line in read_run(folder).history] == [0, 1]
    (folder / "history.jsonl").write_text(history)
    (folder / "result.json").write_text('{"status": ')
    (folder / "env.json").write_bytes(b"\xff")
    layers = (folder / "layers.csv").read_text()
    (folder / "layers.csv").write_text(layers + "train,0,x,hidden.0,512,1,1,0.5,g\ntrain,0\n")
    run = read_run(folder)
    assert run.result is None
    assert [note.split(" (")[0] for note in run.notes] == [
        "result.json is left out: it is damaged: it holds no JSON",
        "env.json is left out: it is damaged: it holds no JSON",
        "layers.csv: 2 lines are damaged and left out.",
    ]
    assert run.layers[0].entropy.shape == (3, 3)
    (folder / "layers.csv").write_text(layers.replace("entropy", "entropie", 1))
    assert "layers.csv is left out: it has no column 'entropy'." in read_run(folder).notes
    (folder / "layers.csv").write_text(layers.replace("num_rows", "rows", 1))  # which nothing needs
    assert not [note for note in read_run(folder).notes if note.startswith("layers")]
    assert read_run(folder).layers[0].columns["num_rows"].tolist() == [[0] * 3] * 3
    (folder / "result.json").write_text('{"command": "remove"}')
    assert "result.json is left out: it is of the command remove, not of train." in read_run(folder).notes
    monkeypatch.setattr(reader, "MOST_CELLS", 8)
    (folder / "layers.csv").write_text(layers)
    assert "layers.csv: round 0 is left out: 3 layers x 3 epochs are more than 8 cells." in read_run(folder).notes


def test_values_of_wrong_types_are_left_out_and_quoted(tmp_path: Path) -> None:
    folder = copied("train_fnn", tmp_path / "a")
    lines = (folder / "history.jsonl").read_text().replace('"test_accuracy": 0.15', '"test_accuracy": "high"')
    (folder / "history.jsonl").write_text(lines)
    run = read_run(changed(folder, epochs=True, cost=3, reason=["a"]))
    assert run.notes == (
        "result.json: reason is ['a'], not a text; it, and 2 more such values are left out.",
        "history.jsonl: line 2: test_accuracy is 'high', not a number; it, and 1 more such values are left out.",
    )
    assert isinstance(run.result, TrainResult)
    assert (run.result.epochs, run.result.cost, run.result.test_accuracy) == (None, None, 0.15)


def test_values_out_of_their_range_are_left_out_and_quoted(tmp_path: Path) -> None:
    folder = changed(copied("train_fnn", tmp_path / "a"), epochs=-2)
    lines = (folder / "history.jsonl").read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), "test_accuracy": 7.5})
    (folder / "history.jsonl").write_text("\n".join(lines))
    rows = (folder / "layers.csv").read_text().splitlines()
    rows[1] = rows[1].replace(",16,", ",-16,", 1)
    (folder / "layers.csv").write_text("\n".join(rows))
    run = read_run(folder)
    assert run.result is not None
    assert (run.result.epochs, run.history[1].test_accuracy) == (None, None)  # type: ignore[attr-defined]
    assert run.notes == (
        "result.json: epochs is -2, not 0 or more; it is left out.",
        "history.jsonl: line 2: test_accuracy is 7.5, not in 0 to 1; it is left out.",
        "layers.csv: 1 line is damaged and left out.",
    )


def test_a_run_does_not_go_on_with_numbers_that_cannot_be(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="resumed runs: NOT TESTED HERE (no torch)")
    from cbkernels.runs.folder import RunFolder
    from cbkernels.runs.log import RunLog

    folder = copied("train_unfinished", tmp_path / "a")
    lines = (folder / "history.jsonl").read_text().splitlines()
    (folder / "history.jsonl").write_text(
        "\n".join([json.dumps({**json.loads(lines[0]), "test_accuracy": 7.5}), *lines[1:]])
    )
    with pytest.raises(ValueError, match=r"history\.jsonl is damaged: test_accuracy is 7\.5, not in 0 to 1"):
        RunLog(RunFolder(folder)).load()


def test_layers_are_read_as_they_were_measured(tmp_path: Path) -> None:
    grid = "float32 lr=0.001 batch_size=64 w="
    (tmp_path / "config.json").write_text('{"command": "train"}')
    (tmp_path / "layers.csv").write_text(schema.LAYERS.header + "\n".join([
        f"train,0,1,b,4,2,1,0.5,{grid}2.0", f"train,0,0,b,4,2,1,nan,{grid}1.0", f"train,0,0,a,4,4,0,0.0,{grid}1.0",
        "train,0,0,a,4,1,1,0.7,bfloat16 lr=0.001", f"train,0,1,b,4,1,2,0.25,{grid}2.0",
    ]))  # fmt: skip
    (tmp_path / "margins.csv").write_text(
        f"{schema.MARGINS.header}train,0,0,a,1.0,-inf,{grid}1.0\ntrain,0,1,a,inf,inf,{grid}1.0\ntrain,0,0,b,1.0,,{grid}1"
    )
    table, what_if = read_run(tmp_path).layers
    assert (table.dtype, what_if.dtype, list(table.layers), list(table.epochs)) == (
        "float32",
        "bfloat16",
        ["b", "a"],
        [0, 1],
    )
    assert table.measured.tolist() == [[True, True], [True, False]]
    assert table.entropy[0, 1] == 0.25  # the last line of a layer and epoch counts
    assert table.num_conflicting.tolist() == [[1, 2], [0, 0]]
    assert math.isnan(table.entropy[0, 0])
    assert table.margin_bits is not None
    assert table.margin_bits[1].tolist() == [-math.inf, math.inf]
    assert math.isnan(table.margin_bits[0, 0])
    assert table.equality == "equal on the float32 update grid, lr=0.001 batch_size=64 w=1 to 2"
    assert what_if.margin_bits is None


def test_a_table_of_a_report_is_not_taken_for_that_of_a_run(tmp_path: Path) -> None:
    of_report = sample_runs.OLD / "layer_report" / "layers.csv"
    folder = copied("train_fnn", tmp_path / "a")
    of_run = (folder / "layers.csv").read_bytes()
    shutil.copy(of_report, folder)
    run = read_run(folder)
    assert run.layers == []
    assert run.notes == (
        "layers.csv is left out: it is what LayerReport.to_csv writes, not the table of a run.",
    )  # fmt: skip
    (folder / "layers.csv").write_bytes(of_run)
    for file in (of_report, folder / "layers.csv"):
        with pytest.raises(
            ValueError, match=r"layers\.csv cannot be loaded: a table is for other programs; load what to_json"
        ):
            LayerReport.from_json(file)


def test_a_run_does_not_go_on_with_another_table(tmp_path: Path) -> None:
    """Lines of other columns would follow; the header says which there are."""
    pytest.importorskip("torch", reason="resumed runs: NOT TESTED HERE (no torch)")
    from cbkernels.runs.folder import RunFolder
    from cbkernels.runs.log import RunLog

    folder = copied("train_unfinished", tmp_path / "a")
    log = RunLog(RunFolder(folder))
    assert log.load() is not None
    assert len(log.history) == 2
    layers = (folder / "layers.csv").read_text()
    (folder / "layers.csv").write_text(layers.replace("num_rows,", "", 1))
    with pytest.raises(
        ValueError, match=r"layers\.csv is damaged: its first line is not 'run,round,epoch,layer,num_rows"
    ):
        RunLog(RunFolder(folder)).load()


def test_where_data_were_found_is_told_of_the_same_data_set_only(tmp_path: Path) -> None:
    assert data_found_at(tmp_path, "mnist") is None
    (tmp_path / "config.json").write_text('{"dataset": "mnist"}')
    assert data_found_at(tmp_path, "mnist") is None
    for content, found in (('{"data": "/here"}', "/here"), ('{"data": 3}', None), ("[", None), ("{}", None)):
        (tmp_path / "env.json").write_text(content)
        assert data_found_at(tmp_path, "mnist") == found
        assert data_found_at(tmp_path, "svhn") is None


def test_a_header_that_is_no_line_of_a_table_is_noted(tmp_path: Path) -> None:
    folder = copied("train_resnet", tmp_path / "a")
    (folder / "layers.csv").write_text("x" * 200_000 + "\n")
    assert "layers.csv is left out: field larger than field limit (131072)." in read_run(folder).notes


@pytest.mark.parametrize(
    ("column", "cell", "said"),
    [
        (schema.Column("epoch", int, repr), "2147483648", "epoch is 2147483648; it must be 0 to 2**31 - 1"),
        (schema.Column("entropy", float, repr), "1e201", "entropy is 1e201; it must be 0 to 1e+200"),
        (schema.Column("bits", float, repr, is_signed=True), "-inf", "bits is -inf; it must be -1e+200 to 1e+200"),
    ],
)
def test_a_cell_out_of_its_range_names_the_range(column: schema.Column, cell: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        column.read(cell)
