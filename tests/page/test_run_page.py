"""The report of runs: it says what the files say, runs nothing that they hold, fits, and is seen in a browser."""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="the report: NOT TESTED HERE (no matplotlib)")
pytest.importorskip("jinja2", reason="the report: NOT TESTED HERE (no Jinja2)")

from cbkernels.commands import report as report_command
from cbkernels.page import figures, run_page, sections, tables
from cbkernels.page.figures import Picture
from cbkernels.page.run_page import write_report
from cbkernels.runs import schema
from cbkernels.runs.reader import read_run
from cbkernels.runs.schema import Column, CurvePoint, Table
from cbkernels.training.config import TrainConfig, to_dict
from cbkernels.training.networks.kinds import MODELS

from .. import sample_runs
from ..sample_runs import BOMB, changed, content_of, copied
from .browser import browser, chromium, looked


class Page(HTMLParser):
    """What a page holds: tags with attributes, and its visible words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words = ""
        self._hidden = self._in_cell = False
        self.feed(self.source)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag in ("style", "script")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words += f" {data}"
            if self._in_cell and data.strip():
                self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def row(self, first: str) -> list[str]:
        """The only row whose first cell this is."""
        (found,) = [row for row in self.rows if row and row[0] == first]
        return found[1:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small run folders of every kind, whose every number is known."""
    root = tmp_path_factory.mktemp("runs")
    names = {"train_resnet": "train", "autotune": "autotune", "autotune_unfinished": "half", "remove": "remove"}
    for old, name in names.items():
        copied(old, root / name)
    return root


