"""Imports point one way through the rooms of the package, in no circle, and take no private name along.

Late imports and those for type checkers count too: whoever reads a file has to know what they name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

import cbkernels

PACKAGE = Path(cbkernels.__file__).parent
ORDER = (
    ("_version", "_core"),
    ("grid", "learning_rates", "entropy", "result", "choices", "lazy"),
    ("arrays", "options", "stream_keys"),
    ("reference", "device_arrays", "row_store"),
    ("backends", "gpu_row_store"),
    ("torch_operators", "bundle", "held_rows", "streaming", "distributed", "tallies"),
    ("files", "tables", "wording", "installation", "latencies", "ranks"),
    ("drawing",),
    ("findings",),
    ("models",),
    ("surgery",),
    ("filters",),
    ("runs",),
    ("training",),
    ("page",),
    ("commands",),
    ("integrations",),
    ("stopping", "command_line", "__main__", "cbkernels"),
)
"""Rooms and root modules, lowest first; imports point to the same line or a lower one. "cbkernels": its __init__.py."""
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
PUBLIC_ALL_THE_SAME = {"_core", "_version"}


@dataclass(frozen=True)
class Import:
    """One name that a module imports from the package, or takes from a module of it."""

    by: str
    of: str
    """The imported module, or the one that holds the name."""
    name: str = ""
    """What is taken from it; "" is the module itself."""


def module_name(path: Path, package: Path) -> str:
    """``findings.history``; the package's own ``__init__.py`` is ``cbkernels``, a room's is the room."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "cbkernels"


def imports_of(package: Path) -> Iterator[Import]:
    """Every import of something in the package, wherever it stands, and every ``module._name`` of one."""
    paths = {module_name(path, package): path for path in sorted(package.rglob("*.py"))}
    modules = {*paths, "_core"}
    for by, path in paths.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        folder = [] if by == "cbkernels" else by.split(".") if path.name == "__init__.py" else by.split(".")[:-1]
        called: dict[str, str] = {}
        for node in ast.walk(tree):
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                where = _module_of(node, folder)
                if where is None:
                    continue
                inner = f"{where}.{alias.name}".lstrip(".")
                if inner in modules:
                    called[alias.asname or alias.name] = inner
                    yield Import(by, inner)
                else:
                    yield Import(by, where or "cbkernels", alias.name)
            for alias in node.names if isinstance(node, ast.Import) else ():
                if alias.name.partition(".")[0] == "cbkernels":
                    yield Import(by, alias.name.partition(".")[2] or "cbkernels")
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in called:
                yield Import(by, called[node.value.id], node.attr)


def _module_of(node: ast.ImportFrom, folder: list[str]) -> str | None:
    """The module after ``from``, "" for the package itself; None: of another package."""
    name = node.module or ""
    if node.level:
        return ".".join([*folder[: len(folder) - node.level + 1], *([name] if name else [])])
    return name.partition(".")[2] if name.partition(".")[0] == "cbkernels" else None


def unknown_rooms(package: Path) -> set[str]:
    """Rooms and root modules that the order does not name."""
    return {room_of(module_name(path, package)) for path in package.rglob("*.py")} - {*RANK}


def wrong_order(package: Path) -> set[tuple[str, str]]:
    """(by, of) of imports that point to a higher line of the order."""
    pairs = {(each.by, each.of) for each in imports_of(package)}
    return {(by, of) for by, of in pairs if RANK.get(room_of(by), -1) < RANK.get(room_of(of), -1)}


def room_of(module: str) -> str:
    """The room of a module, or the module itself where it is in none."""
    return module.partition(".")[0]


def private_names(package: Path) -> set[tuple[str, str]]:
    """(by, module.name) of names with an underscore that belong to another module."""
    return {
        (each.by, f"{each.of}.{each.name}")
        for each in imports_of(package)
        if each.name.startswith("_") and not each.name.startswith("__") and each.of != each.by
        if room_of(each.of) not in PUBLIC_ALL_THE_SAME
    }


def circles(package: Path) -> set[tuple[str, str]]:
    """(by, of) of imports from which other imports lead back."""
    targets: dict[str, set[str]] = {}
    for each in imports_of(package):
        targets.setdefault(each.by, set()).add(each.of)

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = targets.get(waiting.pop(), set()) - found
            found |= new
            waiting += new
        return found

    from_module = {module: reached(module) for module in targets}
    return {(by, of) for by, some in targets.items() for of in some if by in from_module.get(of, set())}


LAWS = {"circle": circles, "order": wrong_order, "private": private_names}


def test_every_room_is_in_the_order() -> None:
    assert not unknown_rooms(PACKAGE)
    rooms = {room_of(module_name(path, PACKAGE)) for path in PACKAGE.rglob("*.py")}
    assert not {*RANK} - rooms - {"_core"}, "rooms that are gone"


@pytest.mark.parametrize("law", LAWS)
def test_the_package_keeps_the_law(law: str) -> None:
    assert not LAWS[law](PACKAGE)


# --- planted faults -------------------------------------------------------------------------------


def planted(folder: Path, **files: str) -> Path:
    """A package of these modules; two underscores in a name are a folder."""
    for name, text in {"__init__": "", **files}.items():
        path = folder / "cbkernels" / (f"{name.replace('__', '/')}.py" if name != "__init__" else "__init__.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "cbkernels"


LATE = "def f():\n    {}\n"
TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}\n"


@pytest.mark.parametrize("frame", ["{}\n", LATE, TYPES])
def test_a_circle_is_found(tmp_path: Path, frame: str) -> None:
    package = planted(
        tmp_path,
        bundle="from . import streaming\n",
        streaming="from .distributed import compute\n",
        distributed=frame.format("from .bundle import bundle_rows"),
        backends="from .grid import UpdateGrid\n",
        grid="",
    )
    ring = ["bundle", "streaming", "distributed", "bundle"]
    assert circles(package) == {*pairwise(ring)}
    assert not wrong_order(package)


@pytest.mark.parametrize("frame", ["{}\n", LATE, TYPES])
def test_an_import_against_the_order_is_found(tmp_path: Path, frame: str) -> None:
    package = planted(
        tmp_path,
        drawing__figures=frame.format("from ..findings.history import History"),
        findings__history="from ..drawing import figures\nfrom .. import grid\n",
        grid=frame.format("import cbkernels.backends") + "from . import __version__\n",
        backends="",
    )
    expected = {("drawing.figures", "findings.history"), ("grid", "backends"), ("grid", "cbkernels")}
    assert wrong_order(package) == expected


@pytest.mark.parametrize(
    "text",
    [
        "from .backends import _Cuda\n",
        "from cbkernels.backends import _Cuda as Cuda\n",
        "from . import backends as b\nisinstance(0, b._Cuda)\n",
        "def f():\n    from cbkernels import backends\n    return backends._Cuda\n",
    ],
)
def test_a_private_name_is_found(tmp_path: Path, text: str) -> None:
    package = planted(
        tmp_path, streaming=f"from . import _core\nfrom ._version import __version__\n_core._x\n{text}", backends=""
    )
    assert private_names(package) == {("streaming", "backends._Cuda")}


def test_a_room_without_a_place_is_found(tmp_path: Path) -> None:
    assert unknown_rooms(planted(tmp_path, grid="", attic__old="", cellar="")) == {"attic", "cellar"}
