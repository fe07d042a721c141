"""Words of the report that a stranger reads: nothing that lies, nothing that has to be guessed."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the report: NOT TESTED HERE (no matplotlib)")
pytest.importorskip("jinja2", reason="the report: NOT TESTED HERE (no Jinja2)")

import cbkernels
from cbkernels.page import figures
from cbkernels.page.figures import Picture
from cbkernels.page.run_page import write_report
from cbkernels.page.terms import TERMS
from cbkernels.runs.outcomes import baseline_of, removed_from
from cbkernels.runs.reader import read_run
from cbkernels.wording import count, interval, milliseconds

from .. import sample_runs
from ..sample_runs import changed, content_of, copied
from .test_run_page import Page


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is spent on pictures."""
    monkeypatch.setattr(figures, "rendered", lambda name, alt, draw: Picture(name, alt, b"<svg/>", b"p"))


def page_of(*folders: Path) -> Page:
    return Page(write_report(folders, folders[0].parent / "page" / "report.html"))


TRAINED_ON = "Round 0: stopped by a conflict after epoch 1, trained on for comparison: 2 epochs."


def test_a_baseline_that_was_trained_on_is_said(tmp_path: Path) -> None:
    folder = copied("autotune", tmp_path / "a")
    assert page_of(folder).words.count(TRAINED_ON) == 2, "with the rounds and below the curves"
    result = content_of(folder / "result.json")
    page = page_of(changed(folder, before={**result["before"], "epochs": 1}))
    assert "trained on" not in page.words, "it was not"


def test_the_command_says_the_same_of_its_run(real_runs: dict[str, Path]) -> None:
    from cbkernels.commands import autotune, remove

    for name, text in (("autotune", autotune.text), ("remove", remove._text)):
        result = content_of(real_runs[name] / "result.json")
        read = read_run(real_runs[name]).result
        removed, printed = removed_from(read), " ".join(text(result).split())
        assert removed is not None
        gone = sum(len(each["removed"]) for each in result.get("rounds", [result]))
        kept = result["after"] or {"blocks": result["before"]["blocks"] - gone}
        assert result["before"]["blocks"] - kept["blocks"] == gone == removed.number
        assert result["before"]["blocks"] == removed.of
        assert removed.said in printed
        assert removed.said in page_of(real_runs[name]).words
        if said := baseline_of(read):
            assert f"R{said[1:]}." in printed


def test_blocks_are_counted_once(tmp_path: Path) -> None:
    """In the sentence, the table of both ends, the rounds: 3 + 1 of 8."""
    folder = copied("autotune", tmp_path / "a")
    result = content_of(folder / "result.json")
    ends = {end: {**result[end], "blocks": sum(result[end]["architecture"]["blocks"])} for end in ("before", "after")}
    page = page_of(changed(folder, **ends))
    assert "4 of 8 blocks were removed." in page.words
    assert page.row("blocks") == ["8", "4", "-50.0 %"]
    assert [page.row(str(i))[4] for i in range(3)] == ["3", "1", "0"]


def test_what_went_after_the_network_that_is_kept_is_not_counted(tmp_path: Path) -> None:
    """An exhausted auto-tune ends with the best network of its rounds."""
    folder = copied("autotune", tmp_path / "a")
    result = content_of(folder / "result.json")
    changed(folder, status="exhausted", after={**result["after"], "round": 1})
    assert str(removed_from(read_run(folder).result)) == "3 of 8 blocks"


def test_names_that_mean_something_else_in_the_next_round_are_said(tmp_path: Path) -> None:
    said = "a new network and numbers its layers anew: the same name in two rounds may be two layers."
    assert page_of(copied("autotune", tmp_path / "a")).words.count(said) == 1
    assert page_of(copied("autotune_unfinished", tmp_path / "half")).words.count(said) == 1
    assert said not in page_of(copied("train_fnn", tmp_path / "t")).words
    assert said not in page_of(sample_runs.write_rounds(tmp_path / "one", (3,), 1)).words
    assert "Blocks keep the names that they had before any removal." in page_of(copied("remove", tmp_path / "r")).words


