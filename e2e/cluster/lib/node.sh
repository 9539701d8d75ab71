# A node, seen from outside; inside/node is what runs there.

node_up() {
    local node="$1"
    mkdir -p "$state/$node"/{upper,work,root,kubelet,containerd}
    network_node "$node"
    unit_start "$node" node
}

nodes_are_ready() {
    local node
    for node in "${nodes[@]}"; do
        until_true 90 "$node" node_is_ready "$node"
    done
}

node_is_ready() {
    [ "$(kubectl_admin get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]
}

# As if the power had gone: every process and namespace of the node ends, its disk stays.
node_reboot() {
    local node="${1:?which node?}"
    [ -d "$state/$node/root" ] || die "there is no node $node"
    unit_stop "$node"
    network_node "$node"
    unit_start "$node" node
    until_true 20 "the start of $node" unit_first "$node"  # before that `in_unit` would end all of this
    until_true 60 "the kubelet of $node" in_unit "$node" curl -sf http://127.0.0.1:10248/healthz
}
