#!/usr/bin/env bash
# Build the environment that the stages run in, from docker/wheels/ and the lock only (no network):
#   setup.sh venv [dev]      .venv, for CPython 3.11 (dev: adds the test and lint tools)
#   setup.sh docker|podman [dev]   an image; its id goes to docker/.image-docker or -podman (dev: -docker-dev), then its name,
#                            content digest, size and base
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
    compile ../.venv/bin/python ../.venv/lib/python3.11/site-packages
}

# install_locked PYTHON
# rouge-score comes as source only. It is built with the locked setuptools, which must therefore be installed first.
install_locked() {
    # Isolated from pip's settings, which may say where to install (PIP_USER, PIP_TARGET)
    local pip=("$1" -m pip --isolated install --quiet --disable-pip-version-check --no-index --find-links wheels --require-hashes --no-build-isolation --use-pep517 --no-compile)
    local lock
    lock=$(of_architecture "$(architecture)" requirements)
    "${pip[@]}" --requirement <(awk '/^setuptools==/ {on = 1} on {print} on && !/\\$/ {exit}' "$lock")
    "${pip[@]}" --requirement "$lock"
    local folder
    folder=$("$1" -c 'import sys; print(sys.prefix)')/openmp
    "${pip[@]}" --no-deps --target "$folder" --requirement openmp.lock
    mv "$folder/numba/openmp/libs/openmp/lib/libomp.so" "$folder"
    find "$folder" -mindepth 1 -maxdepth 1 ! -name libomp.so ! -name '*.dist-info' -exec rm -r {} +
}

# install_dev PYTHON: the tools of the tests, on top
install_dev() {
    "$1" -m pip --isolated install --quiet --disable-pip-version-check --no-index --find-links wheels --require-hashes --requirement dev.lock
}

# compile PYTHON FOLDER [compileall's options]: byte code, by all cores at once (22 s on two; pip, on one, takes 35 s).
# One file in torch is for Python 3.12.
compile() { "$1" -m compileall -q -j 0 -x py312_ "${@:3}" "$2"; }

# setup_image ENGINE [dev]. dev builds on the image without it, which must be there.
setup_image() {
    local engine=$1 purpose=${2:-} base start image id container content record
    record=.image-$engine${purpose:+-dev}
    base=$(bash base_image.sh "$engine" "$purpose") # its name, "on", and what it is
    start=${base%% *}
    if [ "$purpose" = dev ]; then
        start=$(sed -n 2p ".image-$engine") start=${start%%,*}
    fi
    image=lorabundle${purpose:+-dev}:$(cat Dockerfile "$(of_architecture "$(architecture "$engine")" requirements)" openmp.lock ${purpose:+dev.lock} setup.sh <(echo "$start ${base%% *}") | sha256 | cut -c1-16)
    echo "[image] building $image with $engine on ${base%% *}"
    "$engine" build --quiet --network=none --build-arg "BASE=${base%% *}" --build-arg "START=$start" --build-arg "PURPOSE=$purpose" --tag "$image" . 2>&1 > /dev/null \
        | { grep -vE 'DEPRECATED|buildx|^$' >&2 || true; } # hides the classic builder's advice to install another one
    "$engine" image prune --force --filter label=lorabundle=build > /dev/null # the build stage has a second copy of all wheels
    id=$("$engine" image inspect --format '{{.Id}}' "$image")
    export RUN_IMAGE=$id ENGINE=$engine
    check_start
    container=$("$engine" create "$id" true)
    # By the image's own Python, because a host with a container engine may have none
    content=$("$engine" export "$container" | bash run.sh python docker/digest.py)
    "$engine" rm "$container" > /dev/null
    printf '%s\n' "$id" "$image, $content, ${base#* }" ${RUN_LIMITS:+"$RUN_LIMITS"} > "$record"
}

# Start the image as run.sh starts it. Where the engine cannot set limits (control groups that are not delegated), run.sh leaves them
# out from then on.
check_start() {
    local said reason check=(sh -c 'test -r Makefile && : > outputs/.written && rm outputs/.written')
    said=$(bash run.sh "${check[@]}" 2>&1) && return
    reason=$(grep -m 1 -iE 'error|denied|cannot|not' <<< "$said" || tail -n 1 <<< "$said")
    export RUN_LIMITS="without limits"
    if bash run.sh "${check[@]}" > /dev/null 2>&1; then
        echo "[image] $ENGINE cannot limit a container's memory and processes here, so stages run without these limits. It said: $reason"
        return
    fi
    echo "$reason" > ".unfit-$ENGINE"
    fail "$ENGINE built the image, but cannot start it on this folder. It said: $reason. From now on ENGINE=auto passes $ENGINE over: run the same command again, or name another engine (ENGINE=venv)."
}

# fill_image: runs inside the image being built. Byte code is compiled with hashes instead of times, so that every build gives the same bytes.
fill_image() {
    python3 -m venv /opt/venv
    install_locked /opt/venv/bin/python
    cd "$packages"
    # Remove what no stage can use, 0.5 GB of 1.9: tests, headers, build tools, libraries for GPUs, RPC and S3, pip
    find . -path '*.dist-info' -prune -o -type d \( -name test -o -name tests \) -prune -exec rm -r {} +
    find torch/bin -type f ! -name torch_shm_manager -delete
    shopt -s nullglob # not every library is there on every architecture
    rm -r torch/include pyarrow/include pyarrow/{*flight*,*s3*} bitsandbytes/libbitsandbytes_{cuda,rocm,xpu}* pip pip-*.dist-info /opt/venv/bin/pip*
    # -f: setuptools too, which was imported above
    compile python3 "$packages" -f --invalidation-mode unchecked-hash
}

case ${1:-} in
    venv)
        if [ "${2:-}" = dev ]; then
            install_dev ../.venv/bin/python
        else
            setup_venv
        fi
        ;;
    docker | podman) setup_image "$@" ;;
    image)
        if [ "${2:-}" = dev ]; then
            python3 -m ensurepip > /dev/null # the locked image has no pip; tests ask it to download, too
            install_dev python3
        else
            fill_image
        fi
        ;;
    *) fail "usage: setup.sh venv [dev] | docker [dev] | podman [dev]" ;;
esac
