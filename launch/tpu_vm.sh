#!/usr/bin/env bash
# A run on a Cloud TPU VM or a whole pod slice: the same commands for one worker and for many.
#   TPU_NAME=... TPU_ZONE=... launch/tpu_vm.sh [--dry-run] VERB [WORDS]
# up FLAGS     all of it: makes the slice, installs, trains, watches, and does it again after each preemption
# create       makes the slice of TPU_TYPE (as v5litepod-16); TPU_SPOT=1: preemptible; TPU_QUEUED=1: waits its turn in the queue
# install      copies this tree to every worker and installs it there (launch/install.sh)
# train FLAGS  starts the run on every worker, detached and supervised; the same command goes on with a run that ended
# state        of the slice; `status`: of the run on each worker
# tail [N]     the log of worker N (0) as it grows; `stop`: the run saves and ends; `delete`: the slice goes, the workdir stays
# FLAGS: --config FILE --workdir DIR [--config.field=value ...] [--resume] [--folds]. DIR must be one folder for all workers.
# Needs gcloud. TPU_PROJECT, TPU_VERSION (the image) may be set. --dry-run prints the commands and runs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
take_dry_run "$@"
verb="${rest[0]:-}"
rest=("${rest[@]:1}")
case "$verb" in
  up | create | install | train | state | status | tail | stop | delete) ;;
  *) wrong "${verb:-no verb}: name one of up, create, install, train, state, status, tail, stop, delete" ;;
esac
case "$verb" in
  up | train) parse "${rest[@]}"; check_config ;;
  tail) [ "${#rest[@]}" -le 1 ] || wrong "tail takes one number of a worker" ;;
  *) [ "${#rest[@]}" = 0 ] || wrong "$verb takes no ${rest[0]}" ;;
esac
[ -n "${TPU_NAME:-}" ] || wrong "set TPU_NAME to the name of the TPU VM"
[ -n "${TPU_ZONE:-}" ] || wrong "set TPU_ZONE to its zone, for example us-central2-b"
case "$verb" in
  up | create) [ -n "${TPU_TYPE:-}" ] || wrong "set TPU_TYPE to what to make, for example v5litepod-16" ;;
esac
place=(--zone "$TPU_ZONE" ${TPU_PROJECT:+--project "$TPU_PROJECT"})
vm=(gcloud compute tpus tpu-vm)
queue=(gcloud compute tpus queued-resources)

image() {  # the runtime of a kind of TPU
  case "${TPU_VERSION:-$TPU_TYPE}" in
    v5lite*) echo v2-alpha-tpuv5-lite ;;
    v5p*) echo v2-alpha-tpuv5 ;;
    v6e*) echo v2-alpha-tpuv6e ;;
    v2-[0-9]* | v3-[0-9]* | v4-[0-9]*) echo tpu-ubuntu2204-base ;;
    *) echo "${TPU_VERSION:-tpu-ubuntu2204-base}" ;;
  esac
}

on() { do_run "${vm[@]}" ssh "$TPU_NAME" "${place[@]}" --worker "$1" --command "$2"; }

# READY, PREEMPTED, ..., nothing where there is no such slice, UNKNOWN where nobody says so
state() {
  local ask=("${vm[@]}" describe "$TPU_NAME" "${place[@]}" --format "value(state)")
  "${ask[@]}" 2>/dev/null || case "$("${ask[@]}" 2>&1)" in *NOT_FOUND*) ;; *) echo UNKNOWN ;; esac
}

create() {
  local spot=()
  [ "${TPU_SPOT:-0}" = 0 ] || spot=(--spot)
  if [ "${TPU_QUEUED:-0}" = 0 ]; then
    do_run "${vm[@]}" create "$TPU_NAME" "${place[@]}" --accelerator-type "$TPU_TYPE" --version "$(image)" "${spot[@]}"
  else
    do_run "${queue[@]}" create "$TPU_NAME" "${place[@]}" --node-id "$TPU_NAME" --accelerator-type "$TPU_TYPE" \
      --runtime-version "$(image)" "${spot[@]}"
  fi
}

delete() {
  if [ "${TPU_QUEUED:-0}" = 0 ]; then
    do_run "${vm[@]}" delete "$TPU_NAME" "${place[@]}" --quiet
  else
    do_run "${queue[@]}" delete "$TPU_NAME" "${place[@]}" --quiet --force
  fi
}

