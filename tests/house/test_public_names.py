"""What is public stands in an ``__all__``, and the documents use nothing else."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import cbkernels

from .test_codebase import public_names
from .test_readme import DOCUMENTS, blocks_of, document_ids, need_source_tree

PACKAGE = "cbkernels"
DOTTED = re.compile(r"(?<![\w./-])(?:cb|cbkernels)((?:\.[A-Za-z_]\w*)+)(?![\w/])")
"""``cb.training.RePr`` in prose or code; a path such as ``cbkernels/data`` is none."""


def all_of_module(dotted: str) -> list[str] | None:
    """The public names of a module that is public itself; None for what is no public module."""
    parent, _, last = dotted.rpartition(".")
    if parent and last not in (all_of_module(parent) or ()):
        return None
    try:
        names = importlib.import_module(dotted).__all__
    except (AttributeError, ImportError):
        return None
    return list(names)


def private_part(names: list[str]) -> str | None:
    """The first of ``cbkernels.<names>`` that no ``__all__`` holds; None when all of it is public."""
    module = PACKAGE
    for name in names:
        public = all_of_module(module)
        if public is None:  # a class or a function: its attributes are its own
            return None
        if name not in public:
            return f"{module}.{name}"
        module = f"{module}.{name}"
    return None


def names_used(code: str) -> Iterator[list[str]]:
    """What Python code takes from the package, as ``[["training", "train"], ...]``."""
    tree = ast.parse(code)
    aliases = {"cb": list[str](), PACKAGE: list[str]()}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            place = (node.module or "").split(".")[1:]
            for name in node.names:
                yield [*place, name.name]
                aliases[name.asname or name.name] = [*place, name.name]
        elif isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == PACKAGE:
                    yield name.name.split(".")[1:]
    for node in ast.walk(tree):
        chain = list[str]()
        place_of: ast.expr | ast.AST = node
        while isinstance(place_of, ast.Attribute):
            chain.insert(0, place_of.attr)
            place_of = place_of.value
        if chain and isinstance(place_of, ast.Name) and place_of.id in aliases:
            yield [*aliases[place_of.id], *chain]


def private_names(document: Path) -> list[str]:
    found = []
    for block in blocks_of(document):
        if block.language in ("python", "py"):
            found += [f"line {block.line}: {bad}" for names in names_used(block.text) if (bad := private_part(names))]
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        for match in DOTTED.finditer(line):
            if bad := private_part(match[1][1:].split(".")):
                found.append(f"line {number}: {bad}")
    return sorted(set(found))


@pytest.mark.parametrize("document", DOCUMENTS, ids=document_ids)
def test_documents_use_public_names_only(document: Path) -> None:
    need_source_tree()
    if document.name == "CHANGELOG.md":
        return  # it says what moved, and from where
    assert private_names(document) == [], f"{document.name} uses what is in no __all__"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`cb.training.train` and `cb.bundle_entropy(acts)` are public", []),
        ("`cbkernels.no_such_name`", ["line 1: cbkernels.no_such_name"]),
        ("`cb.UpdateGrid.from_optimizer` is a method of what is public", []),
        ("```python\nfrom cbkernels.grid import UpdateGrid\n```", ["line 2: cbkernels.grid"]),
        ("```python\nfrom cbkernels import grid as g\nprint(g.UpdateGrid)\n```", ["line 2: cbkernels.grid"]),
        ("```python\nimport cbkernels as cb\ncb.training.config.check(1)\n```",
         ["line 2: cbkernels.training.config", "line 3: cbkernels.training.config"]),
        ("a file, cbkernels/grid.py, is no name", []),
    ],
)  # fmt: skip
def test_a_private_name_is_found(text: str, expected: list[str], tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(text + "\n")
    assert private_names(document) == expected


def test_every_public_name_can_be_had() -> None:
    for module in (PACKAGE, f"{PACKAGE}.training", f"{PACKAGE}.integrations"):
        names = all_of_module(module)
        assert names, module
        assert names == sorted(names), module
    assert {*public_names()} <= {*cbkernels.__all__}
