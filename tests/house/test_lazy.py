"""Packages whose names are imported when they are asked for: which names, for whom, and without torch what is said."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import cbkernels
from cbkernels import lazy

from .test_without_torch import said

PACKAGES = ["cbkernels", "cbkernels.integrations", "cbkernels.training"]


def names_in(tree: ast.Module) -> dict[str, list[str]]:
    """The table that a package hands to ``lazy.attributes``."""
    (call,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "lazy.attributes"]
    table: dict[str, list[str]] = ast.literal_eval(call.args[1])
    return table


def names_for_checkers(tree: ast.Module) -> dict[str, list[str]]:
    """The same from the imports below ``if TYPE_CHECKING``."""
    table: dict[str, list[str]] = {}
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        where = "." * node.level + node.module if node.module else ""
        table.setdefault(where, []).extend(alias.name for alias in node.names)
    return table


@pytest.mark.parametrize("package", PACKAGES)
def test_what_python_finds_is_what_mypy_sees_and_what_is_public(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    found = names_in(tree)
    assert found == names_for_checkers(tree)
    assert sorted(name for names in found.values() for name in names) == sorted({*module.__all__} - {"__version__"})
    assert {*module.__all__} <= {*dir(module)}
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'bundel'"):
        _ = module.bundel


def test_a_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(cbkernels), "bundle_rows", raising=False)
    first = cbkernels.bundle_rows
    monkeypatch.setattr(lazy, "import_module", None)
    assert cbkernels.bundle_rows is first


def test_importing_the_package_imports_not_even_numpy() -> None:
    code = "import sys, cbkernels; print(sorted({'numpy', 'torch'} & set(sys.modules)), 'training' in dir(cbkernels))"
    assert run_alone(code) == "[] True\n"


def run_alone(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("{'.model': ['Model']}", "Model needs torch: pip install torch"),
        ("{'': ['model']}", "model needs torch: pip install torch"),
        ("{'.model': ['Model']}, 'training with {} needs torch'", "training with Model needs torch"),
    ],
)
def test_a_module_that_imports_torch_at_its_top_says_what_to_install(tmp_path: Path, table: str, sentence: str) -> None:
    (tmp_path / "planted").mkdir()
    (tmp_path / "planted" / "__init__.py").write_text(
        f"from cbkernels import lazy\n__getattr__, __dir__ = lazy.attributes(__name__, {table})\n", encoding="utf-8"
    )
    (tmp_path / "planted" / "model.py").write_text("import torch\nModel = torch.nn.Module\n", encoding="utf-8")
    name = sentence.partition(" needs")[0].rpartition(" ")[2]
    out = said(f"""
sys.path.insert(0, {str(tmp_path)!r})
import planted
try:
    planted.{name}
except ImportError as error:
    print(error)
""")
    assert out == f"{sentence}\n"


def test_another_package_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_too").mkdir()
    (tmp_path / "planted_too" / "__init__.py").write_text(
        "from cbkernels import lazy\n__getattr__, __dir__ = lazy.attributes(__name__, {'': ['model']})\n", "utf-8"
    )
    (tmp_path / "planted_too" / "model.py").write_text("import not_there\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there'"):
        _ = importlib.import_module("planted_too").model
