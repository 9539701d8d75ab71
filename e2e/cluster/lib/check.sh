# What a machine must have. Everything that is missing is named at once, with the way to get it.

cni_plugins=/usr/lib/cni           # where Debian's containernetworking-plugins puts them
busybox=/bin/busybox               # busybox-static: the pause container and the tests' shell
packages="$here/../../scripts/packages.sh"

# What no package gives.
missing_abilities() {
    local gigabytes=4
    programs_are_built || gigabytes=14 # Go keeps the sources of Kubernetes and what it has compiled
    [ "$(uname -m)" = x86_64 ] || [ "$(uname -m)" = aarch64 ] || echo "a processor of amd64 or arm64 (this is $(uname -m))"
    grep -qw cgroup2 /proc/filesystems || echo "cgroups in the kernel"
    [ "$(awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)" -ge 3 ] || echo "3 GiB of free memory"
    mkdir -p "$state/probe"
    [ "$(df --output=avail -B1G "$state" | tail -n 1)" -ge "$gigabytes" ] || echo "$gigabytes GiB of free disk below $state"
    case "$(stat -f -c %T "$state")" in
        overlayfs | tmpfs) echo "a disk below $state: containers cannot be kept on an overlay (set ISTHMUS_E2E_STATE)" ;;
        *) unshare --mount --net --pid --uts --ipc --fork "$here/inside/probe" "$state/probe" 2>&1 ||
            echo "the right to make namespaces (a privileged container has it)" ;;
    esac
    rm -r "$state/probe"
    rmdir --ignore-fail-on-non-empty "$state"
    cgroups_are_ours || echo "cgroups that can be written (a privileged container has them)"
    if [ -n "$(ldd "$busybox" 2>/dev/null | grep -F '=>')" ]; then echo "a static $busybox (Debian: busybox-static)"; fi
}

cgroups_are_ours() {
    local at
    for at in $(cgroup_hierarchies); do
        mkdir "$at/$name-probe" 2>/dev/null && rmdir "$at/$name-probe" || return 1
    done
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
    local lacks
    [ "$(id -u)" -eq 0 ] || die "must be root (namespaces, cgroups, mounts): sudo e2e/cluster/cluster up, or KUBECONFIG of your own cluster"
    if [ -n "$("$packages" cluster --missing)" ]; then
        command -v apt-get >/dev/null || die "this machine lacks the programs of: $("$packages" cluster --missing)"
        "$packages" cluster
    fi
    lacks="$(missing_abilities; missing_go)"
    [ -z "$lacks" ] || die "this machine lacks:"$'\n'"$(sed 's/^/  - /' <<<"$lacks")"
}

cluster_check() {
    local missing lacks
    missing="$("$packages" cluster --missing)"
    [ "$(id -u)" -eq 0 ] || die "must be root (namespaces, cgroups, mounts)"
    lacks="$(missing_abilities; missing_go)"
    [ -z "$missing" ] || say "packages: $missing(installed by \`up\` as root)"
    [ -z "$lacks" ] || say "$lacks"
    [ -n "$missing$lacks" ] || say "this machine has what it takes"
    programs_are_built || say "the programs are not in $programs yet: the first \`up\` builds them, about 15 minutes of processor time"
    [ -z "$lacks" ]
}
