#!/usr/bin/env bash
# Installs this tree in a virtual environment, in place, so that it always is the tree as it stands.
#   launch/install.sh [--dry-run] EXTRA        EXTRA: tpu, cuda12, or another extra of setup.py
# JAXVL_VENV (default .venv) is made with the newest Python of 3.13, 3.12, 3.11 that is here and can make environments; TPU
# images of Ubuntu 22.04 have 3.10 alone, and get 3.11 from their package manager (by sudo). JAXVL_PYTHON names another.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
take_dry_run "$@"
[ "${#rest[@]}" = 1 ] || wrong "name one extra: launch/install.sh tpu"
venv="${JAXVL_VENV:-.venv}"

serves() { "$1" -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

python() {
  local name
  for name in ${JAXVL_PYTHON:+"$JAXVL_PYTHON"} python3.13 python3.12 python3.11 python3; do
    if serves "$name"; then echo "$name"; return; fi
  done
}

if [ ! -x "$venv/bin/python" ]; then
  found="$(python)"
  if [ -z "$found" ]; then
    if ! command -v apt-get >/dev/null || ! command -v sudo >/dev/null; then
      wrong "no Python 3.11, 3.12 or 3.13 with venv is here; install one and name it by JAXVL_PYTHON"
    fi
    wait=(-o DPkg::Lock::Timeout=600)  # seconds; a new machine is at its own updates
    do_run sudo apt-get "${wait[@]}" update -q
    do_run sudo apt-get "${wait[@]}" install -y -q python3.11 python3.11-venv
    found=python3.11
  fi
  do_run "$found" -m venv "$venv"
fi
do_run "$venv/bin/python" -m pip install -q -e ".[${rest[0]}]"
