"""What an installation promises: it imports little, links little, is complete, and fails in one sentence."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest

import cbkernels
from cbkernels import _core

PACKAGE = Path(cbkernels.__file__).parent
MODULE = Path(_core.__file__)


def run_python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


# --- without a usable compiled module -------------------------------------------------------------


def source_folder(tmp_path: Path) -> Path:
    """A copy of the package's Python files, as in a fresh clone, in a folder of its own."""
    copy = tmp_path / "cbkernels"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("_core.*", "__pycache__"))
    return copy


def import_alone(copy: Path) -> str:
    """The last line that importing this copy prints; -I -S keeps every installed copy out of the way."""
    numpy_folder = str(Path(np.__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {str(copy.parent)!r}); sys.path.append({numpy_folder!r})"
    done = run_python(f"{code}; import cbkernels", "-I", "-S")
    assert done.returncode == 1, done.stderr
    assert "During handling" not in done.stderr, "one error, not a chain of them"
    assert "direct cause" not in done.stderr, "one error, not a chain of them"
    return done.stderr.strip().splitlines()[-1]


def test_source_folder_without_the_module_is_one_sentence(tmp_path: Path) -> None:
    last = import_alone(source_folder(tmp_path))
    assert last.startswith(f"ImportError: cbkernels in {tmp_path / 'cbkernels'} has no usable compiled module")
    assert "pip install ." in last
    assert "in another folder: in this one the sources hide what is installed" in last
    assert "circular" not in last, "Python's guess is wrong"


def test_the_command_works_in_a_clone(tmp_path: Path) -> None:
    """Its script is elsewhere, and so the folder in which it is started does not hide the installed package."""
    source_folder(tmp_path)
    script = tmp_path / "bin" / "cbkernels"
    script.parent.mkdir()
    script.write_text("from cbkernels.__main__ import main\nmain()\n")
    done = subprocess.run(
        [sys.executable, script, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == f"cbkernels {cbkernels.__version__}\n", done.stderr


# --- what is said to install ------------------------------------------------------------------------

FROM_AN_INDEX = re.compile(r"""pip3? install[^\n`;|]*?[\s'"]cbkernels(?![\w/-])""")
"""cbkernels by its name, which no index of packages has before the first release; a clone's folder is ``.``"""


@pytest.mark.parametrize(
    "line", ["pip install cbkernels", "pip install -U 'cbkernels[plot]'", 'pip install torch "cbkernels>=0.1"']
)
def test_a_line_that_cannot_be_followed_is_found(line: str) -> None:
    assert FROM_AN_INDEX.search(f"first `{line}` and then")


def test_nothing_says_to_install_what_is_not_released() -> None:
    """Until there is a release, documents, messages and notebooks name the clone, or the package that is missing."""
    root = Path(__file__).resolve().parents[2]
    texts = [*PACKAGE.rglob("*.py"), *root.glob("*.md"), *(root / "tests").rglob("*.py")]
    texts += [
        *root.glob("docs/**/*.md"),
        *root.glob("examples/*.ipynb"),
        *root.glob("csrc/**/*.[ch]*"),
        *root.glob("bench/**/*.py"),
    ]
    found = [path.name for path in texts if path != Path(__file__) and FROM_AN_INDEX.search(path.read_text("utf-8"))]
    assert found == []


def test_damaged_module_is_one_sentence(tmp_path: Path) -> None:
    copy = source_folder(tmp_path)
    (copy / MODULE.name).write_bytes(b"this is no library")
    last = import_alone(copy)
    assert last.startswith("ImportError: cbkernels in")
    assert "pip install ." in last


def test_module_of_another_python_is_one_sentence(tmp_path: Path) -> None:
    copy = source_folder(tmp_path)
    shutil.copy(MODULE, copy / "_core.cpython-399-x86_64-linux-gnu.so")
    assert import_alone(copy).startswith("ImportError: cbkernels in")


def test_module_of_another_version_is_one_sentence(tmp_path: Path) -> None:
    # an old module lacks whatever is new: the version must be looked at before anything else of it
    copy = source_folder(tmp_path)
    (copy / "_core.py").write_text("version = '0.0.1'\n")
    last = import_alone(copy)
    assert last.startswith(f"ImportError: cbkernels is version {cbkernels.__version__}")
    assert "0.0.1" in last
    assert "pip install ." in last


def test_versions_agree() -> None:
    assert cbkernels.__version__ == _core.version == importlib.metadata.version("cbkernels")


# --- what importing costs -------------------------------------------------------------------------

ONLY_NUMPY = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        # org: the standard library asks for Jython's classes
        if top in sys.stdlib_module_names or top in {"numpy", "cbkernels", "org"}:
            return None
        refused.append(name)
        raise ModuleNotFoundError(f"{name} must not be needed", name=name)

refused = []
already = {name.partition(".")[0] for name in sys.modules}
sys.meta_path.insert(0, Refuse())
"""


def test_import_and_measuring_need_numpy_only() -> None:
    done = run_python(
        ONLY_NUMPY
        + """
import numpy as np
before = len(refused)
import cbkernels as cb
r = cb.bundle_entropy(np.zeros((4, 3), np.float32), np.array([0, 0, 1, 1]))
assert (r.num_bundles, r.num_conflicting) == (1, 1)
assert cb.bundle_rows(np.eye(3)).tolist() == [0, 1, 2]
metric = cb.BundleEntropy()
metric.update(np.eye(3), np.arange(3))
assert metric.compute().num_bundles == 3
assert cb.conflict_margin(np.eye(2), np.arange(2)) == 1.0
brought = {name.partition(".")[0] for name in sys.modules} - already - set(sys.stdlib_module_names)
# NumPy may look for optional packages of its own; ours may not
print(sorted(brought), refused[before:])
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['cbkernels', 'numpy'] []"


@pytest.mark.parametrize("arguments", [["--help"], ["info"], ["info", "--json"], ["measure", "--help"]])
def test_command_line_starts_without_torch_and_matplotlib(arguments: list[str]) -> None:
    done = run_python(
        ONLY_NUMPY
        + f"""
from cbkernels.command_line import main
try:
    status = main({arguments!r})
except SystemExit as end:
    status = end.code
assert not status, status
"""
    )
    assert done.returncode == 0, done.stderr
    assert "cbkernels" in done.stdout


def test_importing_leaves_the_process_as_it_was() -> None:
    done = run_python(
        """
import os, signal, sys, threading, warnings
import numpy

def state():
    tasks = os.listdir("/proc/self/task") if os.path.exists("/proc/self/task") else []
    return (dict(os.environ), threading.active_count(), len(tasks), list(warnings.filters),
            signal.getsignal(signal.SIGINT), numpy.geterr(), sys.getrecursionlimit(), list(sys.path))

before = state()
import cbkernels
assert state() == before, (before, state())
"""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


# --- what the module links ------------------------------------------------------------------------


def test_module_links_the_cpp_runtime_only() -> None:
    ldd = shutil.which("ldd")
    if ldd is None or not sys.platform.startswith("linux"):
        pytest.skip("linked libraries: NOT TESTED HERE (no ldd)")
    listed = subprocess.run([ldd, str(MODULE)], capture_output=True, text=True, check=True).stdout
    libraries = {line.split()[0].rpartition("/")[2] for line in listed.splitlines() if line.split()}
    names = {re.split(r"\.so|-linux|\.1$", library)[0] for library in libraries}
    allowed = {
        "linux-vdso",
        "linux",
        "ld",
        "libc",
        "libm",
        "libstdc++",
        "libgcc_s",
        "libpthread",
        "libdl",
        "librt",
    }
    assert names <= allowed, f"no torch, CUDA, OpenMP or Python library may be linked: {sorted(libraries)}"
    assert "not found" not in listed


def test_type_information_is_installed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_core.pyi").is_file()


# --- what the archives hold -----------------------------------------------------------------------


def archive(variable: str) -> Path:
    path = os.environ.get(variable, "")
    if not path:
        pytest.skip(f"{variable}: NOT TESTED HERE (`make test-wheel` builds it and names it)")
    assert Path(path).is_file(), f"{variable}={path} is no file"
    return Path(path)


def test_wheel_is_complete_and_holds_nothing_else() -> None:
    with zipfile.ZipFile(archive("CBKERNELS_WHEEL")) as wheel:
        assert wheel.testzip() is None
        names = {name for name in wheel.namelist() if not name.endswith("/")}  # auditwheel lists folders, too
        size = sum(info.file_size for info in wheel.infolist())
        information = f"cbkernels-{cbkernels.__version__}.dist-info"
        metadata = Parser().parsestr(wheel.read(f"{information}/METADATA").decode())
        scripts = wheel.read(f"{information}/entry_points.txt").decode()

    assert {"cbkernels/py.typed", "cbkernels/_core.pyi", "cbkernels/__main__.py"} <= names
    assert [n for n in names if n.startswith(information) and n.endswith("/LICENSE")], names
    assert {name.partition("/")[0] for name in names} == {"cbkernels", information}
    installed = {p.relative_to(PACKAGE.parent).as_posix() for p in PACKAGE.rglob("*") if p.is_file()}
    installed = {p for p in installed if "__pycache__" not in p}
    assert {n for n in names if n.startswith("cbkernels/")} == installed
    assert len([n for n in names if n.endswith((".so", ".dylib", ".pyd"))]) == 1
    assert not [n for n in names if n.endswith((".cpp", ".cu", ".h", ".o", ".pyc", ".npz.tmp"))]
    assert [n for n in names if n.startswith("cbkernels/data/")], "the digits table is part of the package"
    assert size < 15_000_000, "unpacked; kernels of every kind of element for five architectures are most of it"

    required = [r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r]
    assert required == ["numpy"]
    assert metadata["Version"] == cbkernels.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert "cbkernels = cbkernels.__main__:main" in scripts.replace("=cb", "= cb")


def test_source_archive_is_complete_and_holds_nothing_else() -> None:
    with tarfile.open(archive("CBKERNELS_SDIST")) as sdist:
        names = {m.name.partition("/")[2] for m in sdist.getmembers() if m.isfile()}
        size = sum(m.size for m in sdist.getmembers())
    needed = {"CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "Makefile", "csrc/module.cpp"}
    needed |= {
        "csrc/no_cuda/cuda.cpp",
        "csrc/cuda/group_rows.cu",
        "csrc/cuda/device.h",
        "cbkernels/_version.py",
        "cbkernels/py.typed",
        "tests/house/test_install.py",
    }
    assert needed <= names
    tops = {name.partition("/")[0] for name in names}
    assert not tops & {"build", "dist", "runs", ".venv", ".ci", ".git"}, sorted(tops)
    assert not [n for n in names if n.endswith((".so", ".pyc", ".o"))]
    assert size < 15_000_000, "unpacked; kernels of every kind of element for five architectures are most of it"
