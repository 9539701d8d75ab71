# What a cluster has that is not Kubernetes itself: DNS.
addons_up() {
    sed -e "s|@image@|$coredns_image|" -e "s|@address@|$dns_address|" "$here/manifests/coredns.yaml" |
        kubectl_admin apply -f - >>"$logs/addons.log" 2>&1 || die "CoreDNS was refused: $(tail -n 1 "$logs/addons.log")"
    kubectl_admin -n kube-system rollout status deployment/coredns --timeout=90s >>"$logs/addons.log" 2>&1 ||
        die "CoreDNS did not get ready: kubectl -n kube-system describe pods"
}
