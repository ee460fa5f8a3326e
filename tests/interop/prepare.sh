#!/usr/bin/env bash
# What the runners in this folder have in common; they source it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
missing=()

# A folder for all that is installed and written, which is gone at the end.
make_work() {
    work=$(mktemp -d)
    trap clean_up EXIT
    export TMPDIR=$work/tmp
    mkdir "$TMPDIR"
}

clean_up() {
    if [[ -n ${runner:-} ]] && kill -0 "$runner" 2>/dev/null; then
        kill "$runner"
        wait "$runner" || true
    fi
    rm -rf "$work"
}

# Notes Debian's package $2 if there is no program $1.
need() {
    command -v "$1" >/dev/null || missing+=("$2")
}

install_missing() {
    [[ ${#missing[@]} -gt 0 ]] || return 0
    echo "# installing ${missing[*]}"
    require_root
    export DEBIAN_FRONTEND=noninteractive
    quietly apt-get update
    quietly apt-get install -y --no-install-recommends "${missing[@]}"
}

require_root() {
    if [[ $(id -u) -ne 0 ]]; then
        echo "missing: ${missing[*]}; install them, or run this as root" >&2
        exit 2
    fi
}

# Debian's nginx and HAProxy where they are missing, with the corpus that they are sent.
unpack_servers() {
    cp -r "$here/servers" "$root/tests/corpus" "$work"
    PATH=$PATH:/usr/sbin
    missing=()
    need nginx nginx
    need haproxy haproxy
    [[ ${#missing[@]} -gt 0 ]] || return 0
    unpack_missing
    SERVER_LIBRARIES=$(echo "$work"/debian/usr/lib/*-linux-gnu)
    export SERVER_LIBRARIES
}

# Debian's promtool where it is missing, with what it is to check.
unpack_promtool() {
    cp -r "$root/examples/prometheus" "$work"
    missing=()
    need promtool prometheus
    unpack_missing
}

# What is missing is unpacked and not installed, as Debian would start it at ports that others use.
unpack_missing() {
    local archive archives=$work/archives
    [[ ${#missing[@]} -gt 0 ]] || return 0
    echo "# unpacking ${missing[*]}"
    require_root
    mkdir -p "$archives/partial" "$work/debian"
    quietly apt-get update
    quietly apt-get install -y --no-install-recommends --download-only -o Dir::Cache::archives="$archives" "${missing[@]}"
    for archive in "$archives"/*.deb; do
        dpkg-deb -x "$archive" "$work/debian"
    done
    PATH=$work/debian/usr/sbin:$PATH:$work/debian/usr/bin
}

# npm's packages, beside copies of the scripts, so that nothing is left behind in the tree.
install_npm_packages() {
    cp "$here"/{package.json,package-lock.json} "$here"/*.mjs "$work"
    echo "# installing npm packages"
    quietly npm ci --prefix "$work" --ignore-scripts --no-audit --no-fund
}

# Builds wsgate, unless WSGATE names one.
build() {
    if [[ -n ${WSGATE:-} ]]; then
        wsgate=$(realpath "$WSGATE")
        return
    fi
    echo "# building wsgate"
    cargo build --quiet --release --locked --manifest-path "$root/Cargo.toml"
    wsgate=${CARGO_TARGET_DIR:-$root/target}/release/wsgate
}

# Runs the script $2 of the copies, with the rest as its arguments, for $1 minutes at most.
run_node() {
    local minutes=$1
    shift
    cd "$work"
    INTEROP_WORK=$work WSGATE=$wsgate timeout --kill-after=20 "${minutes}m" node "$@" </dev/null &
    runner=$!
    wait "$runner"
}

# What a command prints is of interest only if it fails.
quietly() {
    "$@" >"$work/log" 2>&1 </dev/null || {
        cat "$work/log" >&2
        return 1
    }
}
