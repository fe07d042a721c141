"""What nvcc made of the kernels, as a gate: `python tests/cuda_report.py` (`make cuda-report`).

Compiles csrc/cuda for one architecture exactly as CMake does for a wheel, prints what every kernel takes, and ends with
status 1 when one spills, passes a limit of ``LIMITS``, or multiplies and adds with one rounding instead of two.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOST_REGISTERS = 128
"""Of a thread, where nothing else is said: two blocks of 256 threads then fit on every multiprocessor."""
TOLERATED = 1.05
"""So many times a figure of ``LIMITS`` may another compiler's registers and bytes of code be."""


@dataclass(frozen=True)
class Limit:
    """What a kernel takes today, by nvcc 13.0 for sm_90."""

    registers: int
    code: int  # bytes
    wide_loads: tuple[int, ...] = ()  # loads of 16 bytes in each loop that has several of them: no fewer
    registers_of_eight: tuple[int, ...] = ()  # where eight rows are loaded, into so many registers: no fewer


LIMITS = {
    "compress_kernel": Limit(44, 4352),
    "count_fingerprints_kernel": Limit(63, 48384),
    "group_near_rows_kernel": Limit(58, 81408),
    "group_rows_kernel<Bits>": Limit(128, 114048, (9, 8, 8), (8, 8, 5)),
    "group_rows_kernel<Float32>": Limit(128, 126080, (9, 8, 8, 8), (8, 8, 8, 4)),
    "group_rows_kernel<Float64>": Limit(128, 129024, (9, 8, 8, 8), (8, 8, 8, 4)),
    "group_rows_kernel<Gathered>": Limit(128, 164992),
    "group_rows_kernel<Grid16<false>>": Limit(168, 153472, (9, 8, 8, 8), (8, 8, 8, 8)),
    "group_rows_kernel<Grid16<true>>": Limit(168, 167168, (9, 8, 8, 8), (8, 8, 8, 8)),
    "group_rows_kernel<Grid32<false>>": Limit(128, 133504, (9, 8, 8, 8), (8, 8, 8, 2)),
    "group_rows_kernel<Grid32<true>>": Limit(128, 145152, (9, 8, 8, 8), (8, 8, 8)),
    "group_rows_kernel<InWords<Bits>>": Limit(212, 119680),
    "group_rows_kernel<InWords<Float32>>": Limit(208, 137984),
    "group_rows_kernel<InWords<Float64>>": Limit(163, 132480),
    "group_rows_kernel<InWords<Grid32<false>>>": Limit(248, 147840),
    "group_rows_kernel<InWords<Grid32<true>>>": Limit(254, 160384),
    "group_rows_kernel<InWords<Packed<2139062143u>>>": Limit(218, 146048),
    "group_rows_kernel<InWords<Packed<2147450879u>>>": Limit(218, 146048),
    "group_rows_kernel<Packed<2139062143u>>": Limit(128, 132992, (9, 8, 8, 8), (8, 8, 8, 3)),
    "group_rows_kernel<Packed<2147450879u>>": Limit(128, 132992, (9, 8, 8, 8), (8, 8, 8, 3)),
    "sum_rows_kernel<Bits>": Limit(96, 11904, (4,)),
    "sum_rows_kernel<Float32>": Limit(96, 12544, (4,)),
    "sum_rows_kernel<Float64>": Limit(88, 12800, (4,)),
    "sum_rows_kernel<Gathered>": Limit(110, 66176),
    "sum_rows_kernel<Grid16<false>>": Limit(98, 16128, (4,)),
    "sum_rows_kernel<Grid16<true>>": Limit(108, 17664, (4,)),
    "sum_rows_kernel<Grid32<false>>": Limit(96, 13824, (4,)),
    "sum_rows_kernel<Grid32<true>>": Limit(96, 15488, (4,)),
    "sum_rows_kernel<InWords<Bits>>": Limit(96, 13312),
    "sum_rows_kernel<InWords<Float32>>": Limit(96, 13824),
    "sum_rows_kernel<InWords<Float64>>": Limit(90, 13824),
    "sum_rows_kernel<InWords<Grid32<false>>>": Limit(96, 15104),
    "sum_rows_kernel<InWords<Grid32<true>>>": Limit(96, 16896),
    "sum_rows_kernel<InWords<Packed<2139062143u>>>": Limit(96, 14976),
    "sum_rows_kernel<InWords<Packed<2147450879u>>>": Limit(96, 14976),
    "sum_rows_kernel<Packed<2139062143u>>": Limit(86, 13440, (4,)),
    "sum_rows_kernel<Packed<2147450879u>>": Limit(86, 13440, (4,)),
}
"""Kernel -> limit. The kernels of rows have registers for two blocks a multiprocessor, those of 16-bit floats on a grid
for one block of 384 threads, those of rows in words for one of 256; eight rows and a leader are compared at a time.
Loads that take turns in one register wait for each other: comparisons did so once, and took twice as long."""


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
    code: int = 0
    wide_loads: tuple[int, ...] = ()
    registers_of_eight: tuple[int, ...] = ()

    def complaints(self, limit: Limit | None = None) -> list[str]:
        """Why the gate is closed; empty when it is open."""
        found = []
        if self.spill_stores or self.spill_loads:
            found.append(f"spills: it stores {self.spill_stores} bytes and loads {self.spill_loads}")
        most = int(limit.registers * TOLERATED) if limit else MOST_REGISTERS
        if self.registers is not None and self.registers > most:
            found.append(f"takes {self.registers} registers, more than {most}")
        if limit and self.code > limit.code * TOLERATED:
            found.append(f"has {self.code} bytes of code, more than {limit.code} and 5 %")
        if limit and any(few < wanted for few, wanted in zip_longest(self.wide_loads, limit.wide_loads, fillvalue=0)):
            found.append(f"has {self.wide_loads} loads of 16 bytes in its loops, fewer than {limit.wide_loads}")
        eight = zip_longest(self.registers_of_eight, limit.registers_of_eight if limit else (), fillvalue=0)
        if any(few < wanted for few, wanted in eight):
            assert limit is not None
            found.append(
                f"loads eight rows into {self.registers_of_eight} registers, fewer than {limit.registers_of_eight}: "
                "loads wait for each other"
            )
        return found


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


