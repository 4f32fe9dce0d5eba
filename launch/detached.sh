#!/usr/bin/env bash
# A supervised command that outlives the shell which starts it. It writes run.log, run.pid and run.stop into the root of this tree.
#   launch/detached.sh start COMMAND [WORD ...] | status | tail [LINES] | stop
# start   refuses while one runs; the command runs under launch/supervise.sh. A SIGTERM that reaches it and not the supervisor,
#         as a host's preemption that others of the run are told of, is no end: it saves, and starts again
# status  `running`, or the last line of the supervisor (`done`, `ended, exit code N`, and of a run that `stop` ended `stopped,
#         exit code N`), or `killed`, which what a machine ends that goes down or starts anew is, too, or `never`
# tail    the log from its last LINES (100) on, as it grows
# stop    asks it to save and end (SIGTERM), and waits until it has
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=launch/common.sh
source launch/common.sh
pid="$(cat run.pid 2>/dev/null || true)"
runs() { [ -n "$pid" ] && tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -q launch/supervise.sh; }  # the number may be another's by now

case "${1:-}" in
  start)
    shift
    [ $# -gt 0 ] || wrong "start: name a command"
    no_fresh "$@"
    ! runs || wrong "process $pid runs already (launch/detached.sh tail, or stop)"
    rm -f run.stop
    echo "supervise: started" >>run.log
    JAXVL_SIGTERM_CODE=143 setsid nohup launch/supervise.sh "$@" >>run.log 2>&1 </dev/null &
    echo $! >run.pid
    echo "started as process $!; its log is $PWD/run.log" ;;
  status)
    if [ -z "$pid" ]; then echo never; exit; fi
    if runs; then echo running; exit; fi
    last="$(grep -a '^supervise: ' run.log | tail -n 1 || true)"
    case "$last" in
      "supervise: done" | "supervise: ended"*) echo "${last#supervise: }" ;;
      "supervise: stopped"*) if [ -e run.stop ]; then echo "${last#supervise: }"; else echo killed; fi ;;
      *) echo killed ;;
    esac ;;
  tail) exec tail -n "${2:-100}" -F run.log ;;
  stop)
    runs || wrong "nothing runs here"
    touch run.stop
    kill -TERM "$pid"
    while runs; do sleep 0.2; done
    tail -n 1 run.log ;;
  *) wrong "name one of start, status, tail, stop" ;;
esac
