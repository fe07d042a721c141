"""The machine: GPUs as the driver shows them, versions, the commit; the environment that every child gets."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REHEARSAL_TOOLS = ROOT / "tests" / "gpu" / "rehearsal_tools"

Json = dict[str, Any]


def devices() -> list[Json]:
    """Every GPU that the driver shows: name, compute capability, memory. Empty without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_device(driver, index) for index in range(count.value)]


def _device(driver: Any, index: int) -> Json:
    handle, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(128)
    attributes = {"major": 75, "minor": 76, "multiprocessors": 16, "l2_bytes": 38, "cooperative_launch": 95}
    driver.cuDeviceGet(ctypes.byref(handle), index)
    driver.cuDeviceGetName(name, len(name), handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    found: Json = {"name": name.value.decode(), "memory_bytes": memory.value}
    for attribute, code in attributes.items():
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), code, handle)
        found[attribute] = value.value
    return found


def driver_versions() -> Json:
    """The driver's own version and the newest CUDA it understands."""
    found: Json = {"driver": None, "driver_cuda": None, "nvcc": None}
    loaded = re.search(r"(\d+\.\d+[.\d]*)", _first_line("/proc/driver/nvidia/version"))
    asked = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    found["driver"] = asked[0].strip() if asked else loaded[1] if loaded else None
    version = ctypes.c_int()
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
        found["driver_cuda"] = f"{version.value // 1000}.{version.value % 1000 // 10}"
    except OSError:
        pass
    release = re.search(r"release ([\d.]+), V([\d.]+)", _output("nvcc", "--version"))
    found["nvcc"] = release[2] if release else None
    return found


def commit() -> Json:
    """Commit and whether the tree differs from it; COMMIT answers where the repository did not travel with the tree."""
    if named := os.environ.get("COMMIT"):
        return {"full": named, "short": named[:8], "dirty": False}
    full = _output("git", "-C", str(ROOT), "rev-parse", "HEAD").strip()
    changed = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":!bench/results")
    return {"full": full or None, "short": (full or "nocommit")[:8], "dirty": bool(changed.strip())}


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().splitlines()[0]
    except (OSError, IndexError):
        return ""


def environment(site: Path, is_rehearsal: bool) -> dict[str, str]:
    """For every child: our package from ``site``, the modules that children share, compilers beside this python."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    programs = [str(Path(sys.executable).parent), kept.get("PATH", ""), "/usr/local/cuda/bin"]
    modules = [site, ROOT / "bench", ROOT / "tests" / "gpu"]
    if is_rehearsal:
        programs.insert(0, str(REHEARSAL_TOOLS))
        modules.append(Path(sysconfig.get_path("purelib")))  # python -S does not look there by itself
        kept["CBKERNELS_GPU_CHECK_REHEARSAL"] = "1"
    return kept | {
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": os.pathsep.join(map(str, modules)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
