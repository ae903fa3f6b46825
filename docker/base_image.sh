#!/usr/bin/env bash
# Print the name of the image that docker/Dockerfile builds on, and what it is. Builds it first if it is missing. By BASE:
#   registry   the official Python image, pinned by digest
#   debian     built here from the Debian packages that debian.lock lists, for machines without an image registry. If Debian no
#              longer offers a locked version, the present one is used, named here, and noted in the report
#   auto       registry if it can be pulled, else debian
# DEBIAN_SOURCES names a sources.list to take the packages from, for example a snapshot that still has the locked versions.
# Usage: base_image.sh docker|podman [dev]   dev: with what the tests need besides, in the newest versions that Debian offers
#        base_image.sh lock                   write debian.lock and debian-aarch64.lock from what Debian offers now
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/host.sh"
engine=$1 purpose=${2:-}
registry_image=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
dev_packages=make,git,openssh-client,busybox,mawk,original-awk,qemu-user,chromium

say() { echo "[image] $*" >&2; }

fail() {
    echo "image: error: $*" >&2
    exit 1
}

known() { "$engine" image inspect "$1" > /dev/null 2>&1; }

from_registry() {
    known "$registry_image" || "$engine" pull --quiet "$registry_image" > /dev/null 2>&1 || return 1
    if [ "$purpose" != dev ]; then
        echo "$registry_image on $registry_image"
        return
    fi
    base=lorabundle-dev-base:$(echo "$registry_image $dev_packages" | sha256 | cut -c1-16)
    known "$base" || "$engine" build --quiet --tag "$base" - > /dev/null << END || fail "the packages that the tests need cannot be installed: ${dev_packages//,/ }. Check the network, or use ENGINE=venv."
FROM $registry_image
RUN apt-get update && apt-get install --yes --no-install-recommends ${dev_packages//,/ } && rm -rf /var/lib/apt/lists/*
END
    echo "$base on $registry_image"
}

packages_in() { grep -v '^#' "$1"; }

# The name of the base image with the packages of a list
name_of() { echo "lorabundle-base:$(packages_in "$1" | cat - "$here/base_image.sh" | sha256 | cut -c1-16)"; }

# bootstrap FOLDER [OPTION ...]: write base.tar to FOLDER, and `packages`, one line each: name version architecture sha256.
# The sha256 comes from Debian's signed index. apt checks each package against it before it installs the package.
bootstrap() {
    local folder=$1
    shift
    command -v mmdebstrap > /dev/null || fail "mmdebstrap is not installed. It builds the base image from Debian's packages, which is needed because no image registry can be reached. Install it (apt-get install mmdebstrap), or use ENGINE=venv."
    say "building the base image from Debian's packages"
    export folder
    # torch needs libstdc++6. Without usr-is-merged, usrmerge would be installed, and Perl with it. The last hook removes what depends on this machine.
    SOURCE_DATE_EPOCH=0 mmdebstrap --quiet --variant=essential --skip=output/dev \
        --include="python3,python3-venv,ca-certificates,libstdc++6,usr-is-merged${purpose:+,$dev_packages}" --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' "$@" \
        --customize-hook='export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
            chroot "$1" dpkg-query --show --showformat "\${Package}:\${Architecture}=\${Version}\n" | xargs apt-cache show \
                | awk "/^(Package|Version|Architecture|SHA256):/ {field[\$1] = \$2}
                    /^\$/ {print field[\"Package:\"], field[\"Version:\"], field[\"Architecture:\"], field[\"SHA256:\"]}" \
                | LC_ALL=C sort -u > "$folder/packages"' \
        --customize-hook='rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/* "$1"/etc/apt/preferences.d/* "$1"/etc/hostname "$1"/etc/resolv.conf' \
        bookworm "$folder/base.tar" ${DEBIAN_SOURCES:+"$DEBIAN_SOURCES"} > "$folder/log" 2>&1 && return
    tail -n 20 "$folder/log" >&2
    fail "mmdebstrap could not build the base image. It needs root and a Debian mirror; its last messages are above."
}

# One line for each package of LIST that differs from the lock, and for each package of the lock that LIST does not have
differences() {
    awk '/^#/ {next}
        FILENAME == ARGV[1] {version[$1] = $2; sum[$1] = $4; next}
        !($1 in version) {print $1 ": found " $2 ", not in the lock"; next}
        version[$1] != $2 {print $1 ": found " $2 ", locked " version[$1]}
        version[$1] == $2 && sum[$1] != $4 {print $1 ": " $2 " has sha256 " $4 ", locked " sum[$1]}
        {delete version[$1]; delete sum[$1]}
        END {for (name in version) print name ": missing, locked " version[name]}' "$lock" "$1" | LC_ALL=C sort
}

from_debian() {
    local drift="" names
    # apt installs the locked version as long as Debian offers it, even if there is a newer one
    packages_in "$lock" | awk '{print "Package: " $1 "\nPin: version " $2 "\nPin-Priority: 1001\n"}' > "$work/pins"
    pinned=(--setup-hook="cp '$work/pins' \"\$1/etc/apt/preferences.d/locked\"")
    if [ "$purpose" = dev ]; then
        base=$(name_of "$lock") base=lorabundle-dev-base:${base#*:}
        known "$base" || { bootstrap "$work" "${pinned[@]}" && "$engine" import "$work/base.tar" "$base" > /dev/null; }
        echo "$base on Debian packages, those of docker/${lock##*/} and more"
        return
    fi
    base=$(name_of "$lock")
    if ! known "$base"; then
        bootstrap "$work" "${pinned[@]}"
        drift=$(differences "$work/packages")
        base=$(name_of "$work/packages")
        case $drift in *" has sha256 "*) fail "a Debian package has the locked version but not the sha256 in docker/${lock##*/}. Do not trust the mirror that it came from. $(grep ' has sha256 ' <<< "$drift")" ;; esac
        known "$base" || "$engine" import "$work/base.tar" "$base" > /dev/null
    fi
    if [ -z "$drift" ]; then
        echo "$base on Debian packages as in docker/${lock##*/}"
        return
    fi
    say "warning: Debian no longer offers the locked base, so this image is built on newer packages. Packages that differ:"
    sed 's/^/[image]   /' <<< "$drift" >&2
    say "The report will name them. To get the locked versions, set DEBIAN_SOURCES to a sources.list that offers them (see CONTRIBUTING.md); to lock these, run docker/base_image.sh lock."
    names=$(cut -d: -f1 <<< "$drift" | paste -sd' ' -)
    echo "$base on Debian packages, not as in docker/${lock##*/}: $names"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# write_lock FILE [OPTION ...]: with the options of mmdebstrap
write_lock() {
    bootstrap "$work" "${@:2}"
    {
        echo "# Made by docker/base_image.sh lock: every Debian package of the base image, as name, version, architecture, sha256 of the .deb."
        cat "$work/packages"
    } > "$1.new"
    mv "$1.new" "$1"
}

case $engine in
    lock)
        write_lock "$here/debian.lock" --architectures=amd64
        bash "$here/emulate.sh" bash "$here/base_image.sh" lock-aarch64
        exit
        ;;
    lock-aarch64)
        write_lock "$here/debian-aarch64.lock" --architectures=arm64 --mode=root --skip=check/qemu
        exit
        ;;
esac
lock=$here/$(of_architecture "$(architecture "$engine")" debian)
case ${BASE:-auto} in
    registry) from_registry || fail "$registry_image cannot be pulled. Check the network, or build the base from Debian's packages: BASE=debian." ;;
    debian) from_debian ;;
    auto) from_registry || { say "no image registry can be reached"; from_debian; } ;;
    *) fail "BASE is '$BASE'; it can be auto, registry or debian." ;;
esac
