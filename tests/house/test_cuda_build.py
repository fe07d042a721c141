"""What nvcc put into the module, looked at without a GPU: architectures, symbols, when the driver is asked."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cbkernels import _core

from .. import cuda_report

MODULE = Path(_core.__file__)
INFO = _core.build_info()
built_with_cuda = pytest.mark.skipif(
    not INFO["cuda"], reason=f"code for GPUs: NOT TESTED HERE ({INFO['cuda_reason'] or 'built without CUDA'})"
)
FAT_BINARY = 0xBA55ED50
PTX, MACHINE_CODE = 1, 2


def promised() -> set[str]:
    """In nvcc's words: sm_90 is machine code for 9.0, compute_120 is PTX for 12.0 and newer."""
    return set(INFO["cuda_architectures"].split())


def section(file: bytes, name: bytes) -> bytes:
    """The content of a section of a 64-bit ELF file; empty when there is none."""
    table, entry_bytes, count, names_at = struct.unpack_from("<Q10xHHH", file, 0x28)
    headers = [struct.unpack_from("<II8x8xQQ", file, table + k * entry_bytes) for k in range(count)]
    strings = headers[names_at][2]
    for name_offset, _, offset, size in headers:
        if file.startswith(name + b"\0", strings + name_offset):
            return file[offset : offset + size]
    return b""


def fat_binaries(content: bytes) -> list[set[str]]:
    """The architectures in each fat binary of a section that nvcc made; one for every source file with kernels."""
    found = []
    at = 0
    while at + 16 <= len(content):
        magic, _, header_bytes, size = struct.unpack_from("<IHHQ", content, at)
        if magic != FAT_BINARY:  # padding
            at += 8
            continue
        entry, end = at + header_bytes, at + header_bytes + size
        architectures = set()
        while entry < end:
            kind, _, entry_header_bytes, entry_size, _, _, _, _, number = struct.unpack_from(
                "<HHIQIIHHI", content, entry
            )
            architectures.add(f"{ {PTX: 'compute', MACHINE_CODE: 'sm'}[kind] }_{number}")
            entry += entry_header_bytes + entry_size
        found.append(architectures)
        at = end
    return found


@built_with_cuda
def test_module_holds_code_for_what_it_promises() -> None:
    found = fat_binaries(section(MODULE.read_bytes(), b".nv_fatbin"))
    assert len(found) >= 5, "a fat binary for every file with kernels"
    assert all(architectures == promised() for architectures in found), found


@built_with_cuda
def test_cuobjdump_names_the_same_architectures() -> None:
    cuobjdump = shutil.which("cuobjdump")
    if cuobjdump is None:
        pytest.skip("the list of cuobjdump: NOT TESTED HERE (no cuobjdump on PATH)")
    named = set()
    for option, prefix in (("--list-elf", "sm"), ("--list-ptx", "compute")):
        done = subprocess.run([cuobjdump, option, str(MODULE)], capture_output=True, text=True, check=False)
        named |= {f"{prefix}_{number}" for number in re.findall(r"\.sm_(\d+[af]?)\.", done.stdout)}
    assert named == promised()


@built_with_cuda
def test_nothing_is_contracted() -> None:
    assert "--fmad=false" in INFO["flags"]
    assert "-ffp-contract=off" in INFO["flags"]


def test_module_shows_one_symbol_only() -> None:
    """Another copy of the CUDA runtime, or of us, may live in the same process."""
    if shutil.which("nm") is None or not sys.platform.startswith("linux"):
        pytest.skip("visible symbols: NOT TESTED HERE (no nm)")
    listed = subprocess.run(["nm", "-D", "--defined-only", str(MODULE)], capture_output=True, text=True, check=True)
    names = {line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines()}
    ours = {name for name in names if re.search("cuda|cbkernels|^_*nv", name)}
    assert "PyInit__core" in names
    assert not ours, sorted(ours)[:10]


# --- the driver ------------------------------------------------------------------------------------


