"""Is there a GPU to test on? Files in this folder ask before anything else."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from cbkernels import _core


def why_not() -> str:
    """Why nothing here can run; empty on a machine with a GPU."""
    missing: str = _core.cuda.missing_reason()
    if missing or importlib.util.find_spec("torch") is None:
        return missing or "torch is not installed"
    import torch

    return "" if torch.cuda.is_available() else "torch sees no GPU"


def need_gpu() -> Any:
    """The module torch; without a GPU the calling file is skipped, loudly."""
    if reason := why_not():
        pytest.skip(f"a GPU: NOT TESTED HERE ({reason})", allow_module_level=True)
    import torch

    return torch
