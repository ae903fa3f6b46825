#!/usr/bin/env bash
# Download every locked file, on the host, and check its sha256:
#   docker/wheels/     what the image or .venv installs (requirements.lock, openmp.lock, and dev.lock if asked: download.sh dev)
#   data/raw/wheels/   wheels that are read as data (assets.lock)
# For CPython 3.11 on the Linux that ENGINE runs, x86-64 or aarch64, whatever Python downloads them.
# Needs python3 with pip 20.3 or later, or a container engine, whose base image has them.
# Files that are already here and complete are not downloaded again.
set -euo pipefail
cd -P "$(dirname "$0")/.."
. docker/host.sh
python=${PYTHON:-python3}

fail() {
    echo "fetch: error: $*" >&2
    exit 1
}

# Of pip's settings in the environment, those that say where files come from; PIP_USER, PIP_TARGET and the like do not belong here
for name in $(compgen -e | grep '^PIP_' | grep -vxE 'PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|TRUSTED_HOST|PROXY|CERT|CLIENT_CERT|KEYRING_PROVIDER|USE_FEATURE|USE_DEPRECATED|RETRIES|(DEFAULT_)?TIMEOUT|(NO_)?CACHE_DIR|CONFIG_FILE)'); do
    unset "$name"
done
export PIP_REQUIRE_VIRTUALENV=0

# unusable PYTHON: why its pip cannot download, or nothing. pip 20.2 and older read only the last of several --platform options.
unusable() {
    local version
    version=$("$1" -m pip --version 2> /dev/null | cut -d ' ' -f 2) || version=""
    case $version in
        "") echo "'$1 -m pip' does not run, but it is needed to download. Install pip (Debian: apt-get install python3-pip)" ;;
        [0-9].* | 1[0-9].* | 20.[0-2] | 20.[0-2].*) echo "pip $version of $1 is too old: 20.3 is the first that can download for another platform. Update it ($1 -m pip install --upgrade pip)" ;;
    esac
}

mkdir -p docker/wheels data/raw/wheels
pip=("$python" -m pip)
reason=$(unusable "$python")
if [ -n "$reason" ]; then
    case ${ENGINE:-} in
        docker | podman)
            echo "[fetch] downloading with the pip of the base image, because $reason"
            RUN_IMAGE=$(bash docker/base_image.sh "$ENGINE" | cut -d ' ' -f 1)
            # pip's settings are those in PIP_ variables; the files and folders that they name are read there too
            READS=$(printenv | sed -n 's/^PIP_[A-Z_]*=//p' | tr ' ' '\n' | sed 's,^file://,,' | grep '^/' | tr '\n' ' ')
            export RUN_IMAGE READS NETWORK=1 RUN_LIMITS="without limits" RUN_WRITES=docker/wheels
            pip=(bash docker/run.sh sh -c 'python3 -m venv /tmp/pip && exec /tmp/pip/bin/python -m pip "$@"' pip)
            ;;
        *) fail "$reason, or name another interpreter: make PYTHON=/path/to/python3. A container engine needs neither." ;;
    esac
fi

cpu=$(architecture "${ENGINE:-venv}")
lock=docker/$(of_architecture "$cpu" requirements)
target=($(wheels_for "$cpu"))

# download FOLDER REQUIREMENTS [pip's options]
download() {
    local folder=$1 requirements=$2 log status=0
    shift 2
    log=$(mktemp)
    mkdir -p "$folder"
    "${pip[@]}" download --quiet --no-deps --require-hashes "${target[@]}" --dest "$folder" --requirement "$requirements" "$@" \
        > "$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        reason=$(grep -iE '^ *(.*error|expected|got)|WARNING: Retrying' "$log" | tail -n 4 | tr -s '\n ' ' ')
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

explain() {
    case $reason in
        *"DO NOT MATCH"*) exit_code=2 what="a downloaded file does not have the sha256 in $1, so it was deleted. Delete any copy of it in a local pip cache or mirror, and run the same command again; if it happens again, do not trust the source" ;;
        *) exit_code=1 what="the files of $1 cannot be downloaded. Check the network and pip's index settings (pip config list), then run the same command again; what has been downloaded is kept" ;;
    esac
    echo "fetch: error: $what. pip said: $reason" >&2
    exit "$exit_code"
}

# First only torch's CPU build: if pip's own settings offer it, no other index is needed; if not, PyTorch's is added.
echo "[fetch] downloading the files that docker/*.lock list (about 0.5 GB; files that are already here are only checked)"
torch=docker/wheels/.torch.lock
trap 'rm -f "$torch"' EXIT
awk '/^torch==/ {on = 1} on {print} on && !/\\$/ {exit}' "$lock" > "$torch"
reason=
download docker/wheels "$torch" --retries 1 \
    || download docker/wheels "$torch" --extra-index-url "${TORCH_INDEX:?}" \
    || explain "$lock (torch)"
download docker/wheels "$lock" || explain "$lock"
download docker/wheels docker/openmp.lock || explain docker/openmp.lock
download data/raw/wheels docker/assets.lock || explain docker/assets.lock
if [ "${1:-}" = dev ]; then
    download docker/wheels docker/dev.lock || explain docker/dev.lock
fi
