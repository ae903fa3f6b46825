#!/usr/bin/env bash
# Download every locked file, on the host, and check its sha256:
#   docker/wheels/     what the image or .venv installs (requirements.lock, and dev.lock if asked: download.sh dev)
#   data/raw/wheels/   wheels that are read as data (assets.lock)
# Needs python3 with pip 20.3 or later: it downloads files for CPython 3.11 on x86-64 Linux, whatever Python runs it.
# Files that are already here and complete are not downloaded again.
set -euo pipefail
cd -P "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() {
    echo "fetch: error: $*" >&2
    exit 1
}

"$python" -m pip --version > /dev/null 2>&1 \
    || fail "'$python -m pip' does not run, but it is needed to download. Install pip (Debian: apt-get install python3-pip) or name another interpreter: make PYTHON=/path/to/python3."
# pip 20.2 and older read only the last of several --platform options, and then find no file
pip_version=$("$python" -m pip --version | cut -d ' ' -f 2)
case $pip_version in [0-9].* | 1[0-9].* | 20.[0-2] | 20.[0-2].*)
    fail "pip $pip_version of $python is too old: 20.3 is the first that can download for another platform. Update it ($python -m pip install --upgrade pip), or name another interpreter: make PYTHON=/path/to/python3."
    ;;
esac
# Of pip's settings in the environment, those that say where files come from; PIP_USER, PIP_TARGET and the like do not belong here
for name in $(compgen -e | grep '^PIP_' | grep -vxE 'PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|NO_INDEX|TRUSTED_HOST|PROXY|CERT|CLIENT_CERT|KEYRING_PROVIDER|USE_FEATURE|USE_DEPRECATED|RETRIES|(DEFAULT_)?TIMEOUT|(NO_)?CACHE_DIR|CONFIG_FILE)'); do
    unset "$name"
done
export PIP_REQUIRE_VIRTUALENV=0

target=(--python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none)
for minor in $(seq 28 -1 5); do target+=(--platform "manylinux_2_${minor}_x86_64"); done
target+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64 --platform any)

# download FOLDER REQUIREMENTS [pip's options]
download() {
    local folder=$1 requirements=$2 log status=0
    shift 2
    log=$(mktemp)
    mkdir -p "$folder"
    "$python" -m pip download --quiet --no-deps --require-hashes "${target[@]}" --dest "$folder" --requirement "$requirements" "$@" \
        > "$log" 2>&1 || status=$?
    if [ "$status" -ne 0 ]; then
        reason=$(grep -E '^ *(ERROR|Expected|Got)|WARNING: Retrying' "$log" | tail -n 4 | tr -s '\n ' ' ')
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
torch=$(mktemp)
trap 'rm -f "$torch"' EXIT
awk '/^torch==/ {on = 1} on {print} on && !/\\$/ {exit}' docker/requirements.lock > "$torch"
reason=
download docker/wheels "$torch" --retries 1 \
    || download docker/wheels "$torch" --extra-index-url "${TORCH_INDEX:?}" \
    || explain "docker/requirements.lock (torch)"
download docker/wheels docker/requirements.lock || explain docker/requirements.lock
download data/raw/wheels docker/assets.lock || explain docker/assets.lock
if [ "${1:-}" = dev ]; then
    download docker/wheels docker/dev.lock || explain docker/dev.lock
fi
