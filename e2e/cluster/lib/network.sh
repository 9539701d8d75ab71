# The network: one bridge in the control plane's namespace is the switch. On the machine itself there is a single
# interface, its cable to that switch; nothing is forwarded, and no rule of the machine's firewall sees the nodes' packets.

network_up() {
    ip netns add "$name-control"
    in_network ip link set lo up
    in_network ip link add switch type bridge
    in_network ip address add "$control_address/24" dev switch
    in_network ip link set switch up
    ip link add "$name" type veth peer name machine netns "$name-control"
    plug machine
    ip address add "$machine_address/24" dev "$name"
    ip link set "$name" up
}

# Not `ip netns exec`: that gives the command another /sys, without the cgroups.
in_network() { nsenter --net="/run/netns/$name-control" "$@"; }
in_netns_of() { local node="$1"; shift; nsenter --net="/run/netns/$name-$node" "$@"; }

plug() {
    in_network ip link set "$1" master switch
    in_network ip link set "$1" up
}

# A node's namespace and its cable. Its pods are reached by its address: no overlay network.
network_node() {
    local node="$1" other
    ip netns add "$name-$node"
    ip -n "$name-control" link add "$node" type veth peer name eth0 netns "$name-$node"
    plug "$node"
    in_network ip route replace "$(pods_of "$node")" via "$(node_address "$node")"
    in_netns_of "$node" ip link set lo up
    in_netns_of "$node" ip address add "$(node_address "$node")/24" dev eth0
    in_netns_of "$node" ip link set eth0 up
    for other in "${nodes[@]}"; do
        [ "$other" = "$node" ] || in_netns_of "$node" ip route add "$(pods_of "$other")" via "$(node_address "$other")"
    done
    # The node's own programs must find a way to a service before kube-proxy's rules say where it really goes.
    in_netns_of "$node" ip route add "$services_range" dev eth0
    in_netns_of "$node" ip route add unreachable default metric 4278198272  # no way out, said at once
    in_netns_of "$node" sysctl -qw net.ipv4.ip_forward=1
}
