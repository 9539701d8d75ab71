#!/usr/bin/env bash
# Builds github.com/envoyproxy/ratelimit from the Go module proxy, starts it with a redis-server of its own, and lets the
# waypoint's client of its protocol count with it. Needs Go, redis-server (Debian's package) and the network; not a part of
# `make test`. CARGO names the cargo to use, RATELIMIT_BUILD where to build (it is kept, a second run builds nothing).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=v1.4.1-0.20230427142404-e2a87f41d3a7
build=${RATELIMIT_BUILD:-$here/../../target/ratelimit}
run=$(mktemp -d)
mkdir -p "$build"
server=$build/ratelimit-$version
if [ ! -x "$server" ]; then
  work=$(mktemp -d)
  (cd "$work" && go mod init try >/dev/null 2>&1)
  source=$(cd "$work" && go mod download -json "github.com/envoyproxy/ratelimit@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  cp -r "$source" "$work/source" && chmod -R u+w "$work/source"
  (cd "$work/source" && go build -o "$server" ./src/service_cmd)
  rm -rf "$work"
fi
# Ports of the kernel's choice could be taken between the choice and the start; these are below its range.
redis=26379 grpc=28081 http=28080 debug=28070
stop() { kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$run"; }
pids=() && trap stop EXIT
redis-server --port $redis --bind 127.0.0.1 --save '' --appendonly no --dir "$run" >"$run/redis.log" &
pids+=($!)
# It panics where there is no redis at its start.
until [ "$(redis-cli -p $redis ping 2>/dev/null)" = PONG ]; do
  kill -0 "${pids[0]}" || { cat "$run/redis.log"; exit 1; }
  sleep 0.1
done
mkdir -p "$run/data/ratelimit/config" && cp "$here/shop.yaml" "$run/data/ratelimit/config/"
env USE_STATSD=false LOG_LEVEL=warn REDIS_SOCKET_TYPE=tcp REDIS_URL=127.0.0.1:$redis RUNTIME_ROOT="$run/data" RUNTIME_SUBDIRECTORY=ratelimit \
  RUNTIME_WATCH_ROOT=false HOST=127.0.0.1 PORT=$http GRPC_HOST=127.0.0.1 GRPC_PORT=$grpc DEBUG_HOST=127.0.0.1 DEBUG_PORT=$debug \
  "$server" >"$run/ratelimit.log" 2>&1 &
pids+=($!)
until curl -sf "http://127.0.0.1:$http/healthcheck" >/dev/null; do
  kill -0 "${pids[1]}" || { cat "$run/ratelimit.log"; exit 1; }
  sleep 0.2
done
RATELIMIT_ADDRESS=127.0.0.1:$grpc "${CARGO:-cargo}" test -p waypoint --lib limit::tests::real -- --ignored
