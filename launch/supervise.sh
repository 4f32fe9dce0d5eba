#!/usr/bin/env bash
# Runs a command, and again when it fails: what was killed or lost its devices goes on from its last checkpoint.
#   launch/supervise.sh COMMAND [WORD ...]
# Not again after exit code 0 (done), 2 (wrong input, which another start does not mend) or 130 (Ctrl-C), nor after a SIGTERM
# to this script, which goes on to the command. JAXVL_RESTARTS (20) failures in a row within JAXVL_STEADY (600) seconds of
# their start end it with the last code. JAXVL_PAUSE (10): seconds between starts.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "$0")/common.sh"
[ $# -gt 0 ] || wrong "name a command"
no_fresh "$@"
child="" stopping=0 failures=0
trap 'stopping=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM
trap : INT  # Ctrl-C reaches the command by itself; this waits for it

say() { echo "supervise: $*"; }

while :; do
  began=$SECONDS code=0
  "$@" &
  child=$!
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do  # a signal ends `wait` before the command has ended
    code=0
    wait "$child" || code=$?
  done
  child=""
  sleep 1 & wait $! || true  # a machine that goes away tells the command and this script, in either order
  [ "$stopping" = 0 ] || { say "stopped, exit code $code"; exit "$code"; }
  case "$code" in
    0) say "done"; exit 0 ;;
    2 | 130) say "ended, exit code $code"; exit "$code" ;;
  esac
  if [ $((SECONDS - began)) -ge "${JAXVL_STEADY:-600}" ]; then failures=0; fi
  failures=$((failures + 1))
  [ "$failures" -le "${JAXVL_RESTARTS:-20}" ] || { say "ended, exit code $code, $failures times in a row"; exit "$code"; }
  say "exit code $code; start $failures of ${JAXVL_RESTARTS:-20} in ${JAXVL_PAUSE:-10} s"
  sleep "${JAXVL_PAUSE:-10}" & wait $! || true
  [ "$stopping" = 0 ] || { say "stopped, exit code $code"; exit "$code"; }
done
