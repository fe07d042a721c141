"""``cbkernels info``: what this build can do, and why it cannot do the rest."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Declare the subcommand."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info",
        help="print the version, the backends and why one is missing, and how to rebuild",
        description="Print the version, the backends and why one is missing, the instruction sets, and how to rebuild.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print what is known about this installation."""
    from ..installation import installation

    facts = installation()
    print(json.dumps(facts, indent=2) if arguments.json else _text(facts))
    return 0


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
        ("torch", facts["torch"] or "not installed"),
    ]
    for feature, told in facts["features"].items():
        lacks = f"missing {' and '.join(told['missing'])}, of the extra {told['extra']}"
        lines.append((feature, lacks if told["missing"] else "ready"))
    extras = dict.fromkeys(told["extra"] for told in facts["features"].values() if told["missing"])
    if extras:
        without = "; where an nvcc is found and CUDA is not wanted, with CBKERNELS_CUDA=OFF in front"
        lines.append(("what is missing", f"pip install '.[{','.join(extras)}]' in the source folder{without}"))
    needed = "in the source folder, with scikit-build-core, pybind11 and ninja installed"
    lines += [(f"build {what}", f"{command} {needed}") for what, command in facts["rebuild"].items()]
    width = max(len(title) for title, _ in lines)
    return "\n".join(f"{title.ljust(width)}  {value}" for title, value in lines)
