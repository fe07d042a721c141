"""The code as a thing: versions, names, types, docstrings, sizes and examples agree with each other."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import cbkernels as cb
from cbkernels import _core, arrays, backends, grid

PACKAGE = Path(cb.__file__).parent
ROOT = Path(__file__).resolve().parents[2]
TESTS = Path(__file__).resolve().parents[1]
IN_SOURCE_TREE = (ROOT / "pyproject.toml").is_file() and (ROOT / "csrc").is_dir()
FORBIDDEN = ("util", "helper", "common", "misc", "manager")
LONGEST_FUNCTION = 60

source_tree = pytest.mark.skipif(not IN_SOURCE_TREE, reason="the source tree: NOT TESTED HERE (only tests/ is here)")
WITHOUT_TORCH = [
    "arrays", "backends", "bundle", "device_arrays", "entropy", "gpu_row_store", "grid", "reference",
    "result", "row_store", "tallies", "streaming", "training.__init__", "training.config", "training.shrinking",
    "training.policies", "training.healings", "training.loop.optimizers", "filters.criteria", "installation", "choices",
    "surgery.pruning.block_rankings", "surgery.pruning.strategies",
    *(f"training.networks.{name}" for name in ("architecture", "kinds", "weights")),
    *(f"files.{name}" for name in (
        "csv_files", "folder_lock", "folders", "json_files", "tensor_files", "typed_json", "whole_files",
    )),
    *(f"findings.{name}" for name in ("history", "layer_report", "records", "tables")),
    *(f"drawing.{name}" for name in ("block_figures", "figures", "history_figures", "layer_figures")),
    *(f"page.{name}" for name in ("architectures", "facts", "figures", "run_page", "sections", "tables")),
    *(f"training.data.{name}" for name in ("augmentation", "data_sets", "hub_data_sets", "image_files",
                                            "image_pixels", "sources")),
    *(f"runs.{name}" for name in ("clean_text", "folder", "reader", "record", "schema", "stored_runs")),
    *(f"commands.{name}" for name in ("autotune", "config_options", "demo", "info", "measure", "remove", "report",
                                      "train")),
]  # fmt: skip


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def python_files() -> list[Path]:
    folders = [ROOT / "cbkernels", ROOT / "tests", ROOT / "bench"] if IN_SOURCE_TREE else [PACKAGE, TESTS]
    return sorted(p for folder in folders for p in folder.rglob("*.py") if "__pycache__" not in p.parts)


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(parsed(path)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


# --- versions -------------------------------------------------------------------------------------


def test_versions_agree() -> None:
    assert cb.__version__ == _core.version
    assert re.fullmatch(r"\d+\.\d+\.\d+([a-z.]+\d*)?", cb.__version__)
    assert cb.bundle_entropy([[1.0]], [0]).version == cb.__version__


@source_tree
def test_version_is_written_once() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in pyproject
    assert 'input = "cbkernels/_version.py"' in pyproject
    assert not re.search(r"^version\s*=", pyproject, re.MULTILINE)
    changelog = ROOT / "CHANGELOG.md"
    assert re.search(rf"^##.*({re.escape(cb.__version__)}|[Uu]nreleased)", changelog.read_text("utf-8"), re.MULTILINE)
    for path in (ROOT / "csrc").rglob("*.cpp"):
        assert f'"{cb.__version__}"' not in path.read_text(encoding="utf-8"), path


# --- the compiled module and what Python believes of it --------------------------------------------


def test_types_are_numbered_alike() -> None:
    """A swapped code would show: each type reads a pattern that only it reads so."""
    import numpy as np

    from ..inputs import numpy_type

    assert _core.build_info()["num_dtypes"] == len(arrays.DTYPES)
    for code, dtype in enumerate(arrays.DTYPES):
        if dtype == "bool":
            continue
        # 0xFF bytes: NaN in floats, -1 or the largest in integers; the distance to 1 tells the others apart
        one = np.array([[1]]).astype(numpy_type(dtype))
        ones = np.full((1, one.itemsize), 0xFF, np.uint8).view(numpy_type(dtype))
        acts = np.concatenate([one, ones])
        rows = arrays.as_rows(acts)
        assert (rows.code, rows.dtype) == (code, dtype)
        expected = np.inf if code < 6 else float(abs(int(ones[0, 0]) - 1))
        assert cb.conflict_margin(acts, [0, 1]) == expected, dtype


@source_tree
def test_types_are_listed_in_the_same_order_in_the_source() -> None:
    text = (ROOT / "csrc" / "views.h").read_text(encoding="utf-8")
    names = re.findall(r"\w+", re.search(r"enum class DType : int \{(.*?)\};", text, re.DOTALL)[1])  # type: ignore[index]
    assert tuple(names) == (*arrays.DTYPES[:-1], "boolean")
    text = (ROOT / "csrc" / "update_grid.h").read_text(encoding="utf-8")
    names = re.findall(r"\w+", re.search(r"enum class GridKind : int \{(.*?)\}", text)[1])  # type: ignore[index]
    assert tuple(names) == ("none", *grid.GRID_DTYPES)


def _stub() -> ast.Module:
    path = PACKAGE / "_core.pyi"
    if not path.is_file():
        pytest.fail("the package holds no _core.pyi")
    return ast.parse(path.read_text(encoding="utf-8"))


def _promised_by_stub() -> dict[str, dict[str, ast.FunctionDef | None]]:
    """module, cpu and cuda -> name -> the function, None for a plain value."""
    tree = _stub()
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    promised: dict[str, dict[str, ast.FunctionDef | None]] = {"module": {}}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            promised["module"][node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            promised["module"][node.target.id] = None
            if isinstance(node.annotation, ast.Name) and node.annotation.id in classes:
                methods = classes[node.annotation.id].body
                promised[node.target.id] = {n.name: n for n in methods if isinstance(n, ast.FunctionDef)}
    assert set(promised) == {"module", "cpu", "cuda"}
    return promised


def test_stub_names_what_the_module_holds() -> None:
    for part, promised in _promised_by_stub().items():
        owner = _core if part == "module" else getattr(_core, part)
        assert set(promised) == {name for name in vars(owner) if not name.startswith("_")}, part


def test_stub_takes_as_many_arguments_as_the_module() -> None:
    for part, promised in _promised_by_stub().items():
        owner = _core if part == "module" else getattr(_core, part)
        for name, function in promised.items():
            if function is None:
                continue
            names = [a.arg for a in function.args.args if a.arg != "self"]
            signature = (getattr(owner, name).__doc__ or "").splitlines()[0]
            given = signature[signature.index("(") + 1 : signature.rindex(") ->")]
            count = len(re.findall(r"\w+: ", given))
            assert count == len(names), f"{part}.{name}: {signature}"


def test_stand_in_takes_the_arguments_of_the_stub() -> None:
    """The tests' own cuda half (``cuda_stand_in.py``) would otherwise drift from the real one."""
    from ..cuda_stand_in import CudaHalf

    for name, function in _promised_by_stub()["cuda"].items():
        if function is not None and hasattr(CudaHalf, name):
            mine = list(inspect.signature(getattr(CudaHalf, name)).parameters)
            assert mine == [a.arg for a in function.args.args], name


