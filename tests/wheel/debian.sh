#!/usr/bin/env bash
# The source archive on another Debian: `debian.sh FOLDER RELEASE` (trixie, sid, ...) makes a chroot of that release in
# build/debian, which takes root and debootstrap, builds the archive in FOLDER there with the release's own compiler and
# Python, and has run.sh test that wheel. More arguments go to pytest. Called by `make test-debian`.
set -euo pipefail
cd "$(dirname "$0")/../.."
archive="$(find "${1:?folder with the source archive}" -maxdepth 1 -name 'cbkernels-*.tar.gz' | head -n 1)"
release="${2:?name of a Debian release}"
root="$PWD/build/debian/$release"
shift 2
if [ "$(id -u)" != 0 ] || ! command -v debootstrap >/dev/null; then
  echo "Debian $release: NOT TESTED HERE (needs root, and debootstrap: apt install debootstrap)" >&2
  exit 1
fi
if [ ! -f "$root/installed" ]; then
  echo "==> $root: Debian $release"
  rm -rf "$root"
  mkdir -p "$root"
  debootstrap --variant=minbase --include=python3-venv,python3-dev,g++,ca-certificates "$release" "$root" >"$root.log" \
    || { tail -n 20 "$root.log" >&2; exit 1; }
  touch "$root/installed"
fi
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt /etc/pip.conf; do
  if [ -f "$file" ]; then cp "$file" "$root$file"; fi
done
rm -rf "$root/clone"
mkdir "$root/clone"
cp -r tests constraints.txt "$archive" "$root/clone"
in_chroot='mount -t proc proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
unshare --mount --propagation private bash -c "$in_chroot" "$root" \
  /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin CBKERNELS_CUDA=OFF OMP_NUM_THREADS=1 \
  bash -euo pipefail -c '
    cd /clone
    python3 -m venv build
    build/bin/python -m pip wheel -qq --no-deps --constraint constraints.txt --wheel-dir dist cbkernels-*.tar.gz
    cp cbkernels-*.tar.gz dist
    tests/wheel/run.sh dist "$@"' in_chroot "$@"
