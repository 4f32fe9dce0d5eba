#!/usr/bin/env bash
# Trains on the GPU nodes of a Slurm job: one process a node, with all of its GPUs.
#   sbatch --nodes 2 --gpus-per-node 4 --cpus-per-task 32 launch/slurm.sh --config FILE --workdir DIR [--config.field=value ...] [--resume] [--folds]
# Given from the root of the repository, where JAXVL_VENV (default .venv) holds jaxvl with its CUDA build of JAX
# (launch/install.sh cuda12 makes it). DIR must be one folder for all nodes. A node that fails ends the others, and they start
# again (launch/supervise.sh); two minutes before the time limit and on a preemption the run saves and ends, and a job that is
# queued again, or the same command, goes on. --dry-run prints the command and runs nothing.
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"  # Slurm runs a copy of this file that lies elsewhere
[ -f launch/common.sh ] || { echo "$0: give this from the root of the repository, not from $PWD" >&2; exit 2; }
# shellcheck source=launch/common.sh
source launch/common.sh
parse "$@"
venv="${JAXVL_VENV:-.venv}"
cores=(${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"})  # srun does not take it over since Slurm 22.05
do_run launch/supervise.sh srun --ntasks-per-node=1 --kill-on-bad-exit=1 "${cores[@]}" "$venv/bin/jaxvl" train --distributed "${words[@]}"
