# What is printed: one line per step with the time that it took, one line that says why something stops.
say() { printf '%s\n' "$*"; }

# step WORDS COMMAND...: says what is done, does it, says how long it took.
step() {
    local words="$1" start now
    shift
    start=$(date +%s%N)
    printf '  %-52s' "$words"
    if ! "$@"; then
        printf 'FAILED\n'
        return 1
    fi
    now=$(date +%s%N)
    printf '%6d ms\n' $(((now - start) / 1000000))
}

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
