#!/usr/bin/env bash
# csrc/cpu compiled for AArch64, warnings being errors, and exported cases run on it under qemu: by GCC and, where it
# is there, by Clang; each with NEON, as a build there would be, and without. Arguments go to export_cases.py.
# Called by `make test-aarch64`, which puts the build tools and cbkernels' own Python on PATH.
set -euo pipefail
cd "$(dirname "$0")/../.."

prefix="${AARCH64_PREFIX:-aarch64-linux-gnu}"
for tool in "$prefix-g++" "$prefix-objdump" qemu-aarch64; do
  command -v "$tool" >/dev/null && continue
  echo "test-aarch64: there is no $tool; NOTHING WAS TESTED for AArch64" \
    "(Debian: apt install g++-aarch64-linux-gnu qemu-user)" >&2
  exit 1
done
work="$PWD/build/aarch64"
mkdir -p "$work"
python tests/aarch64/export_cases.py "$work/cases.bin" "$@"

count() {  # PROGRAM_OR_OBJECT PATTERN: how many of its instructions match
  "$prefix-objdump" -d --no-show-raw-insn "$1" >"$work/disassembly"
  grep -cE "$2" "$work/disassembly" || true
}

wrong=0
run_build() {  # NAME HAS_NEON COMPILER CMAKE_ARGUMENTS...
  local folder="$work/$1" neon fused
  SECONDS=0
  { cmake -S . -B "$folder" -G Ninja -DCBKERNELS_CASES_ALONE=ON -DCBKERNELS_WARNINGS_AS_ERRORS=ON \
      -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$3" "${@:4}" \
      && cmake --build "$folder"; } >"$folder.log" 2>&1 || { tail -n 60 "$folder.log"; exit 1; }
  # arithmetic on vectors (v0.4s); the registers are also used to copy
  neon="$(count "$folder/CMakeFiles/_core.dir/csrc/cpu/row_kernels_portable.cpp.o" \
    '\s(add|fadd|fcmeq|cmeq|umull2?|umlal2?)\s+v[0-9]+\.')"
  fused="$(count "$folder/run_cases" '\s(fn?m(add|sub)|fml[as])\s')"
  echo "==> $1: built in $SECONDS s; vector arithmetic in the row kernels: $neon instructions; fused multiply-adds: $fused"
  if [ "$((neon > 0))" != "$2" ]; then
    echo "test-aarch64: $1 must have $([ "$2" = 1 ] && echo some || echo no) NEON" >&2
    wrong=1
  fi
  if [ "$fused" != 0 ]; then  # AArch64 has them everywhere; written as two operations, they must stay two
    echo "test-aarch64: $1: contraction is on" >&2
    wrong=1
  fi
  SECONDS=0
  qemu-aarch64 -L "/usr/$prefix" "$folder/run_cases" "$work/cases.bin" || wrong=1
  echo "    $SECONDS s"
}

run_build gcc-neon 1 "$prefix-g++"
run_build gcc-without-neon 0 "$prefix-g++" -DCMAKE_CXX_FLAGS=-march=armv8-a+nosimd
if command -v clang++ >/dev/null; then
  run_build clang-neon 1 clang++ -DCMAKE_CXX_COMPILER_TARGET="$prefix"
else
  echo "aarch64 by clang: NOT TESTED HERE (there is no clang++)"
fi
exit "$wrong"
