# Kubernetes, CoreDNS and Helm, built from their Go modules into the cache: no prebuilt binary is fetched.

command -v go >/dev/null 2>&1 || PATH="$PATH:/usr/local/go/bin" # where Go's own archive puts it

kubernetes_programs=(kubectl kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)

programs_are_built() {
    local program
    [ "$(cat "$programs/versions" 2>/dev/null)" = "$kubernetes_version $coredns_version $helm_version" ] || return 1
    for program in "${kubernetes_programs[@]}" coredns helm; do
        [ -x "$programs/$program" ] || return 1
    done
}

build_programs() {
    local at=0 program
    programs_are_built && return 0
    say "building Kubernetes $kubernetes_version into $programs: about 15 minutes of processor time, once"
    mkdir -p "$programs"
    # Reproducible, without C; half of the processors, because tests may run beside it.
    export CGO_ENABLED=0 GOFLAGS=-buildvcs=false GOTOOLCHAIN=local
    step "sources" kubernetes_module
    for program in "${kubernetes_programs[@]}"; do
        at=$((at + 1))
        step "$program ($at of 8)" kubernetes_program "$program"
    done
    step "coredns (7 of 8)" module_program "github.com/coredns/coredns@v$coredns_version"
    step "helm (8 of 8)" module_program "helm.sh/helm/v3/cmd/helm@v$helm_version" "$(helm_knows)"
    echo "$kubernetes_version $coredns_version $helm_version" >"$programs/versions"
}

# A module of our own that needs k8s.io/kubernetes. Its go.mod replaces the modules of k8s.io by folders that are not in
# the module; they exist as modules of the version with the same minor and patch.
kubernetes_module() {
    local folder="$cache/src/kubernetes" upstream program
    mkdir -p "$folder"
    cd "$folder"
    upstream="$(go mod download -json "k8s.io/kubernetes@v$kubernetes_version" | jq -r .GoMod)"
    {
        echo "module isthmus.test/kubernetes"
        grep -E '^(go|godebug) ' "$upstream"
        echo "require k8s.io/kubernetes v$kubernetes_version"
        sed -nE "s|^\s(k8s.io/[a-z-]+) => ./staging/.*|replace \1 => \1 v0.${kubernetes_version#1.}|p" "$upstream"
    } >go.mod
    {
        echo "package programs"
        for program in "${kubernetes_programs[@]}"; do echo "import _ \"k8s.io/kubernetes/cmd/$program\""; done
    } >programs.go
    go mod tidy 2>"$folder/tidy.log" || die "go mod tidy failed: $(tail -n 3 "$folder/tidy.log")"
}

kubernetes_program() {
    local version=k8s.io/component-base/version
    cd "$cache/src/kubernetes"
    go build -trimpath -o "$programs/$1" -ldflags "-s -w -X $version.gitVersion=v$kubernetes_version
        -X $version.gitMajor=${kubernetes_version%%.*} -X $version.gitMinor=$(cut -d. -f2 <<<"$kubernetes_version")" \
        "k8s.io/kubernetes/cmd/$1"
}

module_program() {
    GOBIN="$programs" go install -trimpath -ldflags "-s -w ${2:-}" "$1"
}

# The Kubernetes that Helm renders for without a cluster: 1.20, if it is not told.
helm_knows() {
    local package
    for package in chartutil lint/rules; do
        printf ' -X helm.sh/helm/v3/pkg/%s.k8sVersionMajor=%s' "$package" "${kubernetes_version%%.*}"
        printf ' -X helm.sh/helm/v3/pkg/%s.k8sVersionMinor=%s' "$package" "$(cut -d. -f2 <<<"$kubernetes_version")"
    done
}
