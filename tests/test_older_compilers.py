"""What GCC older than 12 lacks (Ubuntu 22.04 has 11, Debian 11 has 10) has another text for it, which does the same.

The compiler that is here says that it is GCC 11, and has no built-in function that GCC 11 lacks.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"
AS_GCC_11 = ["-U__GNUC__", "-D__GNUC__=11", "-D__builtin_shufflevector=unknown_before_gcc_12"]
PROGRAM = """
#include "cpu/simd.h"
template <class Bits> bool in_turn() {
  typedef Bits Vector __attribute__((vector_size(16)));
  const int half = 8 / sizeof(Bits);
  Vector a, b;
  for (int i = 0; i < 2 * half; ++i) { a[i] = i; b[i] = 100 + i; }
  const Vector low = cbkernels::simd::zip_low(a, b), high = cbkernels::simd::zip_high(a, b);
  for (int i = 0; i < half; ++i) {
    if (low[2 * i] != a[i] || low[2 * i + 1] != b[i]) return false;
    if (high[2 * i] != a[half + i] || high[2 * i + 1] != b[half + i]) return false;
  }
  return true;
}
int main() { return in_turn<uint8_t>() && in_turn<uint16_t>() && in_turn<uint32_t>() && in_turn<uint64_t>() ? 0 : 1; }
"""


@pytest.mark.skipif(not (CSRC.is_dir() and shutil.which("g++")), reason="GCC 11: NOT TESTED HERE (no g++)")
def test_lanes_are_zipped_as_gcc_11_compiles_it(tmp_path: Path) -> None:
    source, program = tmp_path / "zip.cpp", tmp_path / "zip"
    source.write_text(PROGRAM)
    build = ["g++", "-std=c++17", "-w", *AS_GCC_11, f"-I{CSRC}", str(source), "-o", str(program)]
    built = subprocess.run(build, capture_output=True, text=True, timeout=120, check=False)
    assert built.returncode == 0, built.stderr[:2000]
    assert subprocess.run([program], timeout=20, check=False).returncode == 0
