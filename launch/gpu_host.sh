#!/usr/bin/env bash
# Trains on all GPUs of one host.
#   launch/gpu_host.sh [--dry-run] --config FILE --workdir DIR [--config.field=value ...] [--resume | --fresh]
# Relative paths are taken from the root of the repository. JAXVL_VENV (default .venv) is made on first use; jaxvl is
# installed there in place, so that it always is this tree. --dry-run prints the commands and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
parse "$@"
venv="${JAXVL_VENV:-.venv}"
[ -x "$venv/bin/jaxvl" ] || do_run python3 -m venv "$venv"
[ -x "$venv/bin/jaxvl" ] || do_run "$venv/bin/pip" install -e ".[cuda12]"
do_run "$venv/bin/jaxvl" doctor --workdir "$workdir"
# Preallocating leaves no room for the display or a second job; XLA grows as needed instead.
do_run env XLA_PYTHON_CLIENT_PREALLOCATE=false "$venv/bin/jaxvl" train "${words[@]}"