@pytest.fixture
def driver_that_tells(tmp_path: Path) -> Path:
    """A folder with a libcuda that offers nothing and makes the file `asked` when it is loaded."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("when the driver is loaded: NOT TESTED HERE (no C++ compiler)")
    source = tmp_path / "driver.cpp"
    source.write_text(
        "#include <cstdio>\n"
        f'static const bool told = [] {{ std::fclose(std::fopen("{tmp_path}/asked", "w")); return true; }}();\n'
    )
    library = tmp_path / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    return tmp_path


def run_with(driver: Path, code: str) -> str:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@built_with_cuda
def test_driver_is_loaded_when_a_gpu_is_asked_for_and_not_before(driver_that_tells: Path) -> None:
    run_with(
        driver_that_tells,
        "import numpy as np, cbkernels as cb; cb.bundle_entropy(np.eye(3), [0, 0, 1]); cb._core.build_info()",
    )
    assert not (driver_that_tells / "asked").exists()
    run_with(driver_that_tells, "import cbkernels as cb; cb._core.cuda.missing_reason()")
    assert (driver_that_tells / "asked").exists()


@built_with_cuda
def test_unusable_driver_is_one_sentence(driver_that_tells: Path) -> None:
    said = run_with(
        driver_that_tells,
        "import cbkernels as cb\ntry: cb._core.cuda.require()\nexcept ValueError as error: print(error)",
    )
    assert re.fullmatch(r"no NVIDIA GPU can be used here: .*driver.*; move the input to the CPU, .*\n", said), said


# --- the report on registers and spills, which is a gate ---------------------------------------------

PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5firstv' for 'sm_90'
ptxas info    : Function properties for _Z5firstv
    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, 192 bytes cumulative stack size, 4096 bytes smem
ptxas info    : Compile time = 1.053 ms
ptxas info    : Function properties for _Z6calledv
    8 bytes stack frame, {called} bytes spill stores, {called} bytes spill loads
"""


def report(**values: int) -> list[cuda_report.Resources]:
    fine = {"stack": 0, "stores": 0, "loads": 0, "registers": 128, "called": 0}
    return list(cuda_report.functions_in(PTXAS.format(**fine | values), "file.cu"))


def test_report_reads_what_ptxas_prints() -> None:
    kernel, called = report(stack=16)
    assert kernel == cuda_report.Resources("file.cu", "_Z5firstv", "sm_90", 128, 4096, 16, 0, 0)
    assert called == cuda_report.Resources("file.cu", "_Z6calledv", "sm_90", None, 0, 8, 0, 0)
    assert kernel.complaints() == called.complaints() == []


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"stores": 4}, "stores 4 bytes"),
        ({"loads": 12}, "loads 12"),
        ({"registers": 129}, "129 registers"),
        ({"called": 20}, "stores 20 bytes"),
    ],
)
def test_report_complains(values: dict[str, int], complaint: str) -> None:
    assert complaint in " ".join(c for f in report(**values) for c in f.complaints())


@pytest.mark.parametrize(
    ("worse", "complaint"),
    [
        ({}, ""),
        ({"registers": 106}, "takes 106 registers, more than 105"),
        ({"code": 10501}, "has 10501 bytes of code, more than 10000 and 5 %"),
        ({"wide_loads": (9, 7)}, "has (9, 7) loads of 16 bytes in its loops, fewer than (9, 8)"),
        ({"wide_loads": (9,)}, "has (9,) loads of 16 bytes in its loops, fewer than (9, 8)"),
        (
            {"registers_of_eight": (8, 2)},
            "loads eight rows into (8, 2) registers, fewer than (8, 8): loads wait for each other",
        ),
        ({"spill_loads": 4}, "spills: it stores 0 bytes and loads 4"),
    ],
)
def test_report_holds_a_kernel_to_its_limit(worse: dict[str, Any], complaint: str) -> None:
    limit = cuda_report.Limit(100, 10000, (9, 8), (8, 8))
    fine = cuda_report.Resources(
        "", "_Z1k", "sm_90", 105, 0, 0, 0, 0, code=10500, wide_loads=(9, 8, 8), registers_of_eight=(8, 8, 4)
    )
    assert replace(fine, **worse).complaints(limit) == ([complaint] if complaint else [])


