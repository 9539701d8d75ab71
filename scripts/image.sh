#!/usr/bin/env bash
# Packs a folder into an image archive, without a daemon and without a base image.
#   scripts/image.sh OUT.tar NAME:TAG amd64|arm64 FOLDER ENTRYPOINT [ARGUMENT...]
# The folder is the image's root. USER_ID (0) is who runs it. The archive is an OCI layout with the index that
# `docker load` reads beside it, so ctr, podman, skopeo, docker and `kind load image-archive` all take it. The same folder
# gives the same bytes.
set -euo pipefail
[ $# -ge 5 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
out="$(realpath -m "$1")" reference="$2" architecture="$3" folder="$4"
shift 4
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/blobs/sha256" "$(dirname "$out")"

# blob TYPE FILE: moves it among the blobs, prints its descriptor.
blob() {
    local digest size
    digest="$(sha256sum "$2" | cut -d' ' -f1)" size="$(stat -c %s "$2")"
    mv "$2" "$work/blobs/sha256/$digest"
    jq -cn --arg type "application/vnd.oci.image.$1" --arg digest "sha256:$digest" --argjson size "$size" \
        '{mediaType: $type, digest: $digest, size: $size}'
}
pack() { tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=posix --pax-option=delete=atime,delete=ctime "$@"; }

pack -C "$folder" -cf "$work/layer" .
layer="$(blob layer.v1.tar "$work/layer")"
jq -cn --arg architecture "$architecture" --arg user "${USER_ID:-0}" --argjson layer "$layer" \
    '{architecture: $architecture, os: "linux", rootfs: {type: "layers", diff_ids: [$layer.digest]},
      config: {User: $user, Entrypoint: $ARGS.positional, WorkingDir: "/",
               Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}}' --args "$@" >"$work/config"
config="$(blob config.v1+json "$work/config")"
jq -cn --argjson config "$config" --argjson layer "$layer" \
    '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config, layers: [$layer]}' >"$work/manifest"
manifest="$(blob manifest.v1+json "$work/manifest")"

echo '{"imageLayoutVersion":"1.0.0"}' >"$work/oci-layout"
jq -cn --argjson manifest "$manifest" --arg name "$reference" --arg architecture "$architecture" \
    '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [$manifest + {
        platform: {os: "linux", architecture: $architecture},
        annotations: {"io.containerd.image.name": $name, "org.opencontainers.image.ref.name": ($name | split(":") | last)}}]}' >"$work/index.json"
path() { jq -r '.digest | "blobs/" + sub(":"; "/")' <<<"$1"; }
jq -cn --arg config "$(path "$config")" --arg name "$reference" --arg layer "$(path "$layer")" \
    '[{Config: $config, RepoTags: [$name], Layers: [$layer]}]' >"$work/manifest.json"
pack -C "$work" -cf "$out" oci-layout index.json manifest.json blobs
