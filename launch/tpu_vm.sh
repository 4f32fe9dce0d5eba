#!/usr/bin/env bash
# Trains on a Cloud TPU VM or a whole pod slice: the same command on every worker.
#   TPU_NAME=... TPU_ZONE=... launch/tpu_vm.sh [--dry-run] --config FILE --workdir DIR [--config.field=value ...]
# Needs gcloud and a TPU that exists. The source tree is copied to every worker and installed there in place, so a second
# launch runs the tree as it is then. DIR must be one folder for all workers: a Filestore share or a bucket mounted with
# gcsfuse. The same command resumes after a preemption. --dry-run prints the commands and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/common.sh
parse "$@"
[ -n "${TPU_NAME:-}" ] || wrong "set TPU_NAME to the name of the TPU VM"
[ -n "${TPU_ZONE:-}" ] || wrong "set TPU_ZONE to its zone, for example us-central2-b"
on_all=(gcloud compute tpus tpu-vm)
where=("$TPU_NAME" --zone "$TPU_ZONE" --worker all)
do_run tar -czf /tmp/jaxvl.tar.gz --exclude .git --exclude '.venv*' --exclude .cache --exclude ./runs --exclude ./data .
do_run "${on_all[@]}" scp /tmp/jaxvl.tar.gz "$TPU_NAME:jaxvl.tar.gz" --zone "$TPU_ZONE" --worker all
do_run "${on_all[@]}" ssh "${where[@]}" --command \
  "mkdir -p jaxvl && tar -xzf jaxvl.tar.gz -C jaxvl && cd jaxvl && (test -x .venv/bin/jaxvl || (python3 -m venv .venv && .venv/bin/pip install -e '.[tpu]'))"
do_run "${on_all[@]}" ssh "${where[@]}" --command "cd jaxvl && .venv/bin/jaxvl train --distributed $(quoted)"
