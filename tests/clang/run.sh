#!/usr/bin/env bash
# The module compiled by Clang, warnings being errors, and the tests that reach compiled code against it. csrc/cpu is
# compiled once more, as a program that runs exported cases: against LLVM's own C++ library, which macOS has, and, where
# the processor can fuse a multiplication and an addition, so that it could. Contraction must be off under Clang too, and
# nothing of x86-64's baseline would show it. Arguments go to pytest. Called by `make test-clang`, which puts the build
# tools on PATH.
set -euo pipefail
cd "$(dirname "$0")/../.."

clang="${CLANGXX:-clang++}"
if ! command -v "$clang" >/dev/null; then
  echo "test-clang: there is no $clang; NOTHING WAS TESTED under Clang (Debian: apt install clang)" >&2
  exit 1
fi
work="$PWD/build/clang"
packages="$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
mkdir -p "$work"

# A venv without pip: the packages of this one are on its path, its editable install is not, for the .pth files of a
# folder that is only on the path are not read.
SECONDS=0
echo "==> building with $("$clang" --version | head -n 1)"
rm -rf "${work:?}/module"
CXX="$clang" CBKERNELS_CUDA=OFF python -m pip wheel . -qq --no-deps --no-build-isolation \
  --wheel-dir "$work/module/wheel" -C build-dir="$work/objects" -C cmake.define.CBKERNELS_WARNINGS_AS_ERRORS=ON
python -m venv --without-pip "$work/module/venv"
python="$work/module/venv/bin/python"
site="$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
python -m pip install -qq --no-deps --target "$site" "$work"/module/wheel/*.whl
echo "$packages" >"$site/packages.pth"
echo "    $SECONDS s"

# The tests, from a folder that holds only them: the source folder would shadow what was installed.
empty="$(mktemp -d)"
trap 'rm -rf "$empty"' EXIT
cp -r tests "$empty/tests"
tests=(named_cases instruction_sets refusals margin tolerance streaming fingerprint update_grid threads
  random_against_reference work_counters memory)
tests=("${tests[@]/#/tests/test_}")
(cd "$empty"
 "$python" -c "
from cbkernels import _core
info = _core.build_info()
print('==> tests of', _core.__file__, '-', info['compiler'], '-', info['flags'], '-', *info['instruction_sets'])
assert 'Clang' in info['compiler'] and _core.__file__.startswith('$work/module/'), 'another module answers'"
 "$python" -m pytest "${tests[@]/%/.py}" --import-mode=importlib -p no:cacheprovider -q -W error "$@")

# csrc/cpu as a program.
library=""
fuses=""
if echo '#include <vector>' | "$clang" -stdlib=libc++ -x c++ -fsyntax-only - 2>/dev/null; then
  library=-stdlib=libc++
else
  echo "clang with libc++: NOT TESTED HERE (Debian: apt install libc++-dev libc++abi-dev)"
fi
if grep -qw fma /proc/cpuinfo 2>/dev/null; then
  fuses=-mfma
else
  echo "clang with fused multiply-adds: NOT TESTED HERE (this processor has no fused multiply-add)"
fi
SECONDS=0
echo "==> csrc/cpu with Clang ${library:-and its usual library} $fuses"
{ cmake -S . -B "$work/program" -G Ninja -DCBKERNELS_CASES_ALONE=ON -DCBKERNELS_WARNINGS_AS_ERRORS=ON \
    -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_CXX_FLAGS="$library $fuses" \
    && cmake --build "$work/program"; } >"$work/program.log" 2>&1 || { tail -n 60 "$work/program.log"; exit 1; }
echo "    $SECONDS s"
python tests/aarch64/export_cases.py "$work/cases.bin" --random 200
"$work/program/run_cases" "$work/cases.bin"
if [ -n "$fuses" ]; then
  objdump -d --no-show-raw-insn "$work/program/run_cases" >"$work/disassembly"
  fused="$(grep -cE '\svfn?m(add|sub)' "$work/disassembly" || true)"
  echo "==> fused multiply-adds in csrc/cpu: $fused"
  if [ "$fused" != 0 ]; then  # written as two operations, they must stay two
    echo "test-clang: contraction is on" >&2
    exit 1
  fi
fi
