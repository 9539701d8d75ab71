# The page: what is done, in order.

cluster_up() {
    local node
    if [ -n "$foreign_config" ]; then
        take_foreign
        return
    fi
    check_machine
    build_programs
    if unit_process control >/dev/null; then
        say "a cluster is up already; e2e/cluster/cluster status looks at it"
        return
    fi
    # What a run that was killed left behind would be in the way.
    remove_everything
    mkdir -p "$state" "$logs"
    say "Kubernetes $kubernetes_version, ${#nodes[@]} nodes, in $state"
    sysctls_save
    step "the switch" network_up
    step "certificates" pki_up
    step "images of its own" base_images
    step "etcd, API server, controllers, scheduler" control_up
    for node in "${nodes[@]}"; do step "$node starts" node_up "$node"; done
    step "nodes are ready" nodes_are_ready
    step "DNS" addons_up
    say "it is up; in this shell:  eval \"\$(e2e/cluster/cluster env)\""
}

# A cluster of the user's: nothing is started; what the tests need of it is looked at.
take_foreign() {
    local kubectl version ready
    kubectl="$(foreign_kubectl)"
    command -v helm >/dev/null || die "helm is not there"
    version="$("$kubectl" version -o json 2>/dev/null | jq -r '.serverVersion | "\(.major).\(.minor)"')" ||
        die "the cluster of KUBECONFIG=$foreign_config does not answer"
    # Below 1.31 field selectors and CEL rules of our CRDs are not there.
    [ "$(printf '%s\n' 1.31 "${version%+}" | sort -V | head -n 1)" = 1.31 ] || die "Kubernetes 1.31 or newer is needed, this is $version"
    ready="$("$kubectl" get nodes -o json | jq '[.items[] | select(any(.status.conditions[]; .type == "Ready" and .status == "True"))] | length')"
    [ "$ready" -ge 2 ] || die "two ready nodes are needed, this cluster has $ready (kind: a config with two workers)"
    say "taking the cluster of KUBECONFIG=$foreign_config: Kubernetes $version, $ready nodes are ready"
    say "its images are yours to load: \`kind load image-archive target/images/*.tar\`, or push them to your registry"
}

foreign_kubectl() { PATH="$PATH:$programs" command -v kubectl || die "kubectl is not there"; }

cluster_env() {
    if [ -n "$foreign_config" ]; then
        echo "export KUBECONFIG='$foreign_config'"
    else
        unit_process control >/dev/null || die "no cluster is up: e2e/cluster/cluster up"
        echo "export KUBECONFIG='$admin_config'"
        echo "export PATH='$programs':\"\$PATH\""
    fi
}

cluster_status() {
    local unit
    if [ -n "$foreign_config" ]; then
        say "the cluster of KUBECONFIG=$foreign_config:"
        "$(foreign_kubectl)" get nodes,pods --all-namespaces -o wide
        return
    fi
    for unit in control "${nodes[@]}"; do
        if unit_process "$unit" >/dev/null; then
            say "$unit runs, process $(unit_first "$unit")"
        else
            say "$unit does not run$([ ! -s "$logs/$unit.log" ] || echo ": $(tail -n 1 "$logs/$unit.log")")"
        fi
    done
    unit_process control >/dev/null && kubectl_admin get nodes,pods --all-namespaces -o wide
}
