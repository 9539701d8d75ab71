#!/usr/bin/env bash
# The mesh on a real Kubernetes: brings the cluster of e2e/cluster up (or takes that of KUBECONFIG), builds, packs and
# loads the images, runs e2e/tests/kube.rs, and removes the cluster if it was not up before.
#   scripts/e2e-kubernetes.sh [PART-OF-A-CHECK'S-NAME...]
# KEEP=1 leaves the cluster up. MINUTES_LEFT=N: with less than are needed it says so and does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
began=$SECONDS
cluster=e2e/cluster/cluster
# Bringing up takes a minute, building and packing up to ten on two cores, the checks ten; the programs of Kubernetes
# take fifteen more when they are not in the cache.
minutes_needed=35

if [ "${MINUTES_LEFT:-$minutes_needed}" -lt "$minutes_needed" ]; then
    echo "SKIPPED: the mesh on Kubernetes: it wants $minutes_needed minutes, and $MINUTES_LEFT are left"
    exit 0
fi
if [ -z "${KUBECONFIG:-}" ] && [ "$(id -u)" -ne 0 ]; then
    echo "SKIPPED: the mesh on Kubernetes: a cluster on this machine needs root; or set KUBECONFIG to a cluster of yours"
    exit 0
fi

timed() { # WORDS COMMAND...
    local words="$1" start=$SECONDS
    shift
    echo "== $words"
    "$@"
    echo "== $words: $((SECONDS - start)) s"
}

scripts/packages.sh images
was_up=no
[ -n "${KUBECONFIG:-}" ] || ! $cluster env >/dev/null 2>&1 || was_up=yes
finish() {
    [ -n "${foreign:-}" ] || [ "$was_up" = yes ] || [ -n "${KEEP:-}" ] || timed "the cluster goes" env -u KUBECONFIG $cluster down
}
foreign="${KUBECONFIG:-}"
trap finish EXIT
timed "the cluster" $cluster up
eval "$($cluster env)"
# The whole workspace, so that dependencies are built with the same features as for `make test`, and not again.
timed "programs" "${CARGO:-cargo}" build --workspace --bins
timed "images" scripts/images.sh --from target/debug
if [ -z "$foreign" ]; then
    timed "images to the nodes" $cluster load target/images/*-"$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')".tar
    export ISTHMUS_RANGES=10.244.0.0/16,10.96.0.0/16
fi
ISTHMUS_E2E_KUBERNETES=1 timed "checks" "${CARGO:-cargo}" test --workspace --test kube -- "$@"
echo "the mesh on Kubernetes: $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s"
