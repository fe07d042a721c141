"""The JSON of one run: what was measured, on which machine, from which commit; written aside and renamed."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

import cbkernels
from cbkernels import _core

from .limits import limits

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
MEASURED_CODE = ("csrc", "cbkernels", "bench", "CMakeLists.txt", "pyproject.toml", ":!bench/results")

written: Path | None = None
"""Where the latest run of this process went."""
written_is_publishable = False
"""It is complete and BENCH was full."""


def write(cases: list[dict[str, Any]], *, complete: bool, seconds: float) -> Path:
    global written, written_is_publishable
    now = datetime.datetime.now(datetime.timezone.utc)
    content = {
        "format": 1, "date": now.isoformat(timespec="seconds"), "commit": commit(), "mode": limits().mode,
        "complete": complete, "seconds": round(seconds, 1), "machine": machine(), "build": _core.build_info(),
        "versions": versions(), "flush_bytes": flush_bytes(), "cases": cases,
    }  # fmt: skip
    mark = "" if limits().mode == "full" else f"-{limits().mode}"
    mark += "" if complete else "-partial"
    name = f"{now:%Y-%m-%d}-cpu-{content['commit']['short']}{mark}.json"
    folder = Path(tempfile.gettempdir()) if limits().mode == "tiny" else RESULTS
    path = Path(os.environ.get("BENCH_OUT") or folder / name)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(json.dumps(content, indent=1, default=str) + "\n")
    os.replace(aside, path)
    written, written_is_publishable = path, complete and limits().mode == "full"
    return path


def commit() -> dict[str, Any]:
    """Commit and whether the measured code differs from it; BENCH_COMMIT names that of another package."""
    if named := os.environ.get("BENCH_COMMIT"):
        return {"full": named, "short": named[:8], "dirty": False}
    full = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", *MEASURED_CODE)
    return {"full": full, "short": (full or "nocommit")[:8], "dirty": changed is None or changed != ""}


def machine() -> dict[str, Any]:
    """Processor, caches, memory; nothing that names the computer."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return {
        "cpu": _cpu_model(), "cores": os.cpu_count(), "cores_usable": affinity, "caches": _caches(),
        "memory_bytes": memory, "system": platform.system(), "architecture": platform.machine(),
        "page_bytes": os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None,
        "huge_pages": _first_line("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }  # fmt: skip


def versions() -> dict[str, str]:
    return {
        "cbkernels": cbkernels.__version__, "python": platform.python_version(), "numpy": np.__version__,
        "torch": torch.__version__, "xxhash": xxhash.VERSION,
        **{package: _version(package) for package in ("polars", "pandas")},
    }  # fmt: skip


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def flush_bytes() -> int:
    """What is read to push the data out of the caches: four times the last level."""
    if limits().mode == "tiny":
        return 1 << 20
    return min(max(128 << 20, 4 * max([c["bytes"] for c in _caches()], default=0)), 512 << 20)


def _caches() -> list[dict[str, Any]]:
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        size = _first_line(folder / "size") or "0"
        unit = {"K": 1 << 10, "M": 1 << 20}.get(size[-1], 1)
        kind = _first_line(folder / "type")
        if kind != "Instruction":
            nbytes = int(size.rstrip("KM")) * unit
            found.append({"level": int(_first_line(folder / "level") or 0), "type": kind, "bytes": nbytes})
    return found


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _first_line(path: str | Path) -> str | None:
    try:
        return Path(path).read_text().splitlines()[0].strip()
    except (OSError, IndexError):
        return None


def git(*arguments: str) -> str | None:
    """What git says of this repository; None where it refuses or is missing."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