install() {
  local archive="${TMPDIR:-/tmp}/jaxvl.tar.gz"
  do_run tar -czf "$archive" --exclude .git --exclude '.venv*' --exclude .cache --exclude ./runs --exclude ./data \
    --exclude ./run.log --exclude ./run.pid --exclude ./run.stop . &&
    do_run "${vm[@]}" scp "$archive" "$TPU_NAME:jaxvl.tar.gz" "${place[@]}" --worker all &&
    on all "mkdir -p jaxvl && tar -xzf jaxvl.tar.gz -C jaxvl && jaxvl/launch/install.sh tpu"
}

train() { on all "jaxvl/launch/detached.sh start .venv/bin/jaxvl train --distributed $(quote "${words[@]}")"; }

# Asks for a slice, once. The first time it fails at once where there is none to be had; after a preemption it asks again
make() {
  local request
  if [ "${TPU_QUEUED:-0}" != 0 ]; then
    request="$("${queue[@]}" describe "$TPU_NAME" "${place[@]}" --format "value(state.state)" 2>/dev/null || true)"
    case "$request" in
      "") ;;
      SUSPENDED | FAILED)  # what it gave was taken back; a new request that fails does so again
        if [ "$request" = FAILED ] && [ -n "$asked" ]; then
          "${queue[@]}" describe "$TPU_NAME" "${place[@]}" >&2
          exit 1
        fi
        delete || return 0
        asked="" lost=1 ;;
      *) return 0 ;;
    esac
  fi
  [ -z "$asked" ] || return 0
  [ -z "$met" ] || [ -n "$lost" ] || { echo "$TPU_NAME was deleted" >&2; exit 1; }
  if [ -z "$met" ]; then create; else create || { echo "$TPU_NAME: not to be had now; asked again"; return 0; }; fi
  asked=1
}

# Waits until the slice is there, making it where it is not
ready() {
  local now
  while now="$(state)"; [ "$now" != READY ]; do
    case "$now" in
      PREEMPTED | TERMINATED | STOPPED)  # what cannot be deleted yet is met again
        echo "$TPU_NAME is $now"
        if delete; then
          asked="" lost=1
          make
        fi ;;
      UNKNOWN)  # the network is away, unless it was never there
        [ -n "$met$asked" ] || { "${vm[@]}" describe "$TPU_NAME" "${place[@]}"; exit 1; } ;;
      "") make ;;
    esac
    sleep "${TPU_POLL:-30}"
  done
  met=1 asked="" lost=""
}

up() {
  if [ "$dry" = 1 ]; then create; install; train; return; fi
  local said now tries=0 met="" asked="" lost=""
  while :; do
    ready
    if ! install; then  # a new machine may not take keys yet, or be at its own updates
      tries=$((tries + 1))
      [ "$(state)" != READY ] || [ "$tries" -lt 5 ] || exit 1
      sleep "${TPU_POLL:-30}"
      continue
    fi
    tries=0
    train || true  # it may run already
    while now="$(state)"; [ "$now" = READY ] || [ "$now" = UNKNOWN ]; do
      said="$("${vm[@]}" ssh "$TPU_NAME" "${place[@]}" --worker all --command "jaxvl/launch/detached.sh status" || true)"
      case $'\n'"$said" in  # a line of each worker
        *$'\n'ended*) echo "$TPU_NAME: $(grep -m 1 '^ended' <<<"$said"); see launch/tpu_vm.sh tail" >&2; exit 1 ;;
        *$'\n'stopped*) echo "$TPU_NAME: stopped; the same command goes on"; exit 0 ;;
        *$'\n'killed* | *$'\n'never*) train || true ;;  # which leaves alone those that run
        *$'\n'running*) ;;
        *$'\n'"done"*) echo "$TPU_NAME: done; launch/tpu_vm.sh delete ends the bill"; exit 0 ;;
      esac
      sleep "${TPU_POLL:-30}"
    done
  done
}

case "$verb" in
  state) do_run "${vm[@]}" describe "$TPU_NAME" "${place[@]}" --format "value(state)" ;;
  status) on all "jaxvl/launch/detached.sh status" ;;
  tail) on "${rest[0]:-0}" "jaxvl/launch/detached.sh tail" ;;
  stop) on all "jaxvl/launch/detached.sh stop" ;;
  *) "$verb" ;;
esac