def code_in(cubin: bytes) -> dict[str, bytes]:
    """Function -> its machine code, from the sections of an ELF file of 64 bits."""
    (start,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, start + size * i) for i in range(count)]
    found = {}
    for section in sections:
        at = sections[names][4] + section[0]
        name = cubin[at : cubin.index(b"\0", at)].decode()
        if name.startswith(".text."):
            found[name.removeprefix(".text.")] = cubin[section[4] : section[4] + section[5]]
    return found


def registers_of_eight_in(code: bytes) -> tuple[int, ...]:
    """Where eight streaming loads of 16 bytes follow each other: into how many different registers, most first.

    Of sm_70 to sm_90: an instruction has 16 bytes, its number in the lowest 12 bits and the register it writes in the
    third byte; of a load, the tenth byte says how wide it is, and a bit of the eleventh that it does not stream.
    """
    load, sixteen_bytes, stays, nearby = 0x981, 0x1D, 1 << 20, 100
    runs: list[list[tuple[int, int]]] = []
    for at, (low, high) in enumerate(struct.iter_unpack("<QQ", code)):
        if low & 0xFFF != load or high >> 8 & 0xFF != sixteen_bytes or high & stays:
            continue
        if not runs or at - runs[-1][-1][0] >= nearby:
            runs.append([])
        runs[-1].append((at, low >> 16 & 0xFF))
    return tuple(sorted((len({register for _, register in run}) for run in runs if len(run) == 8), reverse=True))


