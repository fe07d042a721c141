"""What this build can do, and why it cannot do the rest: for ``cbkernels info`` and every run's ``env.json``."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Any

import numpy as np

from . import _core, backends
from ._version import __version__

REBUILD = {
    "with CUDA, or an error": "CBKERNELS_CUDA=ON pip install --no-build-isolation .",
    "without CUDA": "CBKERNELS_CUDA=OFF pip install --no-build-isolation .",
}
"""How to build again; where, and with what installed, `info` says."""
FEATURES = {
    "LayerMonitor, surgery, pruning, scan": ("train", ("torch",)),
    "files of cut models, all that trains": ("train", ("torch", "safetensors")),
    "pages and pictures": ("plot", ("matplotlib", "jinja2")),
    "data sets of Hugging Face": ("data", ("datasets", "pyarrow", "pillow")),
}
"""What works with an extra of the package only -> the extra, and the packages of it that it needs."""


def installation() -> dict[str, Any]:
    """Facts about this installation as JSON types; torch is not imported.

    Returns:
        version, folder, backends (name -> null, or why it cannot be used here), cuda (compiled_in:
        bool; architectures: what for), compiler, flags, instruction_sets, instruction_set, threads,
        python, platform, numpy, torch (null if absent), features (what -> its extra, and what of that is missing),
        rebuild (what -> command).
    """
    build = _core.build_info()
    return {
        "version": __version__,
        "folder": os.path.dirname(os.path.abspath(__file__)),
        "backends": {name: _missing(name) for name in backends.TABLE},
        "cuda": {"compiled_in": build["cuda"], "architectures": build["cuda_architectures"]},
        "compiler": build["compiler"], "flags": build["flags"],
        "instruction_sets": list(build["instruction_sets"]), "instruction_set": build["instruction_set"],
        "threads": backends.num_threads(), "python": platform.python_version(), "platform": platform.platform(),
        "numpy": np.__version__, "torch": _installed("torch"), "rebuild": dict(REBUILD),
        "features": {
            feature: {"extra": extra, "missing": [name for name in needed if _installed(name) is None]}
            for feature, (extra, needed) in FEATURES.items()
        },
    }  # fmt: skip


def _missing(backend: str) -> str | None:
    """Why the backend cannot be used here; None if it can."""
    try:
        backends.TABLE[backend].require()
    except ValueError as error:
        return str(error)
    return None


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
