# The control plane, seen from outside; inside/control is what runs.

kubectl_admin() { "$programs/kubectl" --kubeconfig "$admin_config" "$@"; }

control_up() {
    unit_start control control
    until_true 60 "the API server" kubectl_admin get --raw /readyz
    # What a namespace's pods need, made by the controllers: they work.
    until_true 30 "the controllers" kubectl_admin -n default get serviceaccount default
}
