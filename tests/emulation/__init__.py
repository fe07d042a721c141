"""The CUDA backend on emulated devices: where its module is, and whether it is the one of these sources.

``make emulation`` builds it from the unchanged ``csrc/cuda``; ``emulation.h`` says what ``_core.emulation`` offers.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from ..current_device import watch

NAME = "emulated cuda"
ROOT = Path(__file__).resolve().parents[2]
_LOADED_AS = "cbkernels_emulated._core"
SOURCES = [ROOT / "csrc", ROOT / "tests" / "emulation"]


def _module_file() -> Path | None:
    named = os.environ.get("CBKERNELS_EMULATION")
    if named:
        return Path(named)
    found = sorted((ROOT / "build" / "emulation").glob("_core*.so"))
    return found[0] if found else None


def _newest_source() -> Path:
    files = [file for folder in SOURCES for file in folder.rglob("*") if file.suffix in (".cpp", ".h", ".cu")]
    return max(files, key=lambda file: file.stat().st_mtime)


def load() -> tuple[Any, str]:
    """The emulated ``_core``, or None and the reason.

    Raises:
        RuntimeError: it is older than its sources.
    """
    file = _module_file()
    if file is None:
        return None, "not built; make emulation builds it"
    if not file.is_file():
        raise RuntimeError(f"CBKERNELS_EMULATION is {str(file)!r}, which is not a file; name the module or unset it")
    if "CBKERNELS_EMULATION" not in os.environ and (ROOT / "csrc").is_dir():
        source = _newest_source()
        if source.stat().st_mtime > file.stat().st_mtime:
            raise RuntimeError(f"{file} is older than {source.relative_to(ROOT)}; run make emulation, or delete it")
    if _LOADED_AS not in sys.modules:
        spec = importlib.util.spec_from_file_location(_LOADED_AS, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        watch(module.cuda, module.emulation.device_of_this_thread)
        sys.modules[_LOADED_AS] = module
    return sys.modules[_LOADED_AS], ""


def launches() -> int:
    """Kernel launches emulated in this process, also those before a reset of the counters."""
    return int(sys.modules[_LOADED_AS].emulation.launches()) if _LOADED_AS in sys.modules else 0


def fenced(array: np.ndarray) -> np.ndarray:
    """A contiguous copy behind whose last byte no process may read."""
    hooks = sys.modules[_LOADED_AS].emulation
    address = hooks.allocate_fenced(array.nbytes)
    memory = (ctypes.c_ubyte * array.nbytes).from_address(address)
    weakref.finalize(memory, hooks.free_fenced, address, array.nbytes)
    copy = np.frombuffer(memory, np.uint8).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
