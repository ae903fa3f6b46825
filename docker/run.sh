#!/usr/bin/env bash
# Run a command in the locked environment, or say which engine would run it.
#   docker/run.sh --engine           print the engine: docker, podman or venv
#   docker/run.sh COMMAND [ARG ...]  for example: docker/run.sh python -m lorabundle.train --config config/default.yaml
# ENGINE=auto (default) uses docker or podman if one can run this project, else .venv.
# In a container a stage runs as the caller, without capabilities and without network (unless NETWORK=1, which fetch sets). The root
# and the source tree are read-only. It can write to data/, outputs/, reports/, archive/ and its own /tmp, read the user's own files
# (READS, which make sets), and use the memory that is free when it starts. The project has the same path there as here.
# RUN_DEV=1 runs in the image that has the tools of the tests. For the scripts next to this one: RUN_IMAGE names another image, RUN_WRITES
# folders that it can write to besides, and RUN_LIMITS="without limits" leaves those on memory and processes out.
set -euo pipefail
cd -P "$(dirname "$0")/.."
. docker/host.sh

case ${THREADS:-1} in *[!0-9]* | 0*) fail "THREADS is '$THREADS'; it is a number of threads, 1 or more, or empty for all cores." ;; esac
case $PWD in *[:,\"]*) fail "the path of this folder, $PWD, has a colon, a comma or a quotation mark, which search paths and container engines cannot hold. Move the folder." ;; esac
engine=$(choose_engine)
if [ "${1:-}" = --engine ]; then
    echo "$engine"
    exit
fi

# The commit of the code that runs, or why there is none to name
commit() {
    local top commit
    top=$(git rev-parse --show-toplevel 2>&1) || {
        case $top in
            *"dubious ownership"*) echo "unknown (git does not read a folder of another owner: git config --global --add safe.directory '$PWD')" ;;
            *) echo "not a git checkout" ;;
        esac
        return
    }
    # A copy without .git inside another repository is not that repository's commit
    if [ ! "$top" -ef . ] || ! commit=$(git rev-parse HEAD 2> /dev/null); then
        echo "not a git checkout"
        return
    fi
    # Untracked code counts as a change; a user's own config does not
    if [ -n "$({ git status --porcelain --untracked-files=no; git ls-files --others --exclude-standard .ci docker src tests; } 2> /dev/null)" ]; then
        commit="$commit, with uncommitted changes"
    fi
    echo "$commit"
}

settings=(
    LORABUNDLE_ENGINE="$engine"
    LORABUNDLE_COMMIT="$(commit)"
    PYTHONPATH="$PWD/src"
    PYTHONUTF8=1 # files and output are UTF-8, whatever the locale says
    # Keep large buffers in the process instead of returning them to the kernel after each use, so that the kernel need not clear
    # the pages again: 510 to 550 tokens/s in training, and 430 to 485 without (EPYC Zen 4, 2 cores, bfloat16)
    MALLOC_MMAP_THRESHOLD_=4294967296
    MALLOC_TRIM_THRESHOLD_=68719476736
    MALLOC_TOP_PAD_=268435456
)
if [ -n "${THREADS:-}" ]; then settings+=(OMP_NUM_THREADS="$THREADS"); fi

if [ "$engine" = venv ]; then
    # As the Dockerfile does for the image. By name, because LD_PRELOAD cannot hold a path with spaces
    settings+=(LD_LIBRARY_PATH="$PWD/.venv/openmp${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" LD_PRELOAD=libomp.so KMP_BLOCKTIME=1 KMP_TOPOLOGY_METHOD=flat)
    exec env -u RUN_DEV "${settings[@]}" PATH="$PWD/.venv/bin:$PATH" "$@"
fi

image=${RUN_IMAGE:-} content="" limits=${RUN_LIMITS:-}
if [ -z "$image" ]; then
    # By id, so that the image that runs is the one whose content digest is recorded
    record=docker/.image-$engine${RUN_DEV:+-dev}
    { read -r image && read -r content && read -r limits; } < "$record" || true
    "$engine" image inspect "$image" > /dev/null 2>&1 \
        || fail "$engine no longer has the image ${content%%,*}. Delete $record and run the same make command again."
