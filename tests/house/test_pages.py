"""The documentation's pages leave out nothing: every document, notebook and public name has its place (`make docs`
itself fails on a link that leads nowhere). CBKERNELS_SITE names the folder of pages that were built.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cbkernels

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
MADE = {"index.md", "contributing.md", "changelog.md", *(f"examples/{path.stem}.md" for path in NOTEBOOKS)}

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="pages: NOT TESTED HERE (no source tree)")


def test_every_document_is_a_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = set(re.findall(r"[\w/]+\.md$", nav, re.MULTILINE))
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages == documents | MADE


def shown_by(notebook: Path) -> list[dict[str, Any]]:
    """What its cells kept, by type: "text/html", "image/png", "text/plain"; what is printed is text."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [output.get("data") or {"text/plain": output["text"]} for output in outputs]


def built(page: str) -> str:
    site = os.environ.get("CBKERNELS_SITE", "")
    if not site:
        pytest.skip("pages: NOT TESTED HERE (`make docs` builds them; CBKERNELS_SITE=build/docs/site)")
    return (Path(site) / page).read_text(encoding="utf-8")


def test_formulas_are_drawn() -> None:
    tex = re.compile(r"\$[^\s$`][^$`\n]*\$|\$`|\\(frac|lvert|sum|mathrm)")
    pages = [f"{path.stem}.html" for path in (ROOT / "docs").glob("*.md")]
    prose = {page: re.sub(r"<(pre|code).*?</\1>", "", built(page), flags=re.DOTALL) for page in pages}
    assert [page for page, text in prose.items() if tex.search(text)] == []
    assert prose["repr.html"].count("<math ") >= 70


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_of_a_notebook_shows_what_its_run_left(notebook: Path) -> None:
    page = built(f"examples/{notebook.stem}.html")
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())
    folder = Path(os.environ["CBKERNELS_SITE"]) / "examples"
    pictures = [(folder / name).read_bytes() for name in re.findall(r'<img [^>]*src="([^"]+)"', page)]
    for shown in shown_by(notebook):
        if "image/png" in shown:
            assert base64.b64decode("".join(shown["image/png"])) in pictures
        elif "text/html" in shown:
            assert all(row in page for row in re.findall(r"<tr.*?</tr>", "".join(shown["text/html"])))
        else:
            assert " ".join("".join(shown["text/plain"]).split()) in text


def test_the_reference_has_every_public_name() -> None:
    shown = set()
    for page in (ROOT / "docs" / "reference").glob("*.md"):
        shown |= set(re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE))
    modules = {"cbkernels.training", "cbkernels.integrations"}
    public = {f"cbkernels.{name}" for name in cbkernels.__all__} - {"cbkernels.__version__"} - modules
    import_lines = (
        (ROOT / "cbkernels" / "training" / "__init__.py").read_text(encoding="utf-8").rpartition("__all__")[2]
    )
    public |= {f"cbkernels.training.{name}" for name in re.findall(r'"(\w+)"', import_lines)}
    assert public - shown == set()


def file_of_site(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_returned_is_one_text() -> None:
    griffe = pytest.importorskip("griffe", reason="pages: NOT TESTED HERE (needs griffe, which make docs installs)")
    function = griffe.Function("rows", returns="int")
    function.docstring = griffe.Docstring(
        "Rows.\n\nReturns:\n    (N,) where they are: a tensor,\n    or NumPy.", parent=function
    )
    file_of_site("docstrings").Docstrings().on_instance(obj=function)
    options = re.search(r"docstring_options: \{(.*)\}", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert options is not None
    chosen = {name: value == "true" for name, value in re.findall(r"(\w+): (\w+)", options[1])}
    _, returns = function.docstring.parse("google", **chosen)
    assert [each.description for each in returns.value] == ["(N,) where they are - a tensor,\nor NumPy."]


def test_a_list_below_a_table_is_no_row_of_it() -> None:
    """A forge ends a table there, the pages' Markdown does not."""
    for page in MADE | {path.name for path in (ROOT / "docs").glob("*.md")}:
        assert re.findall(r"<td[^>]*>[*-] [^<]*", built(page.replace(".md", ".html"))) == [], page
