"""The cuda half and memory for it: a GPU's, or in a rehearsal the emulation's on CPU memory."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
from sanitized import GpuMemory, Memory  # type: ignore[import-not-found]  # tests/gpu is on the path

ROOT = Path(__file__).resolve().parents[3]
IS_REHEARSAL = bool(os.environ.get("CBKERNELS_GPU_CHECK_REHEARSAL"))


class HostMemory:
    """What is put is copied into a block of its own."""

    def __init__(self) -> None:
        self.blocks: dict[int, np.ndarray] = {}

    def put(self, values: Any) -> int:
        block = np.frombuffer(values.tobytes() or b"\0", np.uint8).copy()
        self.blocks[block.ctypes.data] = block
        return int(block.ctypes.data)

    def get(self, address: int, shape: tuple[int, ...], kind: Any) -> Any:
        nbytes = int(np.prod(shape)) * np.dtype(kind).itemsize
        return self.blocks[address][:nbytes].view(kind).reshape(shape)

    def clear(self) -> None:
        self.blocks.clear()


def emulated_module() -> Any:
    """The module of build/emulation; None where it was not built."""
    named = os.environ.get("CBKERNELS_EMULATION")
    files = [Path(named)] if named else sorted((ROOT / "build" / "emulation").glob("_core*.so"))
    if not files:
        return None
    spec = importlib.util.spec_from_file_location("cbkernels_emulated._core", files[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def core() -> Any:
    """The compiled module whose cuda half works here."""
    if IS_REHEARSAL:
        module = emulated_module()
        if module is None:
            raise SystemExit("rehearsal: build/emulation holds no module; run make emulation first")
        return module
    from cbkernels import _core

    if missing := _core.cuda.missing_reason():
        raise SystemExit(f"NOTHING WAS RUN ({missing})")
    return _core


def memory() -> Memory:
    return HostMemory() if IS_REHEARSAL else GpuMemory()
