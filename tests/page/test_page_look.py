"""How a page looks and behaves in Chromium at 420, 1280 and 1920 pixels, light and dark, with scripts and without."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib", reason="the report: NOT TESTED HERE (no matplotlib)")
pytest.importorskip("jinja2", reason="the report: NOT TESTED HERE (no Jinja2)")

import numpy as np

from cbkernels.page import figures, run_page, tables
from cbkernels.page.run_page import write_report
from cbkernels.runs.reader import read_run

from .. import sample_runs
from ..sample_runs import changed, content_of, copied
from .browser import browser, looked

WIDTHS = (420, 1280, 1920)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind on one page."""
    root = tmp_path_factory.mktemp("look")
    old = {"train_resnet": "train", "train_fnn": "a-training-with-a-long-name", "autotune": "tune", "remove": "cut"}
    folders = [copied(name, root / called) for name, called in old.items()]
    ends = content_of(root / "tune" / "result.json")
    names = {"before": "vgg, 3-12-41-3 blocks, 0.125 of the width", "after": "vgg, 3-5-0-0 blocks, 0.125 of the width"}
    changed(root / "tune", **{end: {**ends[end], "name": name} for end, name in names.items()})
    deep = sample_runs.write_rounds(root / "deep", (120, 61, 12), 3)
    return write_report([deep, *folders], root / "report.html")


# --- sizes, colours, requests -----------------------------------------------------------------------

_LOOK = """
function light(colour) {  // relative luminance
  const [r, g, b] = colour.map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
function contrast(one, other) {
  const [a, b] = [light(one), light(other)];
  return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
}
function filtered(colour, filter) {
  const context = document.createElement('canvas').getContext('2d');
  context.filter = filter; context.fillStyle = colour; context.fillRect(0, 0, 9, 9);
  return [...context.getImageData(4, 4, 1, 1).data].slice(0, 3);
}
function wordColours(picture) {  // of the words of an SVG
  const parsed = content => new DOMParser().parseFromString(atob(content), 'image/svg+xml');
  const drawn = picture.src ? parsed(picture.src.split(',')[1]) : picture;
  const groups = [...drawn.querySelectorAll('g[id^=text_] > g')].map(g => g.style.fill || '#000000');
  return [...new Set(groups)];
}
function brokenWords(head) {  // of the heads of rows and columns: words on two lines
  const words = [], texts = head.ownerDocument.createTreeWalker(head, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) for (const word of texts.currentNode.data.matchAll(/[a-z]{1,14}/g)) {
    const range = head.ownerDocument.createRange();
    range.setStart(texts.currentNode, word.index);
    range.setEnd(texts.currentNode, word.index + word[0].length);
    if (new Set([...range.getClientRects()].map(each => each.top)).size > 1) words.push(word[0]);
  }
  return words;
}
function look(frame) {
  const page = frame.contentDocument, root = page.documentElement, style = e => frame.contentWindow.getComputedStyle(e);
  const pictures = [...page.querySelectorAll('.picture img, .picture > svg')], paper = style(page.body).backgroundColor;
  const of = name => filtered(style(root).getPropertyValue(name), 'none');
  return {
    width: frame.clientWidth, scrolled: root.scrollWidth,
    wide: [...page.querySelectorAll('body *:not(svg *)')].filter(e => !e.closest('.heard, pre')
      && e.getBoundingClientRect().right > frame.clientWidth + .5).map(e => e.outerHTML.slice(0, 80)),
    cut: [...page.querySelectorAll('.table')].filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText),
    broken: [...page.querySelectorAll('.table th')].flatMap(brokenWords),
    pictures: pictures.map(p => ({
      shown: p.getBoundingClientRect().width, words: wordColours(p).length,
      contrast: Math.min(...wordColours(p).map(c => contrast(filtered(c, style(p).filter),
        filtered('#ffffff', style(p).filter)))),
      paper: light(filtered('#ffffff', style(p).filter)),
    })),
    page: Math.min(...['--ink', '--soft', '--accent', '--warn'].flatMap(ink => ['--paper', '--card', '--canvas'].map(
      on => contrast(of(ink), of(on))))),
    paper: light(filtered(paper, 'none')),
    loaded: frame.contentWindow.performance.getEntriesByType('resource').map(e => e.name)
      .filter(n => !n.startsWith('data:')),
  };
}
"""


@browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_fits_and_can_be_read(several: Path, tmp_path: Path, scheme: str) -> None:
    frames, console = looked(tmp_path, several, _LOOK, widths=WIDTHS, is_dark=scheme == "dark")
    assert console == []
    assert [frame["width"] for frame in frames] == list(WIDTHS)
    for frame in frames:
        width = frame["width"]
        assert frame["loaded"] == []
        assert frame["scrolled"] <= width, "the page is wider than its window"
        assert frame["wide"] == [], width
        assert frame["cut"] == [], width
        assert frame["broken"] == [], width
        assert frame["page"] >= 4.5
        assert (frame["paper"] < 0.03) == (scheme == "dark")
        assert len(frame["pictures"]) > 15
        for picture in frame["pictures"]:
            assert picture["words"] >= 1
            assert picture["contrast"] >= 4.5, picture
            assert (picture["paper"] < 0.03) == (scheme == "dark"), "a white card on a dark page"
            assert 0.8 * min(width, 420) < picture["shown"] < 700


@browser
def test_few_columns_of_long_headings_are_not_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five columns, of "test accuracy, mean of the seeds" and the like, were 30 pixels too wide for a telephone."""
    header = ["criterion", "test accuracy, mean of the seeds", "standard deviation", "difference to standard, mean",
              "its standard deviation"]  # fmt: skip
    table = tables.Table("Every criterion", header, [[name, "11.2 %", "1.8 points", "0.0 points", "0.0 points"]
                         for name in ("standard", "random")], {0})  # fmt: skip
    monkeypatch.setattr(tables, "cost_table", lambda cost: table)
    monkeypatch.setattr(figures, "rendered", lambda name, alt, draw: figures.Picture(name, alt, b"<svg/>", b"p"))
    page = write_report([copied("train_resnet", tmp_path / "run")], tmp_path / "report.html")
    (seen,), _ = looked(tmp_path, page, _LOOK, widths=(420,))
    assert seen["cut"] == []
    assert seen["broken"] == []


# --- with scripts and without -------------------------------------------------------------------------

_USE = """
function look(frame) {
  const page = frame.contentDocument, window = frame.contentWindow;
  const table = [...page.querySelectorAll('table.sortable')].find(t => t.caption.textContent === 'All runs');
  const cells = column => [...table.tBodies[0].rows].map(row => row.cells[column].textContent.trim());
  const button = table.tHead.rows[0].cells[9].querySelector('button'), sorts = [cells(9)], states = [];
  for (let i = 0; i < 3; ++i) {
    button.focus(); button.click();
    sorts.push(cells(9)); states.push(button.parentElement.getAttribute('aria-sort'));
  }
  const boxes = [...page.querySelectorAll('fieldset.runs input')];
  const line = page.querySelector('.picture svg [id="series-1"]'), heights = [line.getBoundingClientRect().height];
  boxes[1].click(); heights.push(line.getBoundingClientRect().height);
  boxes[1].click(); heights.push(line.getBoundingClientRect().height);
  const area = page.querySelector('#run-4 ~ section .cells'), said = () => area.closest('figure')
    .querySelector('output').textContent, at = area.getBoundingClientRect(), read = [];
  area.focus(); read.push(said());
  for (const key of ['ArrowDown', 'ArrowDown', 'ArrowRight', 'ArrowLeft', 'ArrowLeft', 'x']) {
    area.dispatchEvent(new window.KeyboardEvent('keydown', {key})); read.push(said());
  }
  area.dispatchEvent(new window.PointerEvent('pointermove', {clientX: at.right - 1, clientY: at.bottom - 1}));
  read.push(said());
  const image = area.parentElement.querySelector('img'), drawn = image.getBoundingClientRect(),
    on = area.getBoundingClientRect();
  const over = [on.left - drawn.left, on.top - drawn.top, on.width, on.height].map((part, i) => 100 * part
    / (i % 2 ? drawn.height : drawn.width) - Number(image.dataset.box.split(' ')[i]));
  const out = [...page.querySelectorAll('.cells')].flatMap(each => [[0, 0], [1, 0], [0, 1], [1, 1]].map(([x, y]) => {
    const box = each.getBoundingClientRect(), inside = each.closest('.picture').getBoundingClientRect();
    const to = {clientX: box.left + x * (box.width - 1), clientY: box.top + y * (box.height - 1)};
    each.dispatchEvent(new window.PointerEvent('pointermove', to));
    const words = each.parentElement.querySelector('output').getBoundingClientRect();
    return words.width > 50 && words.left >= inside.left && words.right <= inside.right;
  }));
  area.blur();
  const gone = page.querySelector('#run-4 ~ section output').getBoundingClientRect().width;
  const numbers = ['1,234', '-0.25', '28.80 M', '5,000 G', '1 min 11 s', '2 h 1 min', '3.0 KiB', '0.307 to 0.541 ms',
    '\u2013', '1e-07', '7 of 8', '-11.0 points'].map(words => window.numberOf(words));
  return {over, out, gone, numbers, scrolled: page.documentElement.scrollWidth, sorts, states, heights, read,
    runs: boxes.map(b => b.parentElement.textContent.trim()),
    focusable: area.tabIndex};
}
"""


@browser
def test_tables_sort_runs_hide_and_cells_are_read(several: Path, tmp_path: Path) -> None:
    (narrow, seen), console = looked(tmp_path, several, _USE, widths=(420, 1280))
    assert console == []
    for each in (narrow, seen):
        assert all(abs(part) < 0.5 for part in each["over"]), "the cells lie over those of the picture"
        assert all(each["out"]), "words of a value leave the picture"
        assert each["gone"] == 0
    assert narrow["scrolled"] <= 420
    assert narrow["read"] == seen["read"]
    up = ["4,800", "6,880", "99,480", "151.32 k", "\u2013"]
    unsorted = ["\u2013", "151.32 k", "4,800", "6,880", "99,480"]
    assert seen["sorts"] == [unsorted, up, [*up[3::-1], "\u2013"], unsorted], "no value stays last"
    assert seen["states"] == ["ascending", "descending", None]
    assert seen["runs"][:3] == ["deep (autotune)", "train (train)", "a-training-with-a-long-name (train)"]
    assert seen["numbers"] == [1234, -0.25, 28.8e6, 5e12, 71, 7260, 3072, 0.307, None, 1e-7, 7, -11]
    assert seen["heights"][0] == seen["heights"][2] > seen["heights"][1] == 0
    table = read_run(several.parent / "tune").layers[0]
    expected = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 0), (2, 0), (2, 0), (-1, -1)]
    assert seen["read"] == [
        f"{table.layers[row]}, epoch {table.epochs[column]}: {table.entropy[row, column]:.4g} nats"
        for row, column in expected
    ]
    assert seen["focusable"] == 0


@browser
def test_without_scripts_nothing_is_dead(several: Path, tmp_path: Path) -> None:
    look = """function look(frame) {
      const page = frame.contentDocument;
      return {controls: page.querySelectorAll('button, input, output, .cells').length, images: page.images.length,
        tables: page.querySelectorAll('table').length};
    }"""
    (seen,), console = looked(tmp_path, several, look, sandbox='sandbox="allow-same-origin"')
    assert all("scripts" in line for line in console)  # that they were blocked
    assert seen["controls"] == 0
    assert seen["images"] > 15
    assert seen["tables"] > 5


@browser
def test_the_look_would_see_a_fault(tmp_path: Path) -> None:
    page = tmp_path / "faults.html"
    svg = "<svg xmlns='http://www.w3.org/2000/svg'><g id='text_1'><g style='fill: #cccccc'/></g></svg>"
    encoded = base64.b64encode(svg.encode()).decode()
    page.write_text("<style>:root{--ink:#999;--soft:#000;--accent:#000;--warn:#000;--paper:#fff;--card:#fff;--canvas:"
                    "#fff}.table{overflow:auto}</style><p style='width:500px'>a</p><div class=table><p style='width:"
                    "600px'>b</p></div><div class=picture>"
                    f"<img src='data:image/svg+xml;base64,{encoded}'></div>")  # fmt: skip
    (seen,), _ = looked(tmp_path, page, _LOOK, widths=(420,), is_dark=True)
    assert seen["scrolled"] > 420
    assert len(seen["wide"]) == 2
    assert seen["cut"] == ["b"]
    assert seen["page"] < 4.5
    assert seen["pictures"][0]["contrast"] < 4.5
    assert seen["pictures"][0]["paper"] > 0.9


# --- what the page holds for the script ---------------------------------------------------------------


def test_the_values_of_a_map_are_its_tables(tmp_path: Path) -> None:
    table = read_run(sample_runs.write_rounds(tmp_path / "a", (6, 3), 4)).layers[0]
    table.measured[1, 2] = False
    table.entropy[2, 3] = np.nan
    cells = figures.cells_of(table, table.entropy, "nats")
    runs = [[f"{part}*1".split("*")[:2] for part in row.split()] for row in cells.rows]
    rows = [[value for value, times in line for _ in range(int(times))] for line in runs]
    expected = [[f"{value:.4g}" for value in line] for line in table.entropy]
    expected[1][2], expected[2][3] = "none", "nan"
    assert rows == expected
    assert (cells.layers, cells.steps) == (table.layers, table.epochs)
    assert any("*" in row for row in cells.rows)


def test_the_box_of_a_picture_is_that_of_its_axes(tmp_path: Path) -> None:
    table = read_run(sample_runs.write_rounds(tmp_path / "a", (6, 3), 4)).layers[0]
    picture = figures.rendered("entropy", "of a test", lambda: figures.layer_map(table, "a network", 2.0))
    drawn = ElementTree.fromstring(picture.svg)
    width, height = map(float, drawn.attrib["viewBox"].split()[2:])
    paper = drawn.find(".//*[@id='axes_1']//{*}path")
    assert paper is not None
    xs, ys = np.array(re.findall(r"[ML] (\S+) (\S+)", paper.attrib["d"]), float).T
    expected = [xs.min() / width, ys.min() / height, np.ptp(xs) / width, np.ptp(ys) / height]
    assert picture.box == pytest.approx([100 * part for part in expected], abs=0.02)


@pytest.mark.parametrize("room", [run_page.MOST_VALUES, 1500])
def test_values_have_their_own_small_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    def undrawn(name: str, alt: str, draw: Any) -> figures.Picture:
        return figures.Picture(name, alt, b"<svg/>", b"p", box=(10.0, 10.0, 80.0, 80.0))

    monkeypatch.setattr(figures, "rendered", undrawn)
    monkeypatch.setattr(run_page, "MOST_VALUES", room)
    folder = sample_runs.write_rounds(tmp_path / "a", (40, 30, 20), 5)
    source = write_report([folder], tmp_path / "report.html").read_text()
    attributes = re.findall(r"data-box=.*?\"></div>", source, re.DOTALL)
    maps = source.count('alt="Bundle entropy in nats')
    assert maps > 1
    assert len(attributes) == (maps if room > 1500 else 1)
    assert sum(map(len, attributes)) <= room
