"""`make release-wheel` leaves the wheel that auditwheel tagged, or says why it cannot; `make test-debian` likewise."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILT, TAGGED = (f"cbkernels-1-cp311-cp311-{tag}_x86_64.whl" for tag in ("linux", "manylinux_2_28"))
# in the place of the venv's Python: pip, which may fail, and auditwheel
PYTHON = f"""#!/bin/sh
echo "$*" >>asked
case "$*" in
*"pip install"*) mkdir -p build/auditwheel; exit "$PIP_STATUS" ;;
*"auditwheel repair"*) touch dist/{TAGGED} ;;
esac
"""

pytestmark = pytest.mark.skipif(
    not (ROOT / "Makefile").is_file() or not shutil.which("make"),
    reason="make release-wheel: NOT TESTED HERE (no source tree, or no make)",
)


def release_wheel(tmp_path: Path, pip_status: int) -> subprocess.CompletedProcess[str]:
    """As in a clone whose wheel is built already."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for folder in ("csrc", "tests/emulation", "dist", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dist" / BUILT).touch()
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    done_already = ["-o", "wheel", "-o", ".venv/stamps/python"]
    return subprocess.run(
        ["make", "release-wheel", *done_already], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "PIP_STATUS": str(pip_status)},
    )  # fmt: skip


def test_only_the_tagged_wheel_is_left(tmp_path: Path) -> None:
    done = release_wheel(tmp_path, pip_status=0)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "dist").iterdir()] == [TAGGED]
    asked = (tmp_path / "asked").read_text()
    assert f"auditwheel show dist/{BUILT}" in asked, "which symbols set the tag is shown"


def test_without_auditwheel_there_is_no_release_wheel(tmp_path: Path) -> None:
    done = release_wheel(tmp_path, pip_status=1)
    assert done.returncode != 0
    assert "auditwheel is MISSING" in done.stdout
    assert "NO RELEASE WHEEL" in done.stdout
    assert not (tmp_path / "build" / "auditwheel" / "installed").exists(), "the next call tries again"
    assert [path.name for path in (tmp_path / "dist").iterdir()] == [BUILT]


def test_another_debian_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    for command in ("bash", "dirname", "find", "head", "id"):  # and no debootstrap
        (tmp_path / command).symlink_to(str(shutil.which(command)))
    done = subprocess.run(
        [ROOT / "tests" / "wheel" / "debian.sh", tmp_path, "trixie"], env={"PATH": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Debian trixie: NOT TESTED HERE (needs root, and debootstrap")
