#!/usr/bin/env bash
# Build the environment that the stages run in, from docker/wheels/ and the lock only (no network):
#   setup.sh venv [dev]      .venv, for CPython 3.11 (dev: adds the test and lint tools)
#   setup.sh docker|podman   an image; its id goes to docker/.image-docker or -podman, then its name, content digest, size and base
set -euo pipefail
cd -P "$(dirname "$0")"
. ./host.sh
packages=/opt/venv/lib/python3.11/site-packages # in the image

setup_venv() {
    local python
    python=$(find_python)
    rm -rf ../.venv
    "$python" -m venv ../.venv || fail "'$python -m venv' failed. On Debian, apt-get install python3-venv, then run the same command again."
    install_locked ../.venv/bin/python
}

# install_locked PYTHON [pip's options]
# rouge-score comes as source only. It is built with the locked setuptools, which must therefore be installed first.
install_locked() {
    # Isolated from pip's settings, which may say where to install (PIP_USER, PIP_TARGET)
    local pip=("$1" -m pip --isolated install --quiet --disable-pip-version-check --no-index --find-links wheels --require-hashes --no-build-isolation --use-pep517 "${@:2}")
    "${pip[@]}" --requirement <(awk '/^setuptools==/ {on = 1} on {print} on && !/\\$/ {exit}' requirements.lock)
    "${pip[@]}" --requirement requirements.lock
}

setup_image() {
    local engine=$1 base image id container content
    base=$(bash base_image.sh "$engine") # its name, "on", and what it is
    image=lorabundle:$(cat Dockerfile requirements.lock setup.sh <(echo "${base%% *}") | sha256 | cut -c1-16)
    echo "[image] building $image with $engine on ${base%% *}"
    "$engine" build --quiet --network=none --build-arg "BASE=${base%% *}" --tag "$image" . 2>&1 > /dev/null \
        | { grep -vE 'DEPRECATED|buildx|^$' >&2 || true; } # hides the classic builder's advice to install another one
    "$engine" image prune --force --filter label=lorabundle=build > /dev/null # the build stage has a second copy of all wheels
    id=$("$engine" image inspect --format '{{.Id}}' "$image")
    container=$("$engine" create "$id" true)
    content=$("$engine" export "$container" | "${PYTHON:-python3}" digest.py)
    "$engine" rm "$container" > /dev/null
    printf '%s\n' "$id" "$image, $content, ${base#* }" > ".image-$engine"
    check_start "$engine"
}

# Start the image as run.sh starts it. Where the engine cannot set limits (control groups that are not delegated), run.sh leaves them
# out from then on.
check_start() {
    local said reason check=(sh -c 'test -r Makefile && : > outputs/.written && rm outputs/.written')
    said=$(ENGINE=$1 bash run.sh "${check[@]}" 2>&1) && return
    reason=$(grep -m 1 -iE 'error|denied|cannot|not' <<< "$said" || tail -n 1 <<< "$said")
    echo "without limits" >> ".image-$1"
    if ENGINE=$1 bash run.sh "${check[@]}" > /dev/null 2>&1; then
        echo "[image] $1 cannot limit a container's memory and processes here, so stages run without these limits. It said: $reason"
        return
    fi
    rm ".image-$1"
    echo "$reason" > ".unfit-$1"
    fail "$1 built the image, but cannot start it on this folder. It said: $reason. From now on ENGINE=auto passes $1 over: run the same command again, or name another engine (ENGINE=venv)."
}

# Runs inside the image being built. Byte code is compiled with hashes instead of times, so that every build gives the same bytes.
fill_image() {
    python3 -m venv /opt/venv
    install_locked /opt/venv/bin/python --no-compile
    cd "$packages"
    # Remove what no stage can use, 0.5 GB of 1.9: tests, headers, build tools, libraries for GPUs, RPC and S3, pip
    find . -path '*.dist-info' -prune -o -type d \( -name test -o -name tests \) -prune -exec rm -r {} +
    find torch/bin -type f ! -name torch_shm_manager -delete
    rm -r torch/include pyarrow/include pyarrow/{*flight*,*s3*} bitsandbytes/libbitsandbytes_{cuda,rocm,xpu}* pip pip-*.dist-info /opt/venv/bin/pip*
    # -f: setuptools too, which was imported above. -x: one file in torch is for Python 3.12
    python3 -m compileall -q -f --invalidation-mode unchecked-hash -x py312_ "$packages"
}

case ${1:-} in
    venv)
        if [ "${2:-}" = dev ]; then
            ../.venv/bin/python -m pip --isolated install --quiet --disable-pip-version-check --no-index --find-links wheels --require-hashes --requirement dev.lock
        else
            setup_venv
        fi
        ;;
    docker | podman) setup_image "$1" ;;
    image) fill_image ;;
    *) fail "usage: setup.sh venv [dev] | docker | podman" ;;
esac
