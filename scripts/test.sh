#!/usr/bin/env bash
# What `make test` runs. One profile for everything, so that the end-to-end tests use what the unit tests built.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
    echo "not root: tests that need network namespaces with several user ids will print SKIPPED; run as root for all of them"
fi
# For checks with servers and clients that are not Debian's. It says what cannot be had here; those checks are SKIPPED then.
e2e/peers/install & peers=$!

# Everything in one go, so that dependencies are built with one set of features; the end-to-end tests start the programs
# that this makes.
cargo build --workspace --all-targets
wait $peers || true
cargo test --workspace --no-fail-fast

# The whole mesh on this machine, the way a new user starts it: every step of the tour has to hold.
if [ "$(id -u)" -eq 0 ]; then
    target/debug/isthmus --name test up --once
else
    echo "SKIPPED: the tour of \`isthmus up --once\`, which needs several user ids, and so root"
fi
