#!/usr/bin/env bash
# The mesh on a real Kubernetes: brings the cluster of e2e/cluster up, builds, packs and loads the images, runs
# e2e/tests/kube.rs, and removes the cluster if it was not up before. Or it takes the cluster of KUBECONFIG, where the
# images have been loaded, and leaves it as it was.
#   scripts/e2e-kubernetes.sh [PART-OF-A-CHECK'S-NAME...]
# KEEP=1 leaves the cluster up. MINUTES=N: it ends within so many minutes, whatever hangs. A machine that cannot run a
# cluster is no failure: SKIPPED and the reason, exit status 0.
set -uo pipefail
cd "$(dirname "$0")/.."
source e2e/cluster/lib/settings.sh # $programs, $logs, the ranges; $foreign_config, if KUBECONFIG is of a user's cluster
cluster=e2e/cluster/cluster
cargo="${CARGO:-cargo}"
end=$((SECONDS + ${MINUTES:-600} * 60))
# Otherwise Ctrl-C would not reach what it starts.
at_a_terminal=()
[ ! -t 0 ] || at_a_terminal=(--foreground)
going_seconds=90 # for the cluster's removal, and to say how things stand

say() { printf '== %s\n' "$*"; }
skip() { say "SKIPPED: the mesh on Kubernetes: $*"; exit 0; }
fail() { say "FAILED: the mesh on Kubernetes: $*"; exit 1; }

# step MINUTES WORDS COMMAND...: bounded, and by the end of all; says how long it took.
step() {
    local minutes="$1" words="$2" began=$SECONDS left=$((end - going_seconds - SECONDS)) status
    shift 2
    [ "$left" -gt $((minutes * 60)) ] && left=$((minutes * 60))
    [ "$left" -gt 0 ] || skip "no time is left for: $words"
    say "$words"
    timeout "${at_a_terminal[@]}" --kill-after=20 "$left" "$@"
    status=$?
    [ $status -ne 124 ] || say "$words: did not end within $left s"
    say "$words: $((SECONDS - began)) s"
    return $status
}

removed() {
    rm -f "${said:-}"
    [ -n "$foreign_config" ] || [ "$was_up" = yes ] || [ -n "${KEEP:-}" ] ||
        timeout --kill-after=10 $((going_seconds - 30)) env -u KUBECONFIG $cluster down || say "the cluster could not be removed: make cluster-down"
}

# What one wants to see of a run that failed, since the cluster is gone afterwards.
picture() {
    local what
    say "how things stand"
    timeout 10 kubectl get nodes,pods -A -o wide 2>&1 | cut -c1-160
    for what in deployment/istiod daemonset/ztunnel daemonset/mesh-cni; do
        echo "-- $what"
        timeout 10 kubectl -n istio-system logs "$what" --all-pods --prefix --tail=15 2>&1 | cut -c1-400
    done
}

was_up=no
if [ -z "$foreign_config" ]; then
    [ "$(id -u)" -eq 0 ] || skip "a cluster on this machine needs root; or set KUBECONFIG to a cluster of yours"
    ! $cluster env >/dev/null 2>&1 || was_up=yes
    # Building the programs of Kubernetes takes up to fifteen minutes, all else twenty.
    minutes_needed=20
    [ -s "$programs/versions" ] || minutes_needed=35
    [ $(((end - SECONDS) / 60)) -ge $minutes_needed ] || skip "it wants $minutes_needed minutes, and $(((end - SECONDS) / 60)) are left"
    lacks="$($cluster check 2>&1)" || skip "this machine lacks: $(tr '\n' ';' <<<"$lacks")"
    { scripts/packages.sh cluster && scripts/packages.sh images; } || skip "packages cannot be installed"
    step 30 "programs of Kubernetes" $cluster build || skip "the programs of Kubernetes could not be built"
fi
trap removed EXIT
step 6 "the cluster" $cluster up || fail "the cluster did not come up: $(tail -qn 2 "$logs"/*.log 2>/dev/null | cut -c1-300)"
eval "$($cluster env)"
# As `make test` builds, so that nothing is built twice.
step 30 "programs" "$cargo" build --workspace --all-targets || fail "the programs do not build"
if [ -z "$foreign_config" ]; then
    step 6 "images" scripts/images.sh --from target/debug || fail "the images cannot be made"
    step 4 "images to the nodes" $cluster load target/images/*-"$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')".tar ||
        fail "the nodes do not take the images"
    export ISTHMUS_RANGES="$pods_range,$services_range"
fi
# No check begins in the last minutes: the longest one takes two, and five before it says that something did not come.
export ISTHMUS_E2E_KUBERNETES=1 ISTHMUS_E2E_SECONDS=$((end - SECONDS - going_seconds - 300))
[ $ISTHMUS_E2E_SECONDS -gt 0 ] || skip "no time is left for the checks"
# What they print is kept, too: why a check failed is the last that is said.
said="$(mktemp)"
if ! step 300 "checks" "$cargo" test --workspace --test kube -- "$@" > >(tee "$said"); then
    picture
    say "why"
    grep -E '^[a-z0-9_]+ \.\.\. FAILED' "$said" | cut -c1-2000 || tail -n 20 "$said"
    fail "a check failed"
fi
say "the mesh on Kubernetes: ok, $((SECONDS / 60)) min $((SECONDS % 60)) s"
