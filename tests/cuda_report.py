"""What nvcc made of the kernels, as a gate: `python tests/cuda_report.py` (`make cuda-report`).

Compiles csrc/cuda for one architecture exactly as CMake does for a wheel, prints what every kernel takes, and ends with
status 1 when one spills, takes too many registers, or multiplies and adds with one rounding instead of two.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_REGISTERS = 128
"""Of a thread: two blocks of 256 threads then fit on every multiprocessor."""
MOST_REGISTERS_OF = {"group_rows_kernel": 168}
"""Other limits, each with its reason where the kernel is: one block of 384 threads a multiprocessor."""


@dataclass(frozen=True)
class Resources:
    """What one function takes on one architecture; bytes a thread, except shared memory: bytes a block."""

    file: str
    function: str
    architecture: str
    registers: int | None  # None: called by a kernel, which has them in its own count
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int

    def complaint(self) -> str:
        """Why the gate is closed; empty when it is open."""
        if self.spill_stores or self.spill_loads:
            return f"spills: it stores {self.spill_stores} bytes and loads {self.spill_loads}"
        most = next((most for name, most in MOST_REGISTERS_OF.items() if name in self.function), MOST_REGISTERS)
        if self.registers is not None and self.registers > most:
            return f"takes {self.registers} registers, more than {most}"
        return ""


def functions_in(output: str, file: str = "") -> Iterator[Resources]:
    """Every function in what `ptxas -v` printed.

    Raises:
        ValueError: the output does not have the form that is expected here.
    """
    architecture = ""
    function, spills = "", (0, 0, 0)
    for line in output.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            architecture = entry[2]
        elif properties := re.search(r"Function properties for (\w+)", line):
            if function:
                yield Resources(file, function, architecture, None, 0, *spills)
            function, spills = properties[1], (-1, -1, -1)
        elif frame := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if not function or spills[0] != -1:
                raise ValueError(f"ptxas tells of a stack frame before it names a function: {line.strip()!r}")
            spills = int(frame[1]), int(frame[2]), int(frame[3])
        elif used := re.search(r"Used (\d+) registers", line):
            if not function or spills[0] == -1:
                raise ValueError(f"ptxas tells of registers before it names a kernel: {line.strip()!r}")
            shared = re.search(r"(\d+) bytes smem", line)
            yield Resources(file, function, architecture, int(used[1]), int(shared[1]) if shared else 0, *spills)
            function = ""
    if function:
        yield Resources(file, function, architecture, None, 0, *spills)


def contractions_in(ptx: str) -> list[str]:
    """Instructions that round a product and a sum once, or leave it to the next compiler whether they do."""
    found = []
    for line in ptx.splitlines():
        instruction = line.partition("//")[0].strip()
        # without .rn the next compiler, in the driver too, may fuse a multiplication and an addition
        if re.match(r"(@!?%\w+\s+)?(fma\.|mad\.(\w+\.)*f|(mul|add|sub)\.(?!rn\.)(\w+\.)*f(16|32|64)\b)", instruction):
            found.append(instruction)
    return found


def readable(names: list[str]) -> dict[str, str]:
    """Names as the source has them, without namespaces and arguments, as far as c++filt is at hand."""
    if not names or shutil.which("c++filt") is None:
        return {name: name for name in names}
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = {}
    for name, full in zip(names, done.stdout.splitlines(), strict=True):
        plain = re.sub(r"\(anonymous namespace\)::|_(GLOBAL_|INTERNAL)_\w+::|cbkernels::(cuda::(margin::)?)?", "", full)
        short[name] = re.sub(r"^\w+ (?=\w+<)", "", re.sub(r"\(.*\)( const)?$", "", plain))
    return short


def compile_kernels(folder: Path, architecture: str) -> list[tuple[str, str, str]]:
    """(file, what ptxas printed, PTX) of every file of csrc/cuda, compiled by CMake's own rules.

    Raises:
        SystemExit: it could not be compiled; the output was printed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    environment = dict(os.environ, CBKERNELS_CUDA="ON", CBKERNELS_CUDA_ARCHITECTURES=f"{architecture}-real")
    pybind11 = subprocess.check_output([sys.executable, "-m", "pybind11", "--cmakedir"], text=True).strip()
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11}", "-DCBKERNELS_WARNINGS_AS_ERRORS=ON", "-DCMAKE_CUDA_FLAGS=-Xptxas=-v --keep",
    ]  # fmt: skip
    run(configure, environment)
    compiled = []
    for source in sorted((ROOT / "csrc" / "cuda").glob("*.cu")):
        target = f"CMakeFiles/_core.dir/csrc/cuda/{source.name}.o"
        output = run(["cmake", "--build", str(folder), "--target", target], environment)
        compiled.append((source.name, output, (folder / f"{source.stem}.ptx").read_text(encoding="utf-8")))
    return compiled


def run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout}\ncuda-report: {' '.join(command[:2])} ended with status {done.returncode}")
    return done.stdout


def table(functions: list[Resources]) -> list[str]:
    names = readable([f.function for f in functions])
    lines = [f"{'file':<24}{'function':<44}{'registers':>10}{'shared':>8}{'stack':>7}{'spilled':>9}{'loaded':>8}"]
    for f in sorted(functions, key=lambda f: (f.file, f.registers is None, names[f.function])):
        registers = "(called)" if f.registers is None else str(f.registers)
        lines.append(
            f"{f.file:<24}{names[f.function]:<44}{registers:>10}{f.shared:>8}{f.stack:>7}"
            f"{f.spill_stores:>9}{f.spill_loads:>8}"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="90", help="number of the compute capability (default: 90)")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "cuda_report", help="folder to compile in")
    options = parser.parse_args()
    if not os.environ.get("CUDACXX") and shutil.which("nvcc") is None:
        print("cuda-report: THERE IS NO CUDA COMPILER ON THIS MACHINE. NOTHING WAS TESTED.")
        return 0
    functions, complaints = [], []
    for file, output, ptx in compile_kernels(options.build, options.architecture):
        of_file = list(functions_in(output, file))
        functions += of_file
        names = readable([f.function for f in of_file])
        complaints += [f"{file}: {names[f.function]} {f.complaint()}" for f in of_file if f.complaint()]
        complaints += [f"{file}: `{instruction}` may be fused" for instruction in contractions_in(ptx)]
    kernels = [f for f in functions if f.registers is not None]
    if not kernels:
        complaints.append("ptxas named no kernel")
    print("\n".join(table(functions)))
    print(f"cuda-report: sm_{options.architecture}, {len(kernels)} kernels, {len(complaints)} complaints")
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