LOOPS = """
.visible .entry _Z1kv(
\t.param .u64 p
)
{
\tld.global.v4.u32 {%r0,%r1,%r2,%r3}, [%rd0];
$L__BB0_1:
\tld.global.cs.v4.u32 {%r0,%r1,%r2,%r3}, [%rd0];
\tld.v4.u32 {%r0,%r1,%r2,%r3}, [%rd0];
\tld.global.u32 %r4, [%rd0];
\tld.shared.v4.u32 {%r0,%r1,%r2,%r3}, [%rd0];
$L__BB0_2:
\t@%p1 bra \t$L__BB0_2;
\tld.global.nc.v4.f32 {%r0,%r1,%r2,%r3}, [%rd0];
\tld.global.v4.b32 {%r0,%r1,%r2,%r3}, [%rd0];
\t@%p1 bra \t$L__BB0_1;
\tbra.uni \t$L__BB0_3;
$L__BB0_3:
\tret;
}
.func _Z6calledv(
)
"""


def test_report_counts_loads_of_16_bytes_in_loops() -> None:
    assert cuda_report.wide_loads_in(LOOPS) == {"_Z1kv": (4,)}


def test_report_measures_the_code_of_a_kernel() -> None:
    names = b"\0.text._Z1kv\0.data\0"
    sections = [(0, 0, 0, 0, 0, 0), (1, 1, 0, 0, 3, 64), (13, 1, 0, 0, 0, 9), (0, 3, 0, 0, 64, len(names))]
    head = bytearray(64)
    struct.pack_into("<Q", head, 0x28, 64 + len(names))
    struct.pack_into("<HHH", head, 0x3A, 64, len(sections), 3)
    table = b"".join(struct.pack("<IIQQQQ", *section).ljust(64, b"\0") for section in sections)
    cubin = bytes(head) + names + table
    assert cuda_report.code_in(cubin) == {"_Z1kv": cubin[3:67]}


def test_report_sees_loads_that_wait_for_each_other() -> None:
    """Words of nvcc 13.0 for sm_90: a streaming load of 16 bytes, one that stays in the caches, an addition."""
    streaming, staying, other = 0x000F62000C0E1D00, 0x000EE2000C1E1D00, 0x000FE20000000000
    add = (0x000000FF22617221, other)

    def load(register: int, what: int = streaming) -> tuple[int, int]:
        return 0x0000000A20007981 | register << 16, what

    apart = [load(r) for r in range(16, 48, 4)]
    in_turns = [word for _ in range(7) for word in (load(32), add)] + [load(28)]
    few = [load(r) for r in (16, 20)]
    far = [add] * 100
    words = [load(60, staying), *apart, *far, *in_turns, *far, *few]
    code = b"".join(struct.pack("<QQ", *word) for word in words)
    assert cuda_report.registers_of_eight_in(code) == (8, 2)


@pytest.mark.parametrize(
    "line", ["    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", "Used 8 registers"]
)
def test_report_refuses_output_it_does_not_understand(line: str) -> None:
    with pytest.raises(ValueError, match="ptxas tells of"):
        list(cuda_report.functions_in(line))


@pytest.mark.parametrize(
    "fused",
    [
        "fma.rn.f32 %f1, %f2, %f3, %f4;",
        "@%p1 fma.rn.f64 %fd1, %fd2, %fd3, %fd4;",
        "mul.f32 %f1, %f2, %f3;",
        "add.ftz.f32 %f1, %f2, %f3;",
        "mad.rn.f32 %f1, %f2, %f3, %f4;",
    ],
)
def test_report_sees_what_may_be_fused(fused: str) -> None:
    fine = "\tmul.rn.f32 %f1, %f2, %f3; // fma\n\tmad.lo.s32 %r1, %r2, %r3, %r4;\n\tadd.s64 %rd1, %rd2, 8;\n"
    assert cuda_report.contractions_in(fine) == []
    assert cuda_report.contractions_in(f"{fine}\t{fused}\n") == [fused]


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="names of kernels: NOT TESTED HERE (no c++filt on PATH)")
def test_a_kernel_is_named_as_the_source_names_it() -> None:
    mangled = "_ZN9cbkernels4cuda17group_rows_kernelINS0_7InWordsINS0_6Grid32ILb0EEEEEEEvi"
    assert cuda_report.readable([mangled]) == {mangled: "group_rows_kernel<InWords<Grid32<false>>>"}
