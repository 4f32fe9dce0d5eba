#!/usr/bin/env bash
# Trains on a TPU slice of a GKE cluster, through XPK (pip install xpk): one job, started again when it fails, and not after
# wrong input (exit code 2). XPK of itself does so after codes from 127 on, and 1 is that of a worker that lost another. A
# SIGTERM (a node that is taken back) ends a run with 143 here: 0 would be a pod that is done.
#   GKE_CLUSTER=... GKE_PROJECT=... GKE_ZONE=... GKE_IMAGE=... TPU_TYPE=v5litepod-16 launch/gke.sh [--dry-run] NAME FLAGS
# NAME: of the job. FLAGS: --config FILE --workdir DIR [--config.field=value ...] [--resume] [--folds], paths as in the image
# and on the volumes of the cluster; DIR must be one folder for all workers. GKE_IMAGE is built from launch/Dockerfile and
# pushed. Needs docker, xpk and a cluster that it made. --dry-run prints the commands and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
take_dry_run "$@"
name="${rest[0]:-}"
[[ "$name" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || wrong "${name:-nothing}: give the job a name first, of a-z, 0-9 and -"
parse "${rest[@]:1}"
check_config
for variable in GKE_CLUSTER GKE_PROJECT GKE_ZONE GKE_IMAGE TPU_TYPE; do
  [ -n "${!variable:-}" ] || wrong "set $variable"
done
do_run docker build -f launch/Dockerfile --target tpu -t "$GKE_IMAGE" .
do_run docker push "$GKE_IMAGE"
do_run xpk workload create --cluster "$GKE_CLUSTER" --project "$GKE_PROJECT" --zone "$GKE_ZONE" --workload "$name" \
  --tpu-type "$TPU_TYPE" --num-slices 1 --max-restarts "${JAXVL_RESTARTS:-20}" --restart-on-exit-codes 1 \
  --docker-image "$GKE_IMAGE" \
  --command "env JAXVL_SIGTERM_CODE=143 jaxvl train --distributed $(quote "${words[@]}")"
