#!/usr/bin/env bash
# Trains on all GPUs of one host, and goes on when the run is killed.
#   launch/gpu_host.sh [--dry-run] --config FILE --workdir DIR [--config.field=value ...] [--resume] [--folds]
# Relative paths are taken from the root of the repository. JAXVL_VENV (default .venv) is made on first use (launch/install.sh).
# XLA takes XLA_PYTHON_CLIENT_MEM_FRACTION (0.92) of each GPU at the start; where something else needs the GPU, too, set
# XLA_PYTHON_CLIENT_PREALLOCATE=false. --dry-run prints the commands and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
parse "$@"
venv="${JAXVL_VENV:-.venv}"
extra=cuda12
case "$workdir" in gs://*) extra=cuda12,gcs ;; esac
[ -x "$venv/bin/jaxvl" ] || do_run launch/install.sh "$extra"
do_run "$venv/bin/jaxvl" doctor --workdir "$workdir"
do_run env "XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}" \
  launch/supervise.sh "$venv/bin/jaxvl" train "${words[@]}"
