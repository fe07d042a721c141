#!/usr/bin/env bash
# The tests that reach compiled code, under a sanitizer: `run.sh address,undefined` or `run.sh thread`, more
# arguments go to pytest. Builds an instrumented module into build/sanitizers/, and uses a venv of its own
# without torch (torch is not instrumented: ThreadSanitizer would report its threads, not ours). Called by
# `make sanitize`, which puts the build tools on PATH. Any report ends the process, so a red run is a finding.
set -euo pipefail
cd "$(dirname "$0")/../.."

kind="${1:?address,undefined or thread}"
shift
case "$kind" in
  address,undefined) library=libasan.so symbol=__asan_init ;;
  thread) library=libtsan.so symbol=__tsan_init ;;
  *) echo "sanitizer is '$kind'; choose address,undefined or thread" >&2; exit 2 ;;
esac
name="${kind%%,*}"
work="$PWD/build/sanitizers"
mkdir -p "$work"

# 1. the instrumented module
compiler="${CXX:-g++}"
runtime="$("$compiler" -print-file-name="$library")"
if [ "$runtime" = "$library" ]; then
  echo "sanitize: $compiler has no $library; NOTHING WAS TESTED under $kind" >&2
  exit 1
fi
SECONDS=0
echo "==> building with -fsanitize=$kind"
rm -rf "${work:?}/$name"
CXX="$compiler" python -m pip wheel . -qq --no-deps --no-build-isolation --wheel-dir "$work/$name/wheel" \
  -C build-dir="$work/objects-$name" -C cmake.build-type=RelWithDebInfo -C install.strip=false \
  -C cmake.define.CBKERNELS_SANITIZE="$kind" -C cmake.define.CBKERNELS_CUDA=OFF
echo "    $SECONDS s"
wheel=("$work/$name"/wheel/*.whl)
emulation=""
if [ "$name" = address ]; then  # the emulated GPU switches stacks itself, which ThreadSanitizer cannot follow
  SECONDS=0
  echo "==> building csrc/cuda as C++ with -fsanitize=$kind"
  log="$work/emulation-$name.log"
  { CXX="$compiler" CBKERNELS_CUDA=OFF cmake -S . -B "$work/emulation-$name" -G Ninja -DCBKERNELS_EMULATE_CUDA=ON \
      -DCBKERNELS_SANITIZE="$kind" -DCBKERNELS_CPU_OBJECTS="$work/objects-$name/CMakeFiles/_core.dir" \
      -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPython_EXECUTABLE="$(command -v python)" \
      -Dpybind11_DIR="$(python -m pybind11 --cmakedir)" && cmake --build "$work/emulation-$name"; } >"$log" 2>&1 \
    || { tail -n 60 "$log"; exit 1; }
  echo "    $SECONDS s"
  modules=("$work/emulation-$name"/_core*.so)
  emulation="${modules[0]}"
fi

# 2. a venv without torch, and the module in a folder of its own
venv="$work/venv"
if [ ! -x "$venv/bin/pytest" ] || [ constraints.txt -nt "$venv/bin/pytest" ]; then
  echo "==> venv without torch"
  rm -rf "$venv"
  python -m venv "$venv"
  "$venv/bin/python" -m pip install -qq --constraint constraints.txt "${wheel[0]}[test]"
  "$venv/bin/python" -m pip uninstall -qq --yes cbkernels
  touch "$venv/bin/pytest"
fi
"$venv/bin/python" -m pip install -qq --no-deps --target "$work/$name/site" "${wheel[0]}"
module=("$work/$name"/site/cbkernels/_core*.so)
for built in "${module[0]}" $emulation; do
  grep -q "$symbol" "$built" || { echo "sanitize: $built is not instrumented" >&2; exit 1; }
done

# 3. the tests, in an empty folder
empty="$(mktemp -d)"
reports="$work/$name/reports"
mkdir -p "$reports"
finish() {  # a report that a test captured is in these files (UBSan prints to stderr only: --capture=sys lets it through)
  status=$?
  rm -rf "$empty"
  for report in "$reports"/report.*; do
    [ -f "$report" ] || continue
    echo "==> $report"
    head -n 60 "$report" | cut -c 1-240
    status=1
  done
  exit "$status"
}
trap finish EXIT
cp -r tests "$empty/tests"
rules="$PWD/tests/sanitizers"
cd "$empty"
export PYTHONPATH="$work/$name/site" PYTHONMALLOC=malloc
export OMP_NUM_THREADS=4 OPENBLAS_NUM_THREADS=1 CBKERNELS_SANITIZER="$kind"
# Leaks: the interpreter keeps memory on purpose, tests/ count ours.
everywhere="halt_on_error=1:abort_on_error=1:log_path=$reports/report"
# No false stacks: GCC 12 does not align them for vectors of 64 bytes, which it copies arrays with (GCC bug 110027).
export ASAN_OPTIONS="$everywhere:detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=0"
export UBSAN_OPTIONS="$everywhere:print_stacktrace=1:suppressions=$rules/undefined.supp"
export TSAN_OPTIONS="$everywhere:second_deadlock_stack=1:die_after_fork=0:history_size=4:suppressions=$rules/thread.supp"
# libstdc++ too: the runtime must find __cxa_throw when it starts, and Python does not bring it
preload="$runtime $("$compiler" -print-file-name=libstdc++.so.6)"
instrumented() { LD_PRELOAD="$preload" "$venv/bin/python" "$@"; }

SECONDS=0
echo "==> large inputs on several threads under $kind"
instrumented tests/sanitizers/stress.py
echo "    $SECONDS s"
if [ -f tests/fuzz.py ]; then
  instrumented tests/fuzz.py --cases "${CASES:-300}"
fi
echo "==> tests under $kind"
# The files beside the rooms: these are of Python alone and call the same kernels. Left out: random inputs, of which
# there were some just now, what measures memory (a sanitizer's is a multiple of it), and what asks for more memory than
# there is (a sanitizer's `operator new` ends the process instead of throwing bad_alloc).
# Under ThreadSanitizer only those that ask for threads.
kernels=()
for file in tests/test_*.py; do
  case "$file" in */test_memory.py | */test_random_against_reference.py) continue ;; esac
  if [ "$name" = address ] || grep -qE 'num_threads|threading' "$file"; then kernels+=("$file"); fi
done
instrumented -m pytest "${kernels[@]}" --import-mode=importlib -p no:cacheprovider -q -W error --capture=sys \
  --deselect tests/test_refusals.py::test_memory_that_cannot_be_had_is_an_exception "$@"
if [ -n "$emulation" ]; then
  SECONDS=0
  echo "==> the emulated CUDA backend under $kind"
  # the named cases only: other tests launch hundreds of times as much
  CBKERNELS_EMULATION="$emulation" instrumented -m pytest tests/test_named_cases.py --import-mode=importlib \
    -p no:cacheprovider -q -W error --capture=sys -k emulat "$@"
  echo "    $SECONDS s"
fi
