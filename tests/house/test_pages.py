"""The documentation's pages leave out nothing: every document and every public name has its place (`make docs`
itself fails on a link that leads nowhere).
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import cbkernels

ROOT = Path(__file__).resolve().parents[2]
MADE = {"index.md", "contributing.md", "changelog.md"}

pytestmark = pytest.mark.skipif(not (ROOT / "mkdocs.yml").is_file(), reason="pages: NOT TESTED HERE (no source tree)")


def test_every_document_is_a_page() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    pages = set(re.findall(r"[\w/]+\.md$", nav, re.MULTILINE))
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert pages == documents | MADE


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


def test_formulas_and_lists_below_tables_are_no_source_text() -> None:
    """Formulas become MathML, code keeps its dollars, and a list below a table is no row of it."""
    for package in ("mkdocs", "latex2mathml"):
        pytest.importorskip(package, reason=f"pages: NOT TESTED HERE (needs {package}, which make docs installs)")
    pages = file_of_site("pages")
    code = "a `$HOME` and `` $`x`$ `` costs 5 $\n\n```sh\n$ echo $HOME $PATH\n```\n"
    assert pages.on_page_markdown(code) == code
    for formula in ("$x$", "$`x_1`$", "```math\nx\n```"):
        assert re.fullmatch(r"<span><math .*</math></span>\n?", pages.on_page_markdown(formula)), formula
    assert pages.on_page_markdown("| a |\n|---|\n| 1 |\n* b\n") == "| a |\n|---|\n| 1 |\n\n* b\n"
    left = "<p>costs $x$</p><td>* b</td><td>-1</td><code>$HOME</code>"
    assert pages.LEFT_OVER.findall(pages.without_code(left)) == ["$x$", "<td>* b"]
