# shellcheck shell=bash
# Shared by the launch scripts: flags, and running or printing a command.
dry=0 words=() config="" workdir=""

wrong() { echo "$0: $*" >&2; exit 2; }

# Takes --dry-run out of the words; `rest` holds the others
take_dry_run() {
  rest=()
  while [ $# -gt 0 ]; do
    if [ "$1" = --dry-run ]; then dry=1; else rest+=("$1"); fi
    shift
  done
}

# Whoever starts a command again must not have it begin anew each time
no_fresh() {
  local word
  for word in "$@"; do
    [ "$word" != --fresh ] || wrong "--fresh: a run that is started again would begin anew each time; name another --workdir"
  done
}

# The flags of `jaxvl train`, which go into `words`
parse() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --dry-run) dry=1; shift; continue ;;
      --config | --workdir)
        [ $# -gt 1 ] || wrong "$1 needs a value"
        if [ "$1" = --config ]; then config="$2"; else workdir="$2"; fi
        words+=("$1" "$2"); shift 2; continue ;;
      --config=*) config="${1#*=}" ;;
      --workdir=*) workdir="${1#*=}" ;;
      --config.*=* | --resume | --folds) ;;
      --fresh) no_fresh "$1" ;;
      *) wrong "$1: no such flag; known are --dry-run, --config, --workdir, --config.FIELD=VALUE, --resume, --folds" ;;
    esac
    words+=("$1"); shift
  done
  [ -n "$config" ] || wrong "--config FILE is needed"
  [ -n "$workdir" ] || wrong "--workdir DIR is needed"
}

# A slice is not rented for a config that is not in the tree which goes there; an absolute path may be on its volumes
check_config() {
  case "$config" in /*) return ;; esac
  [ -e "${config%:*}" ] || [ -e "configs/${config%:*}.py" ] || wrong "--config $config: no such file in $PWD"
}

# Words as the shell takes them back
quote() { printf '%q ' "$@" | sed 's/ $//'; }

do_run() {
  if [ "$dry" = 1 ]; then quote "$@"; echo; else "$@"; fi
}
