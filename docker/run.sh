#!/usr/bin/env bash
# Run a command in the locked environment, or say which engine would run it.
#   docker/run.sh --engine           print the engine: docker, podman or venv
#   docker/run.sh COMMAND [ARG ...]  for example: docker/run.sh python -m lorabundle.train --config config/default.yaml
# ENGINE=auto (default) uses docker or podman if one answers, else .venv.
# In a container a stage runs as the caller, without capabilities and without network (unless NETWORK=1, which fetch sets). The root
# and the source tree are read-only. It can write to data/, outputs/, reports/, archive/ and its own /tmp, and use the memory that
# is free when it starts.
set -euo pipefail
cd "$(dirname "$0")/.."

answers() { command -v "$1" > /dev/null 2>&1 && "$1" info > /dev/null 2>&1; }

choose_engine() {
    case ${ENGINE:-auto} in
        auto) if answers docker; then echo docker; elif answers podman; then echo podman; else echo venv; fi ;;
        venv) echo venv ;;
        docker | podman)
            answers "$ENGINE" || {
                echo "image: error: ENGINE=$ENGINE, but '$ENGINE info' does not answer. Start it, or run without containers: ENGINE=venv." >&2
                exit 2
            }
            echo "$ENGINE"
            ;;
        *)
            echo "image: error: ENGINE is '$ENGINE'; it can be auto, docker, podman or venv." >&2
            exit 2
            ;;
    esac
}

case ${THREADS:-1} in *[!0-9]* | 0*)
    echo "image: error: THREADS is '$THREADS'; it is a number of threads, 1 or more, or empty for all cores." >&2
    exit 2
    ;;
esac
engine=$(choose_engine)
if [ "${1:-}" = --engine ]; then
    echo "$engine"
    exit
fi

commit=$(git rev-parse HEAD 2> /dev/null) || commit="not a git checkout"
# Untracked code counts as a change; a user's own config does not
if [ -n "$({ git status --porcelain --untracked-files=no; git ls-files --others --exclude-standard .ci docker src tests; } 2> /dev/null)" ]; then
    commit="$commit, with uncommitted changes"
fi

settings=(
    LORABUNDLE_ENGINE="$engine"
    LORABUNDLE_COMMIT="$commit"
    # Keep large buffers in the process instead of returning them to the kernel after each use, so that the kernel need not clear
    # the pages again: 510 to 550 tokens/s in training, and 430 to 485 without (EPYC Zen 4, 2 cores, bfloat16)
    MALLOC_MMAP_THRESHOLD_=4294967296
    MALLOC_TRIM_THRESHOLD_=68719476736
    MALLOC_TOP_PAD_=268435456
)
if [ -n "${THREADS:-}" ]; then settings+=(OMP_NUM_THREADS="$THREADS"); fi

if [ "$engine" = venv ]; then
    exec env "${settings[@]}" PATH="$PWD/.venv/bin:$PATH" PYTHONPATH="$PWD/src" "$@"
fi

# By id, so that the image that runs is the one whose content digest is recorded
{ read -r image && read -r content; } < "docker/.image-$engine"
"$engine" image inspect "$image" > /dev/null 2>&1 || {
    echo "image: error: $engine no longer has the image ${content%%,*}. Delete docker/.image-$engine and run: make image." >&2
    exit 2
}
settings+=(LORABUNDLE_IMAGE="$content")
# A stage that needs more than the free memory is ended itself, and not another process of the machine
memory=$(awk '/^MemAvailable:/ {printf "%dk", 0.95 * $2}' /proc/meminfo)
mkdir -p data outputs reports archive
options=(
    run --rm
    --read-only --tmpfs /tmp:exec
    --cap-drop=ALL --security-opt=no-new-privileges
    --memory "$memory" --pids-limit 4096
    --user "$(id -u):$(id -g)"
    --volume "$PWD:/bundle:ro"
)
for folder in data outputs reports archive; do options+=(--volume "$PWD/$folder:/bundle/$folder"); done
for setting in "${settings[@]}" NUMERICS; do options+=(--env "$setting"); done
if [ -t 1 ]; then options+=(--tty); fi
if [ "$engine" = podman ] && [ "$(id -u)" -ne 0 ]; then options+=(--userns=keep-id); fi
if [ "${NETWORK:-}" = 1 ]; then
    options+=(--env HF_HOME=/bundle/data/raw/hub --env HF_TOKEN)
    for proxy in http_proxy https_proxy no_proxy; do options+=(--env "$proxy"); done
    authorities=/etc/ssl/certs/ca-certificates.crt # the host's, because a network may have its own authority
    if [ -f $authorities ]; then options+=(--volume $authorities:$authorities:ro --env SSL_CERT_FILE=$authorities); fi
else
    options+=(--network=none)
fi
exec "$engine" "${options[@]}" "$image" "$@"
