# Images: those that a cluster needs itself, made here, and those of whoever uses it.
pack_image="$here/../../scripts/image.sh"

machine_architecture() { case "$(uname -m)" in aarch64) echo arm64 ;; *) echo amd64 ;; esac; }

base_images() {
    local root
    mkdir -p "$state/images"
    root="$(mktemp -d)"
    chmod 755 "$root"
    cp "$busybox" "$root/busybox"
    "$pack_image" "$state/images/pause.tar" "$pause_image" "$(machine_architecture)" "$root" /busybox sleep 2147483647
    rm "$root/busybox"
    cp "$programs/coredns" "$root/coredns"
    "$pack_image" "$state/images/coredns.tar" "$coredns_image" "$(machine_architecture)" "$root" /coredns
    rm -r "$root"
}

load_images() {
    local archive node
    [ $# -gt 0 ] || die "load which archives?"
    [ -z "$foreign_config" ] || die "images come into a cluster of yours by its own means: \`kind load image-archive TAR\`, or a registry"
    for archive in "$@"; do
        for node in "${nodes[@]}"; do
            in_unit "$node" ctr --namespace k8s.io images import - <"$archive" >>"$logs/images.log" 2>&1 ||
                die "$node does not take $archive: $(tail -n 1 "$logs/images.log")"
        done
    done
}
