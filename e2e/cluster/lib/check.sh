# What a machine must have. Everything that is missing is named at once, with the way to get it.

# program, Debian package, what for
needed_programs="
etcd etcd-server the API server's store
containerd containerd runs the pods
runc runc starts containers
ctr containerd loads images
bridge iproute2 the network between nodes
ip iproute2 namespaces
nsenter util-linux namespaces
unshare util-linux namespaces
pgrep procps processes of a node
iptables iptables kube-proxy's rules
conntrack conntrack kube-proxy's connections
nft nftables rules
openssl openssl certificates
jq jq images
curl curl tests
tcpdump tcpdump the wire between nodes
"
cni_plugins=/usr/lib/cni           # where Debian's containernetworking-plugins puts them
busybox=/bin/busybox               # busybox-static: the pause container and the tests' shell

missing_packages() {
    local program package rest
    while read -r program package rest; do
        [ -n "$program" ] || continue
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null 2>&1 || echo "$package"
    done <<<"$needed_programs"
    [ -x "$cni_plugins/bridge" ] || echo containernetworking-plugins
    [ -x "$busybox" ] && ! ldd "$busybox" >/dev/null 2>&1 || echo busybox-static
}

# What no package gives.
missing_abilities() {
    [ "$(uname -m)" = x86_64 ] || [ "$(uname -m)" = aarch64 ] || echo "a processor of amd64 or arm64 (this is $(uname -m))"
    grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null || echo "the overlay file system (modprobe overlay)"
    grep -qw cgroup2 /proc/filesystems || echo "cgroups in the kernel"
    unshare --mount --net --pid --uts --fork true 2>/dev/null || echo "the right to make namespaces (a privileged container has it)"
    [ "$(awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)" -ge 3 ] || echo "3 GiB of free memory"
    mkdir -p "$state"
    case "$(stat -f -c %T "$state")" in
        overlayfs | tmpfs) echo "a disk below $state: containers cannot be kept on an overlay (set ISTHMUS_E2E_STATE)" ;;
    esac
    rmdir --ignore-fail-on-non-empty "$state"
}

# Go is needed only while programs are missing from the cache.
missing_go() {
    programs_are_built && return 0
    local found
    found="$(GOTOOLCHAIN=local go version 2>/dev/null | awk '{ print substr($3, 3) }')"
    if [ -z "$found" ]; then
        echo "Go $go_version_min or newer, to build Kubernetes (https://go.dev/dl; Debian 12's package is too old)"
    elif [ "$(printf '%s\n' "$go_version_min" "$found" | sort -V | head -n 1)" != "$go_version_min" ]; then
        echo "Go $go_version_min or newer, to build Kubernetes (here is $found)"
    fi
}

# As root the packages are installed; whatever else is missing ends the run.
check_machine() {
    local packages lacks
    [ "$(id -u)" -eq 0 ] || die "must be root (namespaces, cgroups, mounts): sudo e2e/cluster/cluster up, or KUBECONFIG of your own cluster"
    packages="$(missing_packages | sort -u | tr '\n' ' ')"
    if [ -n "$packages" ]; then
        command -v apt-get >/dev/null || die "this machine lacks the programs of: $packages"
        install_packages "$packages"
    fi
    lacks="$(missing_abilities; missing_go)"
    [ -z "$lacks" ] || die "this machine lacks:"$'\n'"$(sed 's/^/  - /' <<<"$lacks")"
}

# Services of these packages are not wanted: the cluster starts its own.
install_packages() {
    local log
    log="$(mktemp)"
    export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
    # shellcheck disable=SC2086 # a list
    { apt-get -o DPkg::Lock::Timeout=300 update && apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends $1; } >"$log" 2>&1 ||
        die "could not install $1: $(tail -n 3 "$log")"
    rm "$log"
}

cluster_check() {
    local packages lacks
    packages="$(missing_packages | sort -u | tr '\n' ' ')"
    lacks="$(missing_abilities; missing_go)"
    [ -z "$packages" ] || say "packages: $packages(installed by \`up\` as root)"
    [ -z "$lacks" ] || say "$lacks"
    [ -n "$packages$lacks" ] || say "this machine has what it takes"
    programs_are_built || say "the programs are not in $programs yet: the first \`up\` builds them, about 15 minutes of processor time"
    [ -z "$lacks" ]
}
