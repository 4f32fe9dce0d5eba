# Shared by the launch scripts: flags, and running or printing a command.
dry=0 words=() workdir=""

parse() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --dry-run) dry=1 ;;
      --workdir) workdir="${2:?--workdir needs a folder}"; words+=("$1" "$2"); shift ;;
      *) words+=("$1") ;;
    esac
    shift
  done
  case " ${words[*]-} " in *" --config "*) ;; *) echo "$0: --config FILE is needed" >&2; exit 2 ;; esac
  [ -n "$workdir" ] || { echo "$0: --workdir DIR is needed" >&2; exit 2; }
}

quoted() { printf '%q ' "${words[@]}" | sed 's/ $//'; }

do_run() {
  if [ "$dry" = 1 ]; then printf '%q ' "$@" | sed 's/ $//'; echo; else "$@"; fi
}