fi
settings+=(LORABUNDLE_IMAGE="$content")

mkdir -p data outputs reports archive
user=$(id -u):$(id -g)
if is_podman "$engine"; then
    if [ "$(id -u)" -ne 0 ]; then namespace=(--userns=keep-id); fi
else
    case $(information "$engine") in *rootless*) user=0:0 ;; esac # which is the caller, outside
fi
options=(
    run --rm
    --read-only --tmpfs /tmp:exec
    --cap-drop=ALL --security-opt=no-new-privileges
    --user "$user" ${namespace[@]+"${namespace[@]}"}
    --workdir "$PWD"
)
if [ "$(getenforce 2> /dev/null)" = Enforcing ]; then options+=(--security-opt label=disable); fi # else SELinux denies the mounts
# A stage that needs more than the free memory is ended itself, and not another process of the machine
if [ "$limits" != "without limits" ]; then
    options+=(--pids-limit 4096)
    if [ -r /proc/meminfo ]; then options+=(--memory "$(awk '/^MemAvailable:/ {printf "%dk", 0.95 * $2}' /proc/meminfo)"); fi
fi

# share PATH [OPTION]: it is in the container, at the same path
share() { options+=(--mount "type=bind,source=$1,target=$1${2:+,$2}"); }

# steps PATH: print it as an absolute path, and if it is a link what it leads to, link by link
steps() {
    local path=$1 folder
    for _ in 1 2 3 4 5 6 7 8; do
        folder=$(cd "$(dirname "$path")" 2> /dev/null && pwd) || return 0
        path=${folder%/}/${path##*/}
        echo "$path"
        [ -L "$path" ] || return 0
        case $(readlink "$path") in
            /*) path=$(readlink "$path") ;;
            *) path=$folder/$(readlink "$path") ;;
        esac
    done
}

share "$PWD" readonly
for folder in data outputs reports archive ${RUN_WRITES:-}; do share "$PWD/$folder"; done
# The user's own files, if they lie outside, and what links in their folders lead to
while IFS= read -r path; do
    case $path in "$PWD"/*) continue ;; esac
    if [ -e "$path" ]; then share "$path" readonly; fi
done < <(
    for path in ${READS:-}; do # globs are expanded here
        steps "${path%/}"
        if [ -d "$path" ]; then find "$path/" -type l | while IFS= read -r link; do steps "$link" | tail -n +2; done; fi
    done | LC_ALL=C sort -u
)
for setting in "${settings[@]}" NUMERICS ${RUN_DEV:+QUICK}; do options+=(--env "$setting"); done
if [ -t 1 ]; then options+=(--tty); fi
if [ -p /dev/stdin ]; then options+=(--interactive); fi

if [ "${NETWORK:-}" = 1 ]; then
    options+=(--env "HF_HOME=$PWD/data/raw/hub")
    for name in HF_TOKEN HF_ENDPOINT $(compgen -e | grep -E '^(HF_HUB|HF_XET|PIP)_' | grep -vE '_(CACHE|PATH)$' || true); do options+=(--env "$name"); done
    for name in http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY; do
        options+=(--env "$name")
    done
    # A proxy of this very machine is not reached from a network of the container's own
    case "${http_proxy:-}${https_proxy:-}${all_proxy:-}${HTTP_PROXY:-}${HTTPS_PROXY:-}${ALL_PROXY:-}${HF_ENDPOINT:-}" in
        *//localhost[:/]* | *//127.* | *@localhost[:/]* | *@127.* | *"[::1]"*) options+=(--network=host) ;;
    esac
    # The host's certificates, because a network may have an authority of its own: the user's, Debian's, Fedora's, SUSE's
    for bundle in "${SSL_CERT_FILE:-}" "${REQUESTS_CA_BUNDLE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem /etc/ssl/cert.pem; do
        [ -f "$bundle" ] || continue
        authorities=/etc/ssl/authorities.pem
        options+=(--mount "type=bind,source=$bundle,target=$authorities,readonly" --env "SSL_CERT_FILE=$authorities" --env "REQUESTS_CA_BUNDLE=$authorities")
        break
    done
else
    options+=(--network=none)
fi
exec "$engine" "${options[@]}" "$image" "$@"
