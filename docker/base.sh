#!/usr/bin/env bash
# Print the name of the image that docker/Dockerfile builds on, making it first if need be. By BASE:
#   registry   the official Python image, pinned by digest
#   debian     built here from Debian's packages (needs mmdebstrap and root), for machines that reach no image registry
#   auto       registry if it can be pulled, else debian
# Usage: base.sh docker|podman
set -euo pipefail
engine=$1
registry_image=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
debian_image=lorabundle-base:bookworm
packages=python3,python3-venv,ca-certificates

say() { echo "[image] $*" >&2; }

fail() {
    echo "image: error: $*" >&2
    exit 1
}

from_registry() {
    "$engine" image inspect "$registry_image" > /dev/null 2>&1 || "$engine" pull --quiet "$registry_image" > /dev/null 2>&1 || return 1
    echo "$registry_image"
}

from_debian() {
    if ! "$engine" image inspect "$debian_image" > /dev/null 2>&1; then
        command -v mmdebstrap > /dev/null || fail "no image registry can be reached, and mmdebstrap, which builds the base from Debian's packages, is not installed. Install it (apt-get install mmdebstrap), or use ENGINE=venv."
        say "building the base image from Debian's packages"
        work=$(mktemp -d)
        trap 'rm -rf "$work"' EXIT
        SOURCE_DATE_EPOCH=0 mmdebstrap --quiet --variant=minbase --include="$packages" bookworm "$work/base.tar" >&2 \
            || fail "mmdebstrap could not build the base image. It needs root and a Debian mirror; its messages are above."
        "$engine" import "$work/base.tar" "$debian_image" > /dev/null
    fi
    echo "$debian_image"
}

case ${BASE:-auto} in
    registry) from_registry || fail "$registry_image cannot be pulled. Check the network, or build the base from Debian's packages: BASE=debian." ;;
    debian) from_debian ;;
    auto) from_registry || { say "no image registry can be reached"; from_debian; } ;;
    *) fail "BASE is '$BASE'; it can be auto, registry or debian." ;;
esac
