#!/usr/bin/env bash
# Names the Debian packages that this machine lacks; as root it installs them.
#   scripts/packages.sh demo|test|bench|images
# Each line of the table: the program that shows the package is there, the package, who needs it.
set -euo pipefail
purpose="${1:?usage: scripts/packages.sh demo|test|bench|images}"
table="
cc gcc demo,test,bench,images
make make demo,test,bench,images
ip iproute2 demo,test,bench
nft nftables demo,test,bench,images
setpriv util-linux demo,test,bench
nsenter util-linux demo,test,bench
curl curl test,bench
nginx nginx-light test,bench
redis-server redis-server test
psql postgresql-client test
pg_ctlcluster postgresql test,images
iperf3 iperf3 test,bench
dig dnsutils test
nc netcat-openbsd test
socat socat test
openssl openssl test
exim4 exim4-daemon-light test
haproxy haproxy bench
wrk wrk bench
gnuplot gnuplot-nox bench
jq jq images
strip binutils images
busybox busybox-static images
"
missing=()
while read -r program package needed_by; do
    [ -n "$program" ] || continue
    case ",$needed_by," in *",$purpose,"*) ;; *) continue ;; esac
    PATH="$PATH:/usr/sbin:/sbin:/usr/lib/postgresql/15/bin" command -v "$program" >/dev/null 2>&1 || missing+=("$package")
done <<<"$table"
[ ${#missing[@]} -gt 0 ] || exit 0
names="$(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')"
if [ "$(id -u)" -ne 0 ]; then
    echo "This machine lacks: $names"
    echo "Install them with:  sudo apt-get install -y --no-install-recommends $names"
    exit 1
fi
echo "installing $names"
export DEBIAN_FRONTEND=noninteractive
log="$(mktemp)"
if ! { apt-get update && apt-get install -y --no-install-recommends $names; } >"$log" 2>&1; then
    tail -n 20 "$log"
    echo "could not install: $names (the whole output is in $log)"
    exit 1
fi