@pytest.fixture(scope="module")
def whole_page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All kinds of runs on one page, with all their pictures."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    return write_report([runs / name for name in ("train", "half", "remove")], out)


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose every text is hostile, its folder's name too."""
    name = BOMB.replace("/", "_").replace("\x00", "").replace("\ud800", "")
    root = tmp_path_factory.mktemp("hostile")
    return write_report([sample_runs.write_hostile(root / name)], root / "report.html")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is spent on pictures."""
    monkeypatch.setattr(figures, "rendered", lambda name, alt, draw: Picture(name, alt, b"<svg/>", b"p"))


def page_of(*folders: Path) -> Page:
    return Page(write_report(folders, folders[0] / "report.html"))


# --- what it says ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_an_autotune_in_words_and_tables(runs: Path) -> None:
    page = page_of(runs / "autotune")
    assert ("Auto-tune went in 3 rounds from fnn, 8 layers of 4 to fnn, 4 layers of 4; test accuracy 10.0 % before, "
            "10.0 % after (chance: 10.0 %).") in page.words  # fmt: skip
    assert page.row("test accuracy") == ["10.0 %", "10.0 %", "0.0 points"]
    assert page.row("epochs of training") == ["2", "2", ""]
    assert page.row("parameters") == ["450", "370", "-17.8 %"]
    assert page.row("latency, p10 to p90") == ["0.0812 to 0.128 ms", "0.0502 to 0.13 ms", ""]
    assert page.row("0")[:5] == ["fnn, 8 layers of 4", "1", "1", "0.2599", "3"]
    assert page.row("0")[5] == "hidden.5, hidden.6, hidden.7"
    assert page.row("0")[6].startswith("after epoch 1 the last block, hidden.7, had 13 bundles of 16 samples, 1 with")
    assert page.row("2")[2:6] == ["\u2013", "\u2013", "0", "\u2013"]
    assert "measuring took 0.016 s, 36.6 % of the time" in page.words
    assert "rows are one bundle when they are equal on the float32 update grid, lr=0.01 batch_size=20" in page.words
    assert "Round 0, fnn, 8 layers of 4: 8 of 8 layers conflict at some time; the first is hidden.5, in epoch 1." in (
        page.words
    )
    assert "Round 2, fnn, 4 layers of 4: none of 4 layers ever conflicts." in page.words
    for fact in ("command cbkernels autotune", "data set digits", "seed 0", "policy stage", "device cpu"):
        assert fact in page.words


@pytest.mark.usefixtures("undrawn")
def test_many_names_are_folded(tmp_path: Path) -> None:
    page = page_of(sample_runs.write_rounds(tmp_path / "a", (20, 11, 6), 2))
    assert page.row("0")[5].startswith("hidden.11, hidden.12, hidden.13, hidden.14, and 5 more hidden.15, hidden.16")


@pytest.mark.usefixtures("undrawn")
def test_a_training_in_words_and_pictures(runs: Path) -> None:
    page = page_of(runs / "train")
    assert "reached 12.5 % test accuracy after 3 epochs (chance: 10.0 %); no layer conflicts in the end." in page.words
    assert [image["alt"].split(",")[0] for image in page.all("img")] == [  # type: ignore[union-attr]
        "Test accuracy and training loss over the epochs of 1 network.",
        "Bundle entropy in nats as if in bfloat16", "Conflict margin in bits",
        "Conflict margin in bits as if in bfloat16",
    ]  # fmt: skip
    assert page.row("peak memory") == ["17.3 KiB"]
    assert page.row("0: without 4 filters") == ["2", "10.0 %", "0", "0", "2.187", "8.62", "0.03748"]
    assert "One forward pass of 20 samples on cpu without gradients" in page.words


@pytest.mark.usefixtures("undrawn")
def test_a_removal_that_removed_nothing_shows_no_smaller_network(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "remove", tmp_path / "nothing")
    result = json.loads((folder / "result.json").read_text())
    result["removed"] = []
    (folder / "result.json").write_text(json.dumps(result))
    page = page_of(folder)
    assert "None of the 2 residual blocks was removed; test accuracy 15.0 %." in page.words
    assert "healed" not in page.row("parameters")
    assert len(page.row("parameters")) == 1
    assert not any("test accuracy, healed" in row for row in page.rows)


@pytest.mark.usefixtures("undrawn")
def test_a_removal_in_words_and_tables(runs: Path) -> None:
    page = page_of(runs / "remove")
    assert ("1 of 2 residual blocks were removed; test accuracy 15.0 % before, 10.0 % without them, 10.0 % after 1 "
            "epoch of fine-tuning.") in page.words  # fmt: skip
    assert page.row("test accuracy, right after removal") == ["15.0 %", "10.0 %", "-5.0 points"]
    assert page.row("test accuracy, healed") == ["15.0 %", "10.0 %", "-5.0 points"]
    assert page.row("stages.0.0") == ["0", "16", "0", "0", "2.546", "9.06", "0.7688", "10.0 %", "stays"]
    assert page.row("stages.0.1") == ["0", "16", "0", "0", "1.618", "8.4", "0.8354", "10.0 %", "removed"]
    assert page.row("1")[:3] == ["stages.0.1", "removed", "10.0 %"]
    assert not any("epochs of training" in row for row in page.rows)
    assert "The guard is the accuracy on test (one half), 20 samples; it may fall by 100.0 points." in page.words
    names = {path.stem for path in (runs / "remove/report_files").iterdir()}
    assert names == {"architecture", "removal-curves", "blocks", "curves"}


def step(gone: int, kept: bool, accuracy: float, removed: float) -> dict[str, object]:
    return {
        "block": "stages.0.1", "blocks": ["stages.0.1"], "num_removed": gone, "kept": kept, "accuracy": accuracy,
        "accuracy_removed": removed, "accuracy_test": 0.875 if kept else None, "parameters": 376, "latency_ms": 0.25,
        "peak_memory_bytes": 2048, "reason": "so", "scores": [1.5], "macs": 7,
    }  # fmt: skip


@pytest.mark.usefixtures("undrawn")
def test_every_ranking_is_in_a_table_and_in_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(sections, "plot_curves", lambda curves, path, **options: drawn.append((curves, options)))
    undrawn = figures.rendered

    def rendered(name: str, alt: str, draw: Any) -> Picture:
        if name == "pruning":
            draw()
        return undrawn(name, alt, draw)

    monkeypatch.setattr(figures, "rendered", rendered)
    folder = copied("remove", tmp_path / "remove")
    other = {"rank": "random", "steps": [step(1, False, 0.25, 0.125)], "removed": [], "reason": "it could not go",
             "accuracy": {"before": 0.5, "removed": 0.5, "healed": 0.5}, "finetune_epochs": 0}  # fmt: skip
    page = page_of(changed(folder, steps=[step(1, True, 0.75, 0.5)], compared=[other], max_drop=0.25))
    assert page.row("1") == [
        "stages.0.1", "removed", "75.0 %", "50.0 %", "87.5 %", "376", "0.25 ms", "2.0 KiB", "so"
    ]  # fmt: skip
    assert page.row("margin") == ["1 of 2", "15.0 %", "10.0 %", "10.0 %", "1", "one block has to stay"]
    assert page.row("random") == ["0 of 2", "50.0 %", "50.0 %", "50.0 %", "0", "it could not go"]
    (margin, random), options = drawn[0]
    assert (margin.label, margin.kept, margin.undone) == ("margin", [(0.0, 0.1, 0.1), (0.5, 0.5, 0.75)], [])
    assert (random.label, random.kept, random.undone) == ("random", [(0.0, 0.1, 0.1)], [(0.5, 0.125, 0.25)])
    assert options == {"limit": 0.1 - 0.25, "heals": True}


@pytest.mark.usefixtures("undrawn")
def test_several_runs_are_compared(runs: Path, tmp_path: Path) -> None:
    folders = [runs / name for name in ("train", "autotune", "remove", "half")]
    page = Page(write_report(folders, tmp_path / "all.html", tmp_path / "drawn"))
    assert page.row("autotune")[:6] == ["autotune", "trained", "digits", "fnn, 4 layers of 4", "0", "10.0 %"]
    assert page.row("half")[1:4] == ["unfinished", "digits", "\u2013"]
    assert page.row("remove")[5:7] == ["15.0 %", "10.0 %"]
    assert page.row("remove")[3] == "resnet, 2-0-0-0 blocks, 0.05 of the width, 1 removed"
    assert page.row("train")[6:9] == ["12.5 %", "556", "151.32 k"]
    assert "4 runs compared" in page.words
    assert {path.stem.split("-")[0] for path in (tmp_path / "drawn").iterdir()} == {"comparison", "run"}
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert [a["href"] for a in page.all("a")] == [f"#{anchor}" for anchor in anchors]
    assert len(page.all("img")) == 1 + 4 + 4 + 4 + 2


@pytest.mark.usefixtures("undrawn")
def test_every_model_gives_a_whole_page(real_runs: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in real_runs.items():
        page = Page(write_report([folder], tmp_path / name / "report.html"))
        assert page.all("img"), name
        if name == "unfinished":
            continue
        assert not [tag for tag in page.all("ul") if tag.get("class") == "notes"], name
        result = content_of(folder / "result.json")
        if "test_accuracy" in result:
            assert f"reached {100 * result['test_accuracy']:.1f} % test accuracy" in page.words


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("status", "words"), [
    ("exhausted", "Auto-tune ended as exhausted after 3 rounds: the last network has no layer left."),
    ("diverged", "Auto-tune ended as diverged after 3 rounds: the last network has no layer left."),
])  # fmt: skip
def test_an_autotune_that_failed_says_why(tmp_path: Path, status: str, words: str) -> None:
    folder = copied("autotune", tmp_path / "a")
    page = page_of(changed(folder, status=status, after=None, reason="the last network has no layer left"))
    assert words in page.words
    assert page.row("parameters")[1:] == ["\u2013", "\u2013"]


@pytest.mark.usefixtures("undrawn")
def test_an_unfinished_run_is_reported_as_such(runs: Path) -> None:
    page = page_of(runs / "half")
    assert "The run is unfinished, it has no result.json yet" in page.words
    assert "Unfinished: epoch 0 of 2 of round 1 is done, with 10.0 % test accuracy." in page.words
    assert re.search(r"measuring took 0\.\d+ s, \d\d\.\d % of the time", page.words)
    assert "equal on the float32 update grid, lr=0.01 batch_size=20 w=1.2" in page.words


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.json").write_text('{"command": "train", "dataset": "digits"}')
    page = page_of(tmp_path / "new")
    assert "Unfinished: no epoch has been written yet." in page.words
    assert "history.jsonl is missing: there are no curves." in page.words
    assert not page.all("img")


@pytest.mark.usefixtures("undrawn")
def test_numbers_that_are_none_are_shown_as_such(tmp_path: Path) -> None:
    folder = copied("autotune", tmp_path / "a")
    odd = {"test_accuracy": math.nan, "parameters": math.inf, "macs": None, "flops": "many", "latency_ms": math.inf,
           "peak_memory_bytes": [1]}  # fmt: skip
    page = page_of(changed(folder, before=odd, after={**odd, "test_accuracy": 0.5}))
    assert page.row("test accuracy") == ["\u2013", "50.0 %", "\u2013"]
    assert page.row("parameters") == ["inf", "inf", "\u2013"]
    assert page.row("MACs") == ["\u2013", "\u2013", "\u2013"]
    assert page.row("latency, median")[0] == "inf ms"
    for wrong in ("FLOPs", "peak memory"):  # of no type that such a value can have: said above the page, and left out
        assert page.row(wrong) == ["\u2013", "\u2013", "\u2013"]
    said = "result.json: before.test_accuracy is nan, not in 0 to 1; it, and 4 more such values are left out."
    assert said in page.words
    page = page_of(changed(folder, before={"latency_ms": 10**400}))
    assert "result.json is left out: it is damaged: it holds no JSON (1000000000000" in page.words


@pytest.mark.usefixtures("undrawn")
def test_a_result_of_wrong_types_still_gives_a_page(tmp_path: Path) -> None:
    for command, old in (("autotune", "autotune"), ("remove", "remove"), ("train", "train_resnet")):
        folder = copied(old, tmp_path / command)
        result = content_of(folder / "result.json")
        for odd in (7, "odd", [1, [2]], {"a": {"b": 1}}, None):
            (folder / "result.json").write_text(json.dumps({**dict.fromkeys(result, odd), "command": command}))
            words = page_of(folder).words
            assert ("such values are left out" in words) == (odd is not None)


@pytest.mark.usefixtures("undrawn")
def test_a_column_is_added_in_the_schema_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, read back, and a cell of the report: all from one place."""
    added = Column("num_conflicting_rows", int, lambda m: m.result.num_conflicting_rows + 5, title="rows in conflict")
    monkeypatch.setattr(schema, "LAYERS", Table(schema.LAYERS.file, (*schema.LAYERS.columns, added)))
    folder = sample_runs.write_rounds(tmp_path / "a", (3, 2), 1)
    rows = list(csv.DictReader((folder / "layers.csv").read_text().splitlines()))
    assert {row["num_conflicting_rows"] for row in rows} == {"5"}
    last = read_run(folder).layers[-1]
    assert last.columns["num_conflicting_rows"].tolist() == [[5, 5], [5, 5]]
    page = page_of(folder)
    assert page.row("layer") == ["rows in conflict"]
    assert page.row("hidden.1") == ["5"]


