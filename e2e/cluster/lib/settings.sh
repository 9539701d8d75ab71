# Names, addresses, versions. Everything that the cluster makes in the kernel carries $name.
name="${ISTHMUS_E2E_NAME:-isthmus-e2e}"  # another name, state and network: another cluster beside it
cache="${ISTHMUS_E2E_CACHE:-/var/cache/isthmus-e2e}"  # programs built from source: slow to make, kept when the cluster goes
state="${ISTHMUS_E2E_STATE:-/var/lib/$name}"    # everything of one cluster: removed with it
programs="$cache/bin"
pki="$state/pki"
logs="$state/log"
nodes=(node1 node2)

kubernetes_version=1.34.4
coredns_version=1.12.4
helm_version=3.21.4
go_version_min=1.26.4  # what these versions of CoreDNS and Helm ask for

# One switch joins the machine, the control plane and the nodes. Pods of node N are 10.244.N.0/24.
network="${ISTHMUS_E2E_NETWORK:-10.90.0}"
control_address=$network.1
machine_address=$network.254
node_address() { echo "$network.1${1#node}"; }
pods_of() { echo "10.244.${1#node}.0/24"; }
pods_range=10.244.0.0/16
services_range=10.96.0.0/16
api_service_address=10.96.0.1
dns_address=10.96.0.10
api_url="https://$control_address:6443"

pause_image=isthmus.test/pause:1
coredns_image="isthmus.test/coredns:$coredns_version"

admin_config="$state/admin.conf"
# A cluster of the user's own, unless KUBECONFIG is ours.
foreign_config="${KUBECONFIG:-}"
[ "$foreign_config" != "$admin_config" ] || foreign_config=
