"""Prints ``FACTS`` and a JSON: what is installed, what was built, what is seen."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cbkernels
from cbkernels import _core

PACKAGES = ("numpy", "torch", "pytest", "pytest-timeout", "hypothesis", "cupy-cuda13x", "cudf-cu13", "cudf-cu12",
            "jax", "numba", "xxhash")  # fmt: skip


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def main() -> None:
    import torch
    from doors import IS_REHEARSAL, emulated_module  # type: ignore[import-not-found]

    versions: dict[str, Any] = {package: version_of(package) for package in PACKAGES}
    versions |= {"cbkernels": cbkernels.__version__, "torch_cuda": torch.version.cuda,
                 "python": platform.python_version()}  # fmt: skip
    found = {
        "installed": os.path.realpath(cbkernels.__file__), "build": _core.build_info(),
        "missing": _core.cuda.missing_reason(), "versions": versions,
        "torch_sees": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "",
        "emulation": IS_REHEARSAL and emulated_module() is not None,
    }  # fmt: skip
    print("FACTS " + json.dumps(found, default=str))


if __name__ == "__main__":
    main()