def test_an_unfinished_network_is_told_by_its_options() -> None:
    for model in MODELS:
        config = TrainConfig(model=model, depth=3, width=32)
        assert tables.planned(to_dict(config)) == str(config.architecture)
    assert tables.planned({"model": "cnn", "depth": 3, "width": 32}) == "cnn, 3 layers of 32"
    assert tables.planned({"model": ["cnn"], "blocks": None}) == tables.planned({}) == ""


# --- trust ----------------------------------------------------------------------------------------


def check_harmless(page: Page) -> None:
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", page.source, re.DOTALL)
    assert len(page.all("script")) == 1
    assert script == Path(run_page.__file__).with_name("templates").joinpath("run_report.js").read_text()
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/", "#")) or value in ("", "data:,"), (tag, value[:80])
    assert not re.search(r"url\(|@import", page.source)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_hostile_text_is_shown_and_never_run(hostile_page: Path) -> None:
    page = Page(hostile_page)
    check_harmless(page)
    assert "<script>alert(1)</script>" in page.words
    assert "{{7*7}}" in page.words
    assert not re.search("[\x00-\x08\u202e\ud800]", page.source)
    drawn = list((hostile_page.parent / "report_files").glob("*.svg"))
    assert len(drawn) == 2
    for svg in drawn:
        root = ElementTree.fromstring(svg.read_bytes())
        assert not [e for e in root.iter() if e.tag.endswith(("script", "foreignObject"))]


