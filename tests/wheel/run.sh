#!/usr/bin/env bash
# What a user gets: `run.sh FOLDER` installs the wheel from FOLDER into a new venv without torch, and runs the
# tests from an empty folder that holds nothing but tests/ (the source folder would shadow the wheel). More
# arguments go to pytest. Called by `make test-wheel`; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
root="$PWD"
folder="$(cd "${1:?folder with one wheel}" && pwd)"
shift
wheels=("$folder"/cbkernels-*.whl)
if [ "${#wheels[@]}" != 1 ] || [ ! -f "${wheels[0]}" ]; then
  echo "$folder must hold one wheel of cbkernels" >&2
  exit 1
fi
archive="$(find "$folder" -maxdepth 1 -name 'cbkernels-*.tar.gz' | head -n 1)"

empty="$(mktemp -d)"
trap 'rm -rf "$empty"' EXIT
echo "==> venv without torch: $(basename "${wheels[0]}")"
"${PYTHON:-python3}" -m venv "$empty/venv"
python="$empty/venv/bin/python"
# first as a user does, alone: NumPy and nothing else
"$python" -m pip install -qq --disable-pip-version-check --constraint constraints.txt "${wheels[0]}"
installed="$("$python" -m pip list --format freeze --disable-pip-version-check | sed 's/=.*//' | sort | tr '\n' ' ')"
echo "==> pip install brought: $installed"
for package in $installed; do
  case "$package" in cbkernels | numpy | pip | setuptools) ;;
    *) echo "the wheel must bring NumPy only, not $package" >&2; exit 1 ;; esac
done
mkdir "$empty/work"
cp -r tests "$empty/work/tests"
cd "$empty/work"
"$python" -I -c "
import math, numpy as np, cbkernels as cb
r = cb.bundle_entropy(np.zeros((4, 3), np.float32), np.array([0, 0, 1, 1]))
print('==>', r)
assert (r.num_bundles, r.num_conflicting) == (1, 1) and abs(r.entropy - math.log(2)) < 1e-15"
"$empty/venv/bin/cbkernels" info
"$python" -m pip install -qq --disable-pip-version-check --constraint "$root/constraints.txt" "${wheels[0]}[test]"
if "$python" -c 'import torch' 2>/dev/null; then
  echo "torch came along with [test]; this run must do without" >&2
  exit 1
fi
echo "==> tests, from a folder that holds only tests/"
CBKERNELS_WHEEL="${wheels[0]}" CBKERNELS_SDIST="$archive" \
  "$python" -I -m pytest tests --import-mode=importlib -p no:cacheprovider -ra -q -W error "$@"
