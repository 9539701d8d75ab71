# What is printed: one line per step with the time that it took, one line that says why something stops.
say() { printf '%s\n' "$*"; }

# step WORDS COMMAND...: says what is done, does it, says how long it took. The command is not asked whether it failed:
# a function that is asked goes on after its own failures.
step() {
    local start now
    doing="$1"
    shift
    printf '  %-52s' "$doing"
    start=$(date +%s%N)
    "$@"
    now=$(date +%s%N)
    doing=""
    printf '%6d ms\n' $(((now - start) / 1000000))
}
doing=""
trap '[ -z "$doing" ] || printf "FAILED\n  (what it left is in the way of nothing: up and down remove it; logs are in %s)\n" "$logs"' EXIT

die() {
    printf 'cluster: %s\n' "$*" >&2
    exit 1
}

# until_true SECONDS WHAT COMMAND...: waits for a level, and says what did not come.
until_true() {
    local seconds="$1" what="$2" deadline
    shift 2
    deadline=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || die "$what did not come within $seconds s; the logs are in $logs"
        sleep 0.2
    done
}
