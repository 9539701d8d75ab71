#!/usr/bin/env bash
# Makes the images, each an archive in target/images that ctr, docker, podman and kind take; no daemon, no base image.
#   scripts/images.sh [--from FOLDER] [--hub HUB] [--tag TAG] [--arch amd64|arm64] [NAME...]
# Without --from, release programs are built, static ones. --from packs the programs of a folder (target/debug: what tests
# use); one that is linked dynamically takes its libraries along. NAME: some of them; all, without.
set -euo pipefail
cd "$(dirname "$0")/.."
machine() { case "$(uname -m)" in x86_64) echo amd64 ;; aarch64) echo arm64 ;; *) uname -m ;; esac; }
from="" hub="isthmus.test" tag="$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)" arch="$(machine)" wanted=()
while [ $# -gt 0 ]; do
    case "$1" in
        --from) from="$2"; shift 2 ;;
        --hub) hub="$2"; shift 2 ;;
        --tag) tag="$2"; shift 2 ;;
        --arch) arch="$2"; shift 2 ;;
        -*) sed -n '2,5s/^# //p' "$0" >&2; exit 2 ;;
        *) wanted+=("$1"); shift ;;
    esac
done

# image, program, Cargo package
table="
istiod-lite istiod-lite istiod-lite
ztunnel ztunnel ztunnel
mesh-cni mesh-cni mesh-cni
waypoint waypoint waypoint
isthmus isthmus isthmus
bookinfo bookinfo bookinfo
meshload meshload meshload
bookinfo-postgres - -
"
[ ${#wanted[@]} -gt 0 ] || mapfile -t wanted < <(awk 'NF { print $1 }' <<<"$table")
out="target/images"
roots="$(mktemp -d)"
trap 'rm -rf "$roots"' EXIT
mkdir -p "$out"

static_programs() {
    local target packages
    case "$arch" in
        amd64) target=x86_64-unknown-linux-gnu ;;
        arm64) target=aarch64-unknown-linux-gnu ;;
        *) echo "no such architecture: $arch" >&2; exit 2 ;;
    esac
    if [ "$arch" != "$(machine)" ]; then
        # The C parts (aws-lc, mimalloc) and the link need a compiler for the other side.
        local linker="${target%%-*}-linux-gnu-gcc"
        command -v "$linker" >/dev/null || { echo "images for $arch need $linker (Debian: gcc-${target%%-*}-linux-gnu)" >&2; exit 1; }
        rustup target list --installed | grep -qx "$target" || { echo "images for $arch need: rustup target add $target" >&2; exit 1; }
        export "CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_LINKER=$linker" "CC_${target//-/_}=$linker"
    fi
    mapfile -t packages < <(for name in "${wanted[@]}"; do awk -v name="$name" '$1 == name && $3 != "-" { print "-p"; print $3 }' <<<"$table"; done)
    # With --target, so that build scripts and macros, which run here, are not linked this way.
    [ ${#packages[@]} -eq 0 ] ||
        RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --target "$target" "${packages[@]}"
    from="target/$target/release"
}

# put ROOT FILE [PLACE]: a file of this machine, with the libraries that it is linked with.
put() {
    local root="$1" file="$2" place="${3:-$2}" library
    install -D -m 755 "$file" "$root$place"
    while read -r library; do
        [ -e "$root$library" ] || install -D -m 755 "$library" "$root$library"
    done < <(ldd "$file" 2>/dev/null | grep -oE '/[^ ]+')
}

# A program of ours, without what only a debugger reads: half of its size.
put_program() {
    put "$1" "$from/$program" "$entry"
    [ "$arch" != "$(machine)" ] || strip --strip-debug "$1$entry"
}

new_root() {
    local root="$roots/$1"
    mkdir -p "$root/etc"
    # A static resolver reads hosts and asks DNS; nothing else is there to ask.
    echo "hosts: files dns" >"$root/etc/nsswitch.conf"
    echo "$root"
}

# Rules are applied by the program nft, which reads names of protocols from /etc.
add_nft() {
    [ "$arch" = "$(machine)" ] || { echo "the nft of this machine is not for $arch: build mesh-cni's image on $arch" >&2; exit 1; }
    put "$1" "$(PATH="$PATH:/usr/sbin" command -v nft)" /usr/sbin/nft
    install -m 644 /etc/protocols "$1/etc/protocols"
}

# PostgreSQL as Debian packs it. Its start script wants a shell, so busybox is there.
postgres_root() {
    local root="$1" version library program
    version="$(ls /usr/lib/postgresql 2>/dev/null | sort -V | tail -n 1)"
    [ -n "$version" ] && [ -x /bin/busybox ] || { echo "bookinfo-postgres needs the packages postgresql and busybox-static" >&2; return 1; }
    for program in postgres initdb; do put "$root" "/usr/lib/postgresql/$version/bin/$program"; done
    put "$root" /bin/busybox /bin/sh
    for library in "/usr/lib/postgresql/$version/lib"/{plpgsql,dict_snowball}.so; do put "$root" "$library"; done
    mkdir -p "$root/usr/share/postgresql" "$root/data" "$root/tmp"
    cp -r "/usr/share/postgresql/$version" "$root/usr/share/postgresql/"
    cp -r --parents /usr/share/zoneinfo/Etc "$root/"
    echo "postgres:x:65532:65532::/data:/bin/sh" >"$root/etc/passwd"
    echo "postgres:x:65532:" >"$root/etc/group"
    install -m 755 e2e/sample/postgres.sh "$root/start"
    sed -i "s|@bin@|/usr/lib/postgresql/$version/bin|" "$root/start"
}

[ -n "$from" ] || static_programs
for name in "${wanted[@]}"; do
    read -r _ program _ < <(awk -v name="$name" '$1 == name' <<<"$table") || { echo "no image is called $name" >&2; exit 2; }
    root="$(new_root "$name")"
    user=0 entry="/usr/local/bin/$program"
    case "$name" in
        bookinfo-postgres)
            user=65532 entry=/start
            if ! postgres_root "$root"; then
                echo "left out: $name"
                continue
            fi ;;
        mesh-cni) put_program "$root"; add_nft "$root" ;;
        ztunnel) put_program "$root" ;;
        *) user=65532; put_program "$root" ;;
    esac
    USER_ID="$user" scripts/image.sh "$out/$name-$arch.tar" "$hub/$name:$tag" "$arch" "$root" "$entry"
    printf '%-20s %s  %s\n' "$name" "$(du -h "$out/$name-$arch.tar" | cut -f1)" "$out/$name-$arch.tar"
done
