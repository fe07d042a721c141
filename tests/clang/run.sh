#!/usr/bin/env bash
# The module compiled by Clang, warnings being errors, and the tests that reach compiled code against it. Where the
# processor can fuse a multiplication and an addition, a second module is compiled that could: contraction must be off
# under Clang too, and nothing of x86-64's baseline would show it. csrc/cpu is also compiled against LLVM's own C++
# library, which macOS has. Arguments go to pytest. Called by `make test-clang`, which puts the build tools on PATH.
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

# A venv without pip for each module: the packages of this one are on its path, its editable install is not, for the
# .pth files of a folder that is only on the path are not read.
install_module() {  # NAME CXXFLAGS
  SECONDS=0
  echo "==> building with $("$clang" --version | head -n 1) $2"
  rm -rf "${work:?}/$1"
  CXX="$clang" CXXFLAGS="$2" CBKERNELS_CUDA=OFF python -m pip wheel . -qq --no-deps --no-build-isolation \
    --wheel-dir "$work/$1/wheel" -C build-dir="$work/objects-$1" -C cmake.define.CBKERNELS_WARNINGS_AS_ERRORS=ON
  python -m venv --without-pip "$work/$1/venv"
  site="$("$work/$1/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
  python -m pip install -qq --no-deps --target "$site" "$work/$1"/wheel/*.whl
  echo "$packages" >"$site/packages.pth"
  echo "    $SECONDS s"
}

empty="$(mktemp -d)"
trap 'rm -rf "$empty"' EXIT
cp -r tests "$empty/tests"

# From a folder that holds only tests/: the source folder would shadow what was installed.
run_tests() {  # NAME TESTS...
  local python="$work/$1/venv/bin/python"
  (cd "$empty"
   "$python" -c "
from cbkernels import _core
info = _core.build_info()
print('==> tests of', _core.__file__, '-', info['compiler'], '-', info['flags'], '-', *info['instruction_sets'])
assert 'Clang' in info['compiler'] and _core.__file__.startswith('$work/$1/'), 'another module answers'"
   "$python" -m pytest "${@:2}" --import-mode=importlib -p no:cacheprovider -q -W error)
}

install_module baseline ""
baseline=(named_cases instruction_sets refusals margin tolerance streaming fingerprint update_grid threads
  random_against_reference work_counters memory)
baseline=("${baseline[@]/#/tests/test_}")
run_tests baseline "${baseline[@]/%/.py}" "$@"

if echo '#include <vector>' | "$clang" -stdlib=libc++ -x c++ -fsyntax-only - 2>/dev/null; then
  SECONDS=0
  echo "==> csrc/cpu with libc++"
  { cmake -S . -B "$work/libcxx" -G Ninja -DCBKERNELS_CASES_ALONE=ON -DCBKERNELS_WARNINGS_AS_ERRORS=ON \
      -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_CXX_FLAGS=-stdlib=libc++ \
      && cmake --build "$work/libcxx"; } >"$work/libcxx.log" 2>&1 || { tail -n 60 "$work/libcxx.log"; exit 1; }
  python tests/aarch64/export_cases.py "$work/cases.bin" --random 200
  "$work/libcxx/run_cases" "$work/cases.bin"
  echo "    $SECONDS s"
else
  echo "clang with libc++: NOT TESTED HERE (Debian: apt install libc++-dev libc++abi-dev)"
fi
if ! grep -qw fma /proc/cpuinfo 2>/dev/null; then
  echo "clang with fused multiply-adds: NOT TESTED HERE (this processor has no fused multiply-add)"
  exit 0
fi
install_module fma "-mfma"
objdump -d --no-show-raw-insn "$work"/fma/venv/lib/python*/site-packages/cbkernels/_core*.so >"$work/disassembly"
fused="$(grep -cE '\svfn?m(add|sub)' "$work/disassembly" || true)"
echo "==> fused multiply-adds in the module: $fused"
if [ "$fused" != 0 ]; then  # written as two operations, they must stay two
  echo "test-clang: contraction is on" >&2
  exit 1
fi
run_tests fma tests/test_named_cases.py tests/test_update_grid.py tests/test_instruction_sets.py "$@"