def wide_loads_in(ptx: str) -> dict[str, tuple[int, ...]]:
    """Kernel -> how many loads of 16 bytes from global memory stand in one loop, most first; few do not count."""
    found = {}
    for body in re.split(r"^(?=\.\w+ \.(?:entry|func)\b)", ptx, flags=re.MULTILINE):
        name = re.match(r"\.\w+ \.entry (\w+)", body)
        if not name:
            continue
        lines = body.splitlines()
        labels = {line[:-1]: at for at, line in enumerate(lines) if re.fullmatch(r"\$\w+:", line)}
        jumps = [
            (labels[to[1]], at) for at, line in enumerate(lines) if (to := re.search(r"\bbra\S*\s+(\$\w+);", line))
        ]
        loops = [(begin, end) for begin, end in jumps if begin < end]
        loads = [at for at, line in enumerate(lines) if re.search(r"\bld(\.global\S*)?\.v4\.\w32\b", line)]
        around = [[(end - begin, begin) for begin, end in loops if begin < at < end] for at in loads]
        counts = Counter(min(those) for those in around if those).values()
        found[name[1]] = tuple(sorted((n for n in counts if n >= 4), reverse=True))
    return found


def readable(names: list[str]) -> dict[str, str]:
    """Names as the source has them, without namespaces and arguments, as far as c++filt is at hand."""
    if not names or shutil.which("c++filt") is None:
        return {name: name for name in names}
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = {}
    for name, full in zip(names, done.stdout.splitlines(), strict=True):
        plain = re.sub(r"\(anonymous namespace\)::|_(GLOBAL_|INTERNAL)_\w+::|cbkernels::(cuda::(margin::)?)?", "", full)
        closed = re.sub(r"> +(?=>)", ">", plain)  # older c++filt: Kernel<Kind<2> >
        short[name] = re.sub(r"^\w+ (?=\w+<)", "", re.sub(r"\(.*\)( const)?$", "", closed))
    return short


def compile_kernels(folder: Path, architecture: str) -> list[tuple[str, str, str, bytes]]:
    """(file, what ptxas printed, PTX, machine code) of every file of csrc/cuda, compiled by CMake's own rules.

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
        ptx, cubin = folder / f"{source.stem}.ptx", next(folder.glob(f"{source.stem}.*cubin"))
        compiled.append((source.name, output, ptx.read_text(encoding="utf-8"), cubin.read_bytes()))
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
    lines = [
        f"{'file':<32}{'function':<44}{'registers':>10}{'shared':>8}{'stack':>7}{'spilled':>9}{'loaded':>8}"
        f"{'code':>8}  loads of 16 bytes in a loop; registers of eight"
    ]
    for f in sorted(functions, key=lambda f: (f.file, f.registers is None, names[f.function])):
        registers = "(called)" if f.registers is None else str(f.registers)
        loads = f"{' '.join(map(str, f.wide_loads))}; {' '.join(map(str, f.registers_of_eight))}"
        lines.append(
            f"{f.file:<32}{names[f.function]:<44}{registers:>10}{f.shared:>8}{f.stack:>7}"
            f"{f.spill_stores:>9}{f.spill_loads:>8}{f.code:>8}  {loads}"
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
    for file, output, ptx, cubin in compile_kernels(options.build, options.architecture):
        code, wide_loads = code_in(cubin), wide_loads_in(ptx)
        functions += [
            replace(
                f,
                code=len(code.get(f.function, b"")),
                wide_loads=wide_loads.get(f.function, ()),
                registers_of_eight=registers_of_eight_in(code.get(f.function, b"")),
            )
            for f in functions_in(output, file)
        ]
        complaints += [f"{file}: `{instruction}` may be fused" for instruction in contractions_in(ptx)]
    names = readable([f.function for f in functions])
    limits = LIMITS
    if options.architecture != "90":  # other machine code; what the launch bounds promise and what is loaded stays
        limits = {
            k: replace(v, registers=max(v.registers, MOST_REGISTERS), code=sys.maxsize, registers_of_eight=())
            for k, v in LIMITS.items()
        }
    for f in functions:
        complaints += [f"{f.file}: {names[f.function]} {c}" for c in f.complaints(limits.get(names[f.function]))]
    kernels = [f for f in functions if f.registers is not None]
    complaints += [f"there is no kernel {name}" for name in limits.keys() - {names[f.function] for f in kernels}]
    if not kernels:
        complaints.append("ptxas named no kernel")
    print("\n".join(table(functions)))
    print(f"cuda-report: sm_{options.architecture}, {len(kernels)} kernels, {len(complaints)} complaints")
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
