# A unit is the control plane or a node: a network namespace, and a process 1 of its own in namespaces for processes,
# mounts and names. When process 1 ends the kernel ends whatever the unit ran, containers too, and drops their mounts.

# On a machine of cgroup v1 runc makes groups in the hierarchy of v2 too, where one is mounted beside the others.
cgroup_hierarchies() {
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        echo /sys/fs/cgroup
    else
        awk '($3 == "cgroup" || $3 == "cgroup2") && index($2, "/sys/fs/cgroup/") == 1 { print $2 }' /proc/mounts
    fi
}

# The unit's own programs live in `system`; a kubelet makes `kubepods` beside it.
cgroups_up() {
    local unit="$1" at
    for at in $(cgroup_hierarchies); do
        mkdir -p "$at/$name/$unit"
        if [ -e "$at/cgroup.controllers" ]; then
            hand_down "$at" "$at/$name" "$at/$name/$unit"
        elif [ -e "$at/cpuset.cpus" ]; then
            inherit_cpus "$at" "$name" "$unit" system
        fi
        mkdir -p "$at/$name/$unit/system"
    done
}

hand_down() { # cgroup v2: each controller is switched on from the top
    local at
    for at in "$@"; do
        sed 's/\(^\| \)/\1+/g' "$at/cgroup.controllers" >"$at/cgroup.subtree_control" 2>/dev/null || true
    done
}

inherit_cpus() { # cgroup v1: a new cpuset is empty and takes no process
    local at="$1" part
    shift
    for part in "$@"; do
        mkdir -p "$at/$part"
        cat "$at/cpuset.cpus" >"$at/$part/cpuset.cpus"
        cat "$at/cpuset.mems" >"$at/$part/cpuset.mems"
        at="$at/$part"
    done
}

# unit_start UNIT PROGRAM: PROGRAM of inside/ is the unit's process 1.
unit_start() {
    local unit="$1" program="$2"
    cgroups_up "$unit"
    mkdir -p "$logs"
    (
        for at in $(cgroup_hierarchies); do echo "$BASHPID" >"$at/$name/$unit/system/cgroup.procs"; done
        exec setsid nsenter --net="/run/netns/$name-$unit" \
            unshare --mount --pid --uts --ipc --fork --kill-child=KILL --propagation private \
            "$here/inside/$program" "$unit" >>"$logs/$unit.log" 2>&1 </dev/null
    ) &
    echo $! >"$state/$unit.pid"
}

# The outer process of a unit, if it lives: a number in a file may belong to somebody else by now.
unit_process() {
    local process
    process="$(cat "$state/$1.pid" 2>/dev/null)" || return 1
    [ "$(stat -Lc %i "/proc/$process/ns/net" 2>/dev/null)" = "$(stat -Lc %i "/run/netns/$name-$1" 2>/dev/null)" ] || return 1
    echo "$process"
}

unit_first() {
    local process
    process="$(unit_process "$1")" && pgrep -P "$process" | head -n 1
}

in_unit() {
    local unit="$1" first
    shift
    first="$(unit_first "$unit")" || die "$unit does not run"
    nsenter --target "$first" --mount --net --pid --uts --ipc -- "$@"
}

unit_stop() {
    local unit="$1" process at
    if process="$(unit_process "$unit")"; then
        kill -KILL "$process" 2>/dev/null || true
    fi
    # Whatever outlived its process 1 (a process of the host that was put into the cgroup) goes by its cgroup.
    until_true 20 "the end of $unit's processes" cgroups_are_empty "$unit"
    for at in $(cgroup_hierarchies); do
        [ ! -d "$at/$name/$unit" ] || find "$at/$name/$unit" -depth -type d -exec rmdir {} +
    done
    # A namespace goes when the kernel comes to it; the cable, which has a name at the switch, goes now.
    [ "$unit" = control ] || in_network ip link delete "$unit" 2>/dev/null || true
    ! [ -e "/run/netns/$name-$unit" ] || ip netns delete "$name-$unit"
    rm -f "$state/$unit.pid"
}

cgroups_are_empty() {
    local unit="$1" at left
    for at in $(cgroup_hierarchies); do
        [ -d "$at/$name/$unit" ] || continue
        left="$(find "$at/$name/$unit" -name cgroup.procs -exec cat {} + 2>/dev/null)"
        [ -z "$left" ] && continue
        # shellcheck disable=SC2086 # a list of numbers
        kill -KILL $left 2>/dev/null || true
        return 1
    done
}
