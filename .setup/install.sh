#!/usr/bin/env bash
# Creates .venv and installs the pinned dependencies, with pip's own progress; does nothing when they are there.
# Usage: .setup/install.sh [dev]    dev adds what `make test` needs.
set -euo pipefail
cd "$(dirname "$0")/.."
want=${1:-run}
files=(requirements.txt)
[ "$want" = dev ] && files+=(requirements-dev.txt)
stamp=.venv/installed-$want

say() { printf '%s\n' "$*"; }
fail() { printf '\n%s\n' "$*" >&2; exit 2; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 || fail "'$python' was not found; install Python 3.11 or newer, or name one: make run PYTHON=/path/to/python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "$("$python" --version) is too old; Python 3.11 or newer is needed: make run PYTHON=/path/to/python3.11"

fingerprint=$(cat "${files[@]}" requirements.lock | cksum)
if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null)" = "$fingerprint" ]; then exit 0; fi

if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  "$python" -c 'import ensurepip' 2>/dev/null ||
    fail "Python $version has no 'ensurepip', so it cannot make a virtual environment; install it (Debian, Ubuntu: apt install python$version-venv) and start again"
  rm -rf .venv
  say "Creating .venv with $("$python" --version) ..."
  "$python" -m venv .venv || fail "Could not create .venv in $PWD; check that the folder is writable and the disk is not full"
fi

# torch alone and exactly first; the lock then keeps every later install from replacing it by another build of several gigabytes.
say "Installing $(grep -m1 '^torch' requirements.txt) (the largest part, about 200 MB without CUDA) ..."
.venv/bin/python -m pip install --disable-pip-version-check "$(grep -m1 '^torch==' requirements.txt)" ||
  fail "torch could not be installed; see pip's message above (no network, a full disk, or a Python that torch 2.13 has no build for)"
say "Installing the rest ..."
.venv/bin/python -m pip install --disable-pip-version-check -c requirements.lock "${files[@]/#/-r}" ||
  fail "A dependency could not be installed; see pip's message above, then start again: what was downloaded is kept"
printf '%s' "$fingerprint" > "$stamp"
say "Dependencies are ready."
