#!/usr/bin/env bash
# What `make test` runs. One profile for everything, so that the end-to-end tests use what the unit tests built.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
    echo "not root: tests that need network namespaces with several user ids will print SKIPPED; run as root for all of them"
fi
# The programs first: the end-to-end tests start them as processes.
cargo build -p isthmus -p ztunnel -p istiod-lite -p mesh-cni
cargo test --workspace --no-fail-fast