def test_every_picture_has_words_and_every_header_a_scope(whole_page: Path) -> None:
    page = Page(whole_page)
    check_harmless(page)
    assert len(page.all("img")) == len(list((whole_page.parent / "report_files").glob("*.png"))) == 1 + 4 + 2 + 4
    assert all(image["alt"] for image in page.all("img"))
    assert page.all("th")
    assert all(th.get("scope") in ("row", "col") for th in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_a_page_of_a_deep_network_stays_small(tmp_path: Path) -> None:
    """120 layers, 120 epochs: so small that 18 such pictures would fit, of six rounds at three resolutions."""
    folder = sample_runs.write_rounds(tmp_path / "deep", (120, 61, 12), 120)
    page = Page(write_report([folder], tmp_path / "r.html"))
    assert len(page.all("img")) == 4
    assert "Round 2, fnn, 12 layers of 10: none of 12 layers ever conflicts." in page.words
    assert all(image["src"].startswith("data:image/svg") for image in page.all("img"))  # type: ignore[union-attr]
    assert len(page.source.encode()) < 2_000_000 * 4 / 18


def test_pictures_that_do_not_fit_stay_beside_the_page(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def large(name: str, alt: str, draw: object) -> Picture:
        svg = 400_000 if name.startswith("curves") else 700_000
        return Picture(name, alt, b"s" * svg, b"p" * (svg - 100 if "01" in name else 50_000))

    monkeypatch.setattr(figures, "rendered", large)
    page = Page(write_report([runs / "autotune"], tmp_path / "r.html"))
    kinds = [image["src"][:20] for image in page.all("img")]  # type: ignore[index]
    assert [kind.partition(";")[0] for kind in kinds] == ["data:image/png"] * 3 + ["data:image/svg+xml"]
    assert len(page.source.encode()) < 2_000_000
    monkeypatch.setattr(run_page, "MOST_BYTES", 240_000)
    page = Page(write_report([runs / "autotune"], tmp_path / "r.html"))
    assert len(page.source.encode()) <= 240_000
    shown = ["over the epochs" in str(image["alt"]) for image in page.all("img")]
    assert shown == [False, True, False]  # what matters most: the blocks and the curves
    left_out = re.findall(r"keep it small: (r_files/\S+\.svg)", page.words)
    assert left_out == ["r_files/entropy-autotune-float32-01.svg"]
    assert all((tmp_path / name).is_file() for name in left_out)


@pytest.mark.usefixtures("undrawn")
def test_of_many_rounds_the_first_and_the_last_are_drawn(tmp_path: Path) -> None:
    folder = sample_runs.write_rounds(tmp_path / "a", range(41, 1, -1), 1)
    page = page_of(folder)
    assert len(page.all("img")) == 2 + sections.MOST_MAPS
    assert f"{39 - sections.MOST_MAPS} of 40 rounds are not drawn." in page.words
    assert "Round 0," in page.words
    assert "Round 38," in page.words
    assert "Round 20," not in page.words


def test_the_same_run_gives_the_same_bytes(runs: Path) -> None:
    curves = sections.curves_of(read_run(runs / "train"))
    first, again = (
        figures.rendered("curves", "of a test", lambda: figures.training_curves(curves, 0.1)) for _ in range(2)
    )
    assert first == again
    assert first.png.startswith(b"\x89PNG")
    assert ElementTree.fromstring(first.svg).tag.endswith("svg")


# --- refusals, pictures ---------------------------------------------------------------------------


def test_refuses_what_is_no_list_of_run_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folders is empty"):
        write_report([], tmp_path / "r.html")
    with pytest.raises(TypeError, match="pass a list of run folders"):
        write_report(str(tmp_path), tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_curves_start_anew_where_the_network_does(runs: Path) -> None:
    curves = sections.curves_of(read_run(runs / "autotune"))
    assert [(curve.label, list(curve.epochs)) for curve in curves] == [
        ("round 0", [0.0, 1.0, 2.0]), ("round 1", [0.0, 1.0]), ("round 2", [0.0, 1.0, 2.0]),
    ]  # fmt: skip
    assert math.isnan(curves[0].loss[0])
    figure = figures.training_curves(curves, 0.1)
    above, below = figure.axes
    tests = [line for line in above.lines if line.get_label() == "test"]
    assert [line.get_xdata()[0] for line in tests] == [0, 2, 3]
    assert [line.get_ydata().tolist() for line in tests] == [list(curve.test_accuracy) for curve in curves]
    (chance,) = [line for line in above.lines if line.get_label() == "chance"]
    assert list(chance.get_ydata()) == [0.1, 0.1]
    restarts = [line.get_xdata()[0] for line in below.lines if line.get_linestyle() == "--"]
    assert restarts == [2, 3]


def test_a_loss_that_is_no_number_is_marked() -> None:
    curve = figures.Curve("", [0, 1, 2, 3], [math.nan, 2.0, math.nan, math.nan], [0.1] * 4, [math.nan] * 4)
    below = figures.training_curves([curve], None).axes[1]
    (lost,) = [line for line in below.lines if line.get_marker() == "x"]
    assert list(lost.get_xdata()) == [2, 3]


def test_numbers_that_no_axis_reaches_are_left_out_of_pictures(tmp_path: Path) -> None:
    """A loss of -1e308 left no report ("arange: cannot compute length"); other such numbers made matplotlib warn."""
    folder = copied("train_resnet", tmp_path / "run")
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    history[0]["train_loss"], history[-1]["train_loss"] = 1e308, -1e308
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    columns, *rows = csv.reader((folder / "layers.csv").read_text().splitlines())
    for row, entropy in zip(rows, ("1e308", "inf"), strict=False):
        row[columns.index("entropy")] = entropy
    (folder / "layers.csv").write_text("".join(",".join(row) + "\n" for row in (columns, *rows)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = page_of(folder)
    assert "layers.csv: 2 lines are damaged and left out." in page.words
    assert page.all("img")


def test_removal_curves_show_mean_and_spread() -> None:
    curves = {"conflicting": [CurvePoint(0, 0.9, 0.0), CurvePoint(1, 0.8, 0.05), CurvePoint(2, None, 0.1)]}
    ax = figures.removal_curves(curves, 0.9, "").axes[0]
    (line,) = [line for line in ax.lines if line.get_label() == "conflicting blocks"]
    assert line.get_xydata().tolist() == [[0, 0.9], [1, 0.8]]
    corners = ax.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(0.75)
    assert corners[:, 1].max() == pytest.approx(0.9)


def test_heat_maps_of_all_rounds_share_their_colours(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tops = []

    def spied(table: Any, title: str, top: float | None) -> Any:
        tops.append(top)

    monkeypatch.setattr(figures, "layer_map", spied)
    monkeypatch.setattr(figures, "rendered",
                        lambda name, alt, draw: Picture(name, alt, bytes(repr(draw()), "ascii"), b""))  # fmt: skip
    monkeypatch.setattr(figures, "training_curves", lambda curves, chance: None)
    page_of(runs / "autotune")
    assert len(tops) == 2
    rows = csv.DictReader((runs / "autotune" / "layers.csv").read_text().splitlines())
    assert set(tops) == {max(float(row["entropy"]) for row in rows)}


@pytest.mark.parametrize(
    ("package", "words"), [("jinja2", "pip install Jinja2"), ("matplotlib", "pip install matplotlib")]
)
def test_a_missing_package_is_named(runs: Path, monkeypatch: pytest.MonkeyPatch, package: str, words: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=words):
        write_report([runs / "train"], runs / "never.html")
    assert not (runs / "never.html").exists()


# --- the command ----------------------------------------------------------------------------------


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    report_command.add_parser(parser.add_subparsers())
    return parser.parse_args(["report", *arguments])


@pytest.mark.usefixtures("undrawn")
def test_the_command_prints_where_the_page_is(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert report_command.run(parsed(str(runs / "train"), "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["report"] == str(runs / "train" / "report.html")
    assert len(said["pictures"]) == 8
    assert all(os.path.isfile(path) for path in (said["report"], *said["pictures"]))
    monkeypatch.chdir(tmp_path)
    assert report_command.run(parsed(str(runs / "train"), str(runs / "remove"))) == 0
    assert capsys.readouterr().out == "Report: report.html\nPictures: report_files (18 files)\n"
    assert report_command.run(parsed(str(runs / "train"), "--out", "deep/er/x.html", "--pictures", "p")) == 0
    assert Path("deep/er/x.html").is_file()
    assert len(list(Path("p").iterdir())) == 8


def test_the_command_imports_its_packages_late() -> None:
    code = "import sys, cbkernels.commands.report; print({'jinja2', 'matplotlib', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# --- in a browser ---------------------------------------------------------------------------------

_INSPECT = """
function colours(image) {
  const canvas = document.createElement('canvas'); canvas.width = 64; canvas.height = 64;
  const context = canvas.getContext('2d'); context.drawImage(image, 0, 0, 64, 64);
  const pixels = new Uint32Array(context.getImageData(0, 0, 64, 64).data.buffer);
  return new Set(pixels).size;
}
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement;
  return {width: frame.clientWidth, scrolled: root.scrollWidth, paper: frame.contentWindow.getComputedStyle(page.body)
    .backgroundColor, images: [...page.images].map(i => ({complete: i.complete, natural: i.naturalWidth,
    shown: i.getBoundingClientRect().width, colours: i.naturalWidth ? colours(i) : 0})),
    loaded: frame.contentWindow.performance.getEntriesByType('resource').map(e => e.name)
    .filter(n => !n.startsWith('data:'))};
}
"""


def inspected(tmp_path: Path, page: Path, is_dark: bool = False) -> tuple[list[dict[str, Any]], list[str]]:
    """The unchanged page in frames of 1280 and 400 pixels."""
    return looked(tmp_path, page, _INSPECT, widths=(1280, 400), is_dark=is_dark)


@browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pictures_are_seen_and_the_console_is_empty(whole_page: Path, tmp_path: Path, scheme: str) -> None:
    frames, console = inspected(tmp_path, whole_page, scheme == "dark")
    assert console == []
    assert [frame["width"] for frame in frames] == [1280, 400]
    for frame in frames:
        assert frame["loaded"] == []
        assert frame["scrolled"] <= frame["width"], "the page is wider than its window"
        assert len(frame["images"]) == 4 + 2 + 4, "and the picture of all runs, which is drawn inline"
        for image in frame["images"]:
            assert image["complete"]
            assert image["natural"] > 300
            assert image["shown"] > 300
            assert image["colours"] > 5
        assert frame["paper"] == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 25, 29)")


@browser
def test_a_hostile_run_is_quiet_in_the_browser(hostile_page: Path, tmp_path: Path) -> None:
    frames, console = inspected(tmp_path, hostile_page)
    assert console == []
    assert all(frame["loaded"] == [] and len(frame["images"]) == 2 for frame in frames)


@browser
def test_the_inspection_would_see_a_fault(tmp_path: Path) -> None:
    """Console, lost pictures, blank pictures and overflow: each is noticed on a page that has it."""
    blank = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='400' height='400'></svg>"
    faults = tmp_path / "faults.html"
    faults.write_text("<meta http-equiv=Content-Security-Policy content=\"img-src data:\">"
                      f'<img src="{blank}"><img src="data:image/png;base64,AAAA"><img src="https://localhost/x.png">'
                      "<pre style='width:3000px'>wide</pre>")  # fmt: skip
    frames, console = inspected(tmp_path, faults)
    assert any("Content Security Policy" in line for line in console)
    assert [image["natural"] for image in frames[0]["images"]] == [400, 0, 0]
    assert frames[0]["images"][0]["colours"] == 1
    assert frames[0]["scrolled"] > frames[0]["width"]


@browser
def test_a_screenshot_of_the_page_itself(whole_page: Path, tmp_path: Path) -> None:
    from matplotlib.image import imread

    shot = tmp_path / "shot.png"
    _, console = chromium(tmp_path, whole_page, "--window-size=1280,1600", f"--screenshot={shot}")
    assert console == []
    pixels = imread(shot)[..., :3]
    assert pixels.shape[:2] == (1600, 1280)
    assert (pixels[:8] > 0.99).all()
    assert len({tuple(p) for p in (pixels[::3, ::3] * 255).astype(int).reshape(-1, 3).tolist()}) > 100


@pytest.mark.parametrize(("value", "words"), [(0.0, "0.0 %"), (1, "100.0 %"), (-math.inf, "-inf"), (None, "\u2013")])
def test_shares_in_words(value: float | None, words: str) -> None:
    assert tables.percent(value) == words


def test_pictures_do_not_follow_a_link(tmp_path: Path) -> None:
    """Whoever gives a run folder away could otherwise choose where files are written."""
    folder, elsewhere = copied("train_fnn", tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "report_files").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ValueError, match=r"report_files is a link to another folder, which is not written to; name"):
        write_report([folder], folder / "report.html")
    assert not list(elsewhere.iterdir())
    assert not (folder / "report.html").exists()
