"""Files that comments, docstrings and documents name are there."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import cbkernels

PACKAGE = Path(cbkernels.__file__).parent
TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
IN_SOURCE_TREE = (ROOT / "pyproject.toml").is_file() and (ROOT / "csrc").is_dir()
_IN_PYTHON = re.compile(r"``((?:[\w.-]+/)*[\w-]+\.py)``")
_IN_DOCUMENTS = re.compile(r"(?<![\w/.-])((?:cbkernels|tests)/[\w./-]*\w)(?![\w*<{}])")


def named_in_python(text: str) -> Iterator[str]:
    """Files in double backquotes in docstrings and comments."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield from _IN_PYTHON.findall(token.string)


def missing_in_python(path: Path, package: Path, tests: Path) -> list[str]:
    """Those of a module that are neither beside it, nor in the package, nor in the tests."""
    names = named_in_python(path.read_text(encoding="utf-8"))
    return [name for name in names if not any((place / name).is_file() for place in (path.parent, package, tests))]


def missing_in_document(path: Path, root: Path) -> list[str]:
    """Paths in ``cbkernels`` and ``tests`` that a document names and that are not there."""
    names = _IN_DOCUMENTS.findall(path.read_text(encoding="utf-8"))
    return [name for name in names if not (root / name).exists()]


def test_files_that_modules_name_are_there() -> None:
    missing = {
        path.relative_to(PACKAGE).as_posix(): names
        for path in sorted(PACKAGE.rglob("*.py"))
        if (names := missing_in_python(path, PACKAGE, TESTS))
    }
    assert not missing


@pytest.mark.skipif(not IN_SOURCE_TREE, reason="the source tree: NOT TESTED HERE (only tests/ is here)")
def test_files_that_documents_name_are_there() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").rglob("*.md")]
    documents += [ROOT / ".ci" / "run", ROOT / "Makefile", *TESTS.rglob("*.sh")]
    documents = [path for path in documents if path.is_file()]  # a source archive has no .ci
    missing = {path.name: names for path in documents if (names := missing_in_document(path, ROOT))}
    assert not missing


def test_a_file_that_is_gone_is_found(tmp_path: Path) -> None:
    (tmp_path / "cbkernels" / "findings").mkdir(parents=True)
    module, document = tmp_path / "cbkernels" / "findings" / "history.py", tmp_path / "README.md"
    module.write_text(
        '"""See ``history.py``, ``findings/history.py``, ``gone.py`` and ``csrc/views.h``."""\n'
        "x = 1  # as in ``reports/gone.py``\n",
        encoding="utf-8",
    )
    document.write_text(
        "`cbkernels/findings/history.py`, cbkernels/findings, `cbkernels/*.py`, tests/gone.py, a/tests/x", "utf-8"
    )
    assert missing_in_python(module, tmp_path / "cbkernels", tmp_path / "tests") == ["gone.py", "reports/gone.py"]
    assert missing_in_document(document, tmp_path) == ["tests/gone.py"]