# --- the public face ------------------------------------------------------------------------------


def public_names() -> dict[str, Any]:
    """Everything in ``cb.__all__``; without torch what needs none (``test_without_torch.py`` has the others)."""
    found = {}
    for name in cb.__all__:
        try:
            found[name] = getattr(cb, name)
        except ImportError:
            assert importlib.util.find_spec("torch") is None
    return found


def public_objects() -> list[tuple[str, Any]]:
    found = []
    for name, thing in public_names().items():
        if not (inspect.isclass(thing) or inspect.isfunction(thing)):
            continue
        found.append((name, thing))
        if inspect.isclass(thing):
            for attribute, value in vars(thing).items():
                plain = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                if not attribute.startswith("_") and inspect.isfunction(plain):
                    found.append((f"{name}.{attribute}", plain))
    return found


@pytest.mark.parametrize(("name", "thing"), public_objects(), ids=[n for n, _ in public_objects()])
def test_public_names_have_docstrings_and_types(name: str, thing: Any) -> None:
    assert inspect.getdoc(thing), f"{name} has no docstring"
    if inspect.isclass(thing):
        return
    signature = inspect.signature(thing)
    assert signature.return_annotation is not inspect.Signature.empty, f"{name} does not say what it returns"
    documented = inspect.getdoc(thing) or ""
    arguments = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    for parameter in arguments:
        assert parameter.annotation is not inspect.Parameter.empty, f"{name}: {parameter.name} has no type"
        if len(arguments) > 1 and "." not in name:
            assert f"{parameter.name}:" in documented, f"{name}: {parameter.name} is not explained"


