#!/usr/bin/env bash
# Names the Debian packages that this machine lacks; as root it installs them. --missing: names them and does no more.
#   scripts/packages.sh demo|test|bench|images|cluster [--missing]
# Each line of the table: the program that shows the package is there, the package, who needs it.
set -euo pipefail
purpose="${1:?usage: scripts/packages.sh demo|test|bench|images|cluster [--missing]}"
table="
cc gcc demo,test,bench,images
make make demo,test,bench,images
ip iproute2 demo,test,bench,cluster
bridge iproute2 cluster
nft nftables demo,test,bench,images,cluster
setpriv util-linux demo,test,bench
nsenter util-linux demo,test,bench,cluster
conntrack conntrack test,cluster
curl curl test,bench,cluster
nginx nginx-light test,bench
redis-server redis-server test
psql postgresql-client test
pg_ctlcluster postgresql test,images
iperf3 iperf3 test,bench
dig dnsutils test
nc netcat-openbsd test
socat socat test
openssl openssl test,cluster
exim4 exim4-daemon-light test
haproxy haproxy bench
wrk wrk bench
h2load nghttp2-client test,bench
python3 python3 test
pip3 python3-pip test
gnuplot gnuplot-nox bench
jq jq images,cluster
strip binutils images
busybox busybox-static images,cluster
etcd etcd-server cluster
containerd containerd cluster
runc runc cluster
/usr/lib/cni/bridge containernetworking-plugins cluster
iptables iptables cluster
tcpdump tcpdump cluster
pgrep procps cluster
"
missing=()
while read -r program package needed_by; do
    [ -n "$program" ] || continue
    case ",$needed_by," in *",$purpose,"*) ;; *) continue ;; esac
    PATH="$PATH:/usr/sbin:/sbin:/usr/lib/postgresql/15/bin" command -v "$program" >/dev/null 2>&1 || missing+=("$package")
done <<<"$table"
[ ${#missing[@]} -gt 0 ] || exit 0
names="$(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')"
if [ "${2:-}" = --missing ]; then
    echo "$names"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "This machine lacks: $names"
    echo "Install them with:  sudo apt-get install -y --no-install-recommends $names"
    exit 1
fi
echo "installing $names"
# RUNLEVEL: services that come with packages of the cluster are not started; it starts its own.
export DEBIAN_FRONTEND=noninteractive
[ "$purpose" != cluster ] || export RUNLEVEL=1
log="$(mktemp)"
if ! { apt-get -o DPkg::Lock::Timeout=300 update && apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $names; } >"$log" 2>&1; then
    tail -n 20 "$log"
    echo "could not install: $names (the whole output is in $log)"
    exit 1
fi
