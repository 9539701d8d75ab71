# The CRDs of the Gateway API. They belong to a cluster, not to the mesh: here they come out of its Go module.

gateway_api_version=1.6.1 # also in e2e/conformance/go.mod: the suite wants the definitions of its own version
gateway_api_channel=standard

cluster_gateway_api() {
    local folder definition kubectl=("$programs/kubectl" --kubeconfig "$admin_config")
    [ -z "$foreign_config" ] || kubectl=("$(foreign_kubectl)")
    folder="$(go mod download -json "sigs.k8s.io/gateway-api@v$gateway_api_version" | jq -r .Dir)"
    [ -d "$folder/config/crd/$gateway_api_channel" ] || die "the module sigs.k8s.io/gateway-api v$gateway_api_version cannot be downloaded"
    for definition in "$folder/config/crd/$gateway_api_channel"/gateway.networking.k8s.io_*.yaml; do
        # A policy that forbids to go back a version: tests do.
        [[ "$definition" != *_vap_* ]] || continue
        # On the server's side: they are too long for the annotation that kubectl keeps otherwise.
        "${kubectl[@]}" apply --server-side --force-conflicts -f "$definition"
    done
}