def test_all_is_sorted_and_complete() -> None:
    assert list(cb.__all__) == sorted(cb.__all__)
    assert public_names()
    assert (PACKAGE / "py.typed").is_file()


def test_every_public_function_has_an_example() -> None:
    for name, thing in public_objects():
        if "." not in name and name != "BundleResult":
            assert ">>>" in (inspect.getdoc(thing) or ""), name


def test_backends_keep_the_protocol() -> None:
    promised = [n for n in vars(backends.Backend) if not n.startswith("_") and n != "name"]
    assert set(promised) == {
        "takes", "require", "count_bundles", "count_layers", "bundle_ids", "row_fingerprints", "conflict_margin",
        "queue_layers", "queue_margin",
    }  # fmt: skip
    for name, backend in backends.TABLE.items():
        assert backend.name == name
        for method in promised:
            mine = list(inspect.signature(getattr(backend, method)).parameters)
            theirs = list(inspect.signature(getattr(backends.Backend, method)).parameters)[1:]
            assert mine == theirs, (name, method)


# --- the house rules ------------------------------------------------------------------------------


def test_no_names_that_say_nothing() -> None:
    files = python_files()
    if IN_SOURCE_TREE:
        files += [p for p in (ROOT / "csrc").rglob("*") if p.is_file()]
    for path in files:
        words = re.split(r"[_\W]+", "/".join(path.relative_to(ROOT if IN_SOURCE_TREE else path.parent).parts).lower())
        assert not [w for w in words for bad in FORBIDDEN if w in (bad, f"{bad}s")], path


def test_functions_are_short() -> None:
    long = [
        f"{path.name}: {function.name} has {function.end_lineno - function.lineno + 1} lines"
        for path in python_files()
        for function in functions_of(path)
        if function.end_lineno is not None and function.end_lineno - function.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not long


def test_random_cases_may_take_their_time() -> None:
    """Hypothesis's limit of 0.2 s a case fails on a busy machine only."""
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        assert len(re.findall(r"^@given\(", text, re.MULTILINE)) <= text.count("deadline=None"), path.name


def test_files_begin_with_a_short_docstring() -> None:
    for path in python_files():
        if not parsed(path).body:
            continue
        assert ast.get_docstring(parsed(path)), f"{path} has no docstring"
        first = parsed(path).body[0]
        assert isinstance(first, ast.Expr)
        assert (first.end_lineno or 0) - first.lineno + 1 <= 10, f"{path}: the docstring is longer than a header"


@source_tree
def test_compiled_files_begin_with_a_comment_and_have_short_lines() -> None:
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix not in (".cpp", ".h", ".cu", ".cuh"):
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        assert max(map(len, lines)) <= 120, path
        if path.suffix in (".h", ".cuh"):
            assert lines[0].startswith("//"), f"{path} does not say what it is"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_nothing_but_numpy_is_imported_at_the_top(module: str) -> None:
    """So that `import cbkernels` needs nothing else: torch and the rest are imported where they are used."""
    allowed = {"numpy", *sys.stdlib_module_names}
    for node in ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
        assert {n.split(".")[0] for n in names} <= allowed
