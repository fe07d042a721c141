"""``cbkernels info``: what this build can do, and why it cannot do the rest."""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib import metadata
from typing import Any

import numpy as np

from .. import _core, backends
from .._version import __version__

REBUILD = (
    ("with CUDA, or an error", "CBKERNELS_CUDA=ON pip install --no-build-isolation ."),
    ("without CUDA", "CBKERNELS_CUDA=OFF pip install --no-build-isolation ."),
)
"""How to build again in the source folder; needs scikit-build-core, pybind11 and ninja installed."""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info",
        help="version, backends and why one is missing, how to rebuild",
        description="Version, backends and why one is missing, instruction sets, how to rebuild.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print what is known about this installation."""
    facts = installation()
    print(json.dumps(facts, indent=2) if arguments.json else _text(facts))
    return 0


def installation() -> dict[str, Any]:
    """Facts about this installation as JSON types; torch is not imported.

    Returns:
        version, folder, backends (name -> null, or why it cannot be used here), cuda (compiled_in:
        bool; architectures: what for), compiler, flags, instruction_sets, instruction_set, threads,
        python, platform, numpy, torch (null if absent), rebuild (what -> command).
    """
    build = _core.build_info()
    return {
        "version": __version__,
        "folder": os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        "backends": {name: _missing(name) for name in backends.TABLE},
        "cuda": {"compiled_in": build["cuda"], "architectures": build["cuda_architectures"]},
        "compiler": build["compiler"],
        "flags": build["flags"],
        "instruction_sets": list(build["instruction_sets"]),
        "instruction_set": build["instruction_set"],
        "threads": backends.num_threads(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "torch": _installed("torch"),
        "rebuild": dict(REBUILD),
    }


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


def _text(facts: dict[str, Any]) -> str:
    lines = [("cbkernels", f"{facts['version']} in {facts['folder']}")]
    for name, reason in facts["backends"].items():
        state = "ready" if reason is None else f"missing: {reason}"
        if name == "cuda" and facts["cuda"]["compiled_in"]:
            state += f" (compiled in for {facts['cuda']['architectures']})"
        lines.append((f"backend {name}", state))
    lines += [
        ("compiler", facts["compiler"]),
        ("flags", facts["flags"]),
        ("instructions", f"{facts['instruction_set']} (this build has {', '.join(facts['instruction_sets'])})"),
        ("threads", f"{facts['threads']} (OMP_NUM_THREADS, or torch's own number where torch is used)"),
        ("Python", f"{facts['python']} on {facts['platform']}"),
        ("NumPy", facts["numpy"]),
        ("torch", facts["torch"] or "not installed (only training and the demo need it)"),
    ]
    lines += [(f"build {what}", command) for what, command in facts["rebuild"].items()]
    width = max(len(title) for title, _ in lines)
    return "\n".join(f"{title.ljust(width)}  {value}" for title, value in lines)
