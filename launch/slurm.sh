#!/usr/bin/env bash
# Trains on the GPU nodes of a Slurm job: one process a node, with all of its GPUs.
#   sbatch --nodes 2 --gpus-per-node 4 --cpus-per-task 32 launch/slurm.sh --config FILE --workdir DIR [--config.field=value ...] [--resume] [--folds]
# Given from the root of the repository, where JAXVL_VENV (default .venv) holds jaxvl with its CUDA build of JAX
# (launch/install.sh cuda12 makes it). DIR must be one folder for all nodes. A node that fails ends the others, and they start
# again (launch/supervise.sh). Two minutes before the time limit the run saves, and the job queues itself again, unless it is done.
# On a preemption it saves, too, and starts again: a job that ends before its grace time does is not one that Slurm queues again.
# --dry-run prints the command and runs nothing.
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"  # Slurm runs a copy of this file that lies elsewhere
[ -f launch/common.sh ] || { echo "$0: give this from the root of the repository, not from $PWD" >&2; exit 2; }
# shellcheck source=launch/common.sh
source launch/common.sh
parse "$@"
venv="${JAXVL_VENV:-.venv}"
cores=(${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"})  # srun does not take it over since Slurm 22.05
command=(launch/supervise.sh srun --ntasks-per-node=1 --kill-on-bad-exit=1 "${cores[@]}" "$venv/bin/jaxvl" train --distributed "${words[@]}")
if [ "$dry" = 1 ]; then do_run "${command[@]}"; exit; fi

limit=0 code=0
JAXVL_SIGTERM_CODE=143 "${command[@]}" &
run=$!
trap 'limit=1; kill -TERM "$run" 2>/dev/null || true' USR1
trap 'kill -TERM "$run" 2>/dev/null || true' TERM
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do  # a signal ends `wait` before the command has ended
  code=0
  wait "$run" || code=$?
done
case "$limit $code" in
  "1 0" | "1 2" | "1 130" | "0 "*) exit "$code" ;;
esac
job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}"  # the number alone may be that of a whole array
echo "slurm: saved before the time limit; the job is queued again"
exec scontrol requeue "${job:-$SLURM_JOB_ID}"
