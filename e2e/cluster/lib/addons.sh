# What a cluster has that is not Kubernetes itself: DNS.
addons_up() {
    sed -e "s|@image@|$coredns_image|" -e "s|@address@|$dns_address|" "$here/manifests/coredns.yaml" |
        kubectl_admin apply -f - >>"$logs/addons.log" 2>&1 || die "CoreDNS was refused: $(tail -n 1 "$logs/addons.log")"
    kubectl_admin -n kube-system rollout status deployment/coredns --timeout=90s >>"$logs/addons.log" 2>&1 ||
        die "CoreDNS did not get ready: kubectl -n kube-system describe pods"
    # Asked as pods ask, by the service's address: kube-proxy works, and so do the paths between nodes.
    local node
    for node in "${nodes[@]}"; do
        until_true 30 "DNS on $node" in_unit "$node" "$busybox" nslookup -type=a kubernetes.default.svc.cluster.local "$dns_address"
    done
}
