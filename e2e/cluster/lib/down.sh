# The way back: everything that `up` made goes, and what is left is said.

# A kubelet sets these for the whole machine.
kubelet_sysctls=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes)

sysctls_save() {
    local key
    for key in "${kubelet_sysctls[@]}"; do
        sysctl -e "$key" >>"$state/sysctls" 2>/dev/null || true
    done
}

sysctls_restore() { [ ! -e "$state/sysctls" ] || sysctl -q -p "$state/sysctls"; }

cluster_down() {
    if [ -n "$foreign_config" ]; then
        say "the cluster of KUBECONFIG=$foreign_config is yours and stays"
        return
    fi
    [ "$(id -u)" -eq 0 ] || die "must be root"
    step "nodes, control plane, network, disk" remove_everything
    local left
    left="$(leftovers)"
    [ -z "$left" ] || die "this is still there:"$'\n'"$left"
    say "nothing is left; the programs stay in $cache (rm -r $cache)"
}

remove_everything() {
    local unit at
    for unit in "${nodes[@]}" control; do unit_stop "$unit"; done
    # The cable's other end went with its namespace, unless `up` was stopped in between.
    ip link delete "$name" 2>/dev/null || true
    for at in $(cgroup_hierarchies); do
        [ ! -d "$at/$name" ] || rmdir "$at/$name"
    done
    for at in $(mounts_below_state); do umount --lazy "$at"; done
    sysctls_restore
    # --one-file-system: should a mount have stayed, what it shows is not ours.
    rm -rf --one-file-system "$state"
}

mounts_below_state() { awk -v below="$state/" 'index($2, below) == 1 { print $2 }' /proc/mounts | sort -r; }

leftovers() {
    local at
    ip netns list | grep -w "^$name-[a-z0-9]*" | sed 's/^/namespace /' || true
    ip -brief link | grep "^$name" | sed 's/^/interface /' || true
    for at in $(cgroup_hierarchies); do [ ! -d "$at/$name" ] || echo "cgroup $at/$name"; done
    mounts_below_state | sed 's/^/mount /'
    [ ! -e "$state" ] || echo "folder $state"
}