def test_a_map_in_which_nothing_conflicts_is_a_line(tmp_path: Path) -> None:
    folder = copied("train_resnet", tmp_path / "run")
    page = page_of(folder)
    maps = [str(image["alt"]) for image in page.all("img") if "Bundle entropy" in str(image["alt"])]
    assert len(maps) == 1
    assert "as if in bfloat16" in maps[0], "which has conflicts"
    assert re.search(r"resnet, \S+ blocks, 0.05 of the width: none of \d layers ever conflicts\.", page.words)
    lines = (folder / "layers.csv").read_text().splitlines()
    columns = lines[0].split(",")
    row = lines[1].split(",")
    row[columns.index("entropy")] = "nan"
    (folder / "layers.csv").write_text("\n".join([lines[0], ",".join(row), *lines[2:], ""]))
    maps = [str(image["alt"]) for image in page_of(folder).all("img") if "Bundle entropy" in str(image["alt"])]
    assert len(maps) == 2, "a diverged network must never look healthy"


@pytest.mark.parametrize("names", [["autotune"], ["train_resnet"], ["remove"], ["train_fnn", "remove", "autotune"]])
def test_a_term_is_explained_where_it_is_first_read(names: list[str], tmp_path: Path) -> None:
    page = page_of(*(copied(name, tmp_path / f"run{i}") for i, name in enumerate(names)))
    body = re.sub(r"(?s)<pre>.*?</pre>", "", page.source[page.source.index("<main>") :])
    parts = [re.sub(r"<[^>]*>", " ", part) for part in re.split(r"<h\d", body)]
    for term in TERMS:
        explanation = re.escape(term.explanation).replace(r"\ ", r"\s+")
        used = [i for i, part in enumerate(parts) if term.used.search(re.sub(explanation, "", part))]
        explained = [i for i, part in enumerate(parts) if re.search(explanation, part)]
        if used:
            assert explained[:1] == used[:1], term.used.pattern
        assert len(explained) <= 1, term.used.pattern
    assert any(part.count("A bundle holds") for part in parts)


def test_one_number_is_no_range(tmp_path: Path) -> None:
    assert interval(1.0, 1.0001, milliseconds) == "1 ms"
    assert interval(3, 3, count) == "3"
    folder = copied("autotune", tmp_path / "a")
    flat = {**content_of(folder / "result.json")["before"], "latency_ms_p10": 0.25, "latency_ms_p90": 0.25}
    assert page_of(changed(folder, before=flat)).row("latency, p10 to p90")[0] == "0.25 ms"


def test_blocks_with_gaps_are_no_range(real_runs: dict[str, Path]) -> None:
    pytest.importorskip("torch")
    from cbkernels import training
    from cbkernels.training.procedures import autotune

    tuning = autotune._Tuning.__new__(autotune._Tuning)
    tuning._policy = training.policies.POLICIES["all"]
    result = next(iter(sample_runs.report(3, 1, 0).values()))
    blocks = [f"hidden.{i}" for i in range(6)]

    def said(*removed: int) -> str:
        return tuning._reason(1, result, [blocks[i] for i in removed], blocks).partition("removed ")[2]

    assert said(2, 3, 4) == "3 blocks, hidden.2 to hidden.4"
    assert said(1, 3, 4) == "3 blocks, the first is hidden.1, the last hidden.4"
    assert said(0, 4) == "2 blocks, hidden.0 and hidden.4"
    assert said(5) == "hidden.5"


def test_numbers_of_a_kind_are_formatted_in_one_place() -> None:
    """A share of a half is "50.0 %" everywhere: only ``wording.py`` formats shares, times and sizes."""
    package = Path(cbkernels.__file__).parent
    rooms = ("page", "commands", "training/procedures", "training/loop")
    for path in (path for room in rooms for path in (package / room).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts = [each.value for each in node.values if isinstance(each, ast.Constant)]
                formats = [ast.unparse(each.format_spec) for each in node.values
                           if isinstance(each, ast.FormattedValue) and each.format_spec]  # fmt: skip
                assert not [each for each in formats if "%" in each], f"{path.name}:{node.lineno}"
                is_scaled = any(isinstance(each, ast.FormattedValue) and "100 *" in ast.unparse(each.value)
                                for each in node.values)  # fmt: skip
                assert not is_scaled, f"{path.name}:{node.lineno} {texts}"


def test_counts_are_not_rounded_to_four_digits(tmp_path: Path) -> None:
    folder = copied("remove", tmp_path / "r")
    blocks: list[dict[str, Any]] = content_of(folder / "result.json")["blocks"]
    blocks[0]["num_bundles"] = 12345
    page = page_of(changed(folder, blocks=blocks))
    assert page.row(blocks[0]["block"])[1] == "12,345"
    assert json.loads((folder / "result.json").read_text())["blocks"][0]["num_bundles"] == 12345
