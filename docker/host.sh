# What differs between hosts: which engine can run this project, which Python, how a sum is computed. Sourced by the other scripts.
# Runs with bash 3.2 and the tools of macOS too.

fail() {
    echo "image: error: $*" >&2
    exit 2
}

# The sha256 of standard input
sha256() { if command -v sha256sum > /dev/null; then sha256sum; else shasum -a 256; fi | cut -c1-64; }

# is_podman ENGINE: whether it is podman, which can go by docker's name
is_podman() { case $("$1" --version 2> /dev/null) in *podman*) true ;; *) false ;; esac }

# information ENGINE: what it says of itself on one line: its system, architecture, and security options
information() {
    if is_podman "$1"; then
        "$1" info --format '{{.Host.OS}} {{.Host.Arch}}'
    else
        "$1" info --format '{{.OSType}} {{.Architecture}} {{.SecurityOptions}}'
    fi
}

# architecture [ENGINE]: of this machine, or of what the engine runs, as the kernel names it: x86_64, aarch64 or another
architecture() {
    local name
    name=$(case ${1:-venv} in venv) uname -m ;; *) information "$1" | cut -d ' ' -f 2 ;; esac)
    case $name in amd64) echo x86_64 ;; arm64) echo aarch64 ;; *) echo "$name" ;; esac
}

# of_architecture ARCHITECTURE FILE: the lock for it. x86-64's is FILE.lock, aarch64's is FILE-aarch64.lock.
of_architecture() { case $1 in x86_64) echo "$2.lock" ;; *) echo "$2-$1.lock" ;; esac }

# wheels_for ARCHITECTURE: pip's options that choose files for CPython 3.11 on that Linux, whatever runs pip. (No word of it holds a space or a pattern.)
wheels_for() {
    local minor
    printf '%s\n' --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none
    for minor in $(seq 28 -1 5); do printf '%s\n' --platform "manylinux_2_${minor}_$1"; done
    printf '%s\n' --platform "manylinux2014_$1" --platform "manylinux2010_$1" --platform "manylinux1_$1" --platform any
}

# sees_project ENGINE: whether a container can be given this folder. It cannot if the engine runs on another machine, or outside the
# container that this script runs in. An engine looks for what it is to mount when it creates a container, so nothing need be started.
sees_project() {
    local container
    "$1" image inspect lorabundle-probe > /dev/null 2>&1 || tar -cf - -T /dev/null | "$1" import - lorabundle-probe > /dev/null 2>&1 || return
    container=$("$1" create --mount "type=bind,source=$PWD/Makefile,target=/probe" lorabundle-probe /probe 2> /dev/null) || return
    "$1" rm "$container" > /dev/null
}

# unfit ENGINE: why it cannot run this project, or nothing
unfit() {
    local said
    command -v "$1" > /dev/null 2>&1 || {
        echo "it is not installed"
        return
    }
    said=$(information "$1" 2>&1) || {
        case $said in
            *"permission denied"*) echo "your user may not use it (sudo usermod -aG docker \$USER lets it, from the next login on)" ;;
            *) echo "'$1 info' does not answer; it must be started first" ;;
        esac
        return
    }
    case $said in
        "" | "linux x86_64"* | "linux amd64"* | "linux aarch64"* | "linux arm64"*) ;;
        *) echo "it runs containers for $(cut -d ' ' -f 1,2 <<< "$said"), and the locked packages are for linux on x86_64 and aarch64" && return ;;
    esac
    if [ -s "docker/.unfit-$1" ]; then
        echo "it could not start a container on this folder ($(cat "docker/.unfit-$1")); to try it again, delete docker/.unfit-$1"
        return
    fi
    sees_project "$1" || echo "it does not see this folder, because it runs on another machine or outside the container that you are in"
}

# Whether .venv can be built here, before anything is downloaded for it
check_host() {
    case "$(uname -s) $(architecture)" in
        "Linux x86_64" | "Linux aarch64") ;;
        "Darwin "*) fail "without a container engine this runs on Linux only, and this is macOS. Install Docker Desktop or podman, start it, and run the same command again." ;;
        *) fail "the locked packages are for Linux on x86-64 and aarch64, and this is $(uname -s) on $(uname -m). Use such a machine, or a container engine that runs such containers." ;;
    esac
    [ -e .venv/.complete ] || find_python > /dev/null
}

# The CPython 3.11 to build .venv with
find_python() {
    local candidate found="" other=""
    for candidate in ${PYTHON:-} python3.11 python3; do
        found=$("$candidate" -c 'import platform; print(platform.python_implementation(), platform.python_version())' 2> /dev/null) || continue
        case $found in
            "CPython 3.11."*)
                "$candidate" -c 'import ensurepip, venv' > /dev/null 2>&1 \
                    || fail "$candidate cannot make a virtual environment, because its modules venv and ensurepip are missing. On Debian: apt-get install python3-venv."
                "$candidate" -c 'import ctypes; ctypes.CDLL("libstdc++.so.6")' > /dev/null 2>&1 \
                    || fail "torch and NumPy need the C++ library, libstdc++.so.6, which is missing. On Debian: apt-get install libstdc++6."
                echo "$candidate"
                return
                ;;
        esac
        other=$found
    done
    fail "the locks are for CPython 3.11, and the python3 here is ${other:-missing}. Install CPython 3.11 (or name it: make PYTHON=/path/to/python3.11), or use the container, which brings its own: make all ENGINE=docker."
}

# The engine for ENGINE=auto, docker, podman or venv
choose_engine() {
    local engine=${ENGINE:-auto} reason
    case $engine in
        auto)
            if [ "${RUN_DEV:-}" = 1 ] && (check_host) 2> /dev/null; then # tests take .venv where they can
                echo venv
                return
            fi
            for engine in docker podman; do
                command -v "$engine" > /dev/null 2>&1 || continue
                reason=$(unfit "$engine")
                if [ -z "$reason" ]; then
                    echo "$engine"
                    return
                fi
                echo "[image] $engine is passed over: $reason." >&2
            done
            engine=venv
            check_host
            ;;
        venv) check_host ;;
        docker | podman)
            reason=$(unfit "$engine")
            [ -z "$reason" ] || fail "ENGINE=$engine cannot run this project: $reason. Without containers: ENGINE=venv."
            ;;
        *) fail "ENGINE is '$engine'; it can be auto, docker, podman or venv." ;;
    esac
    echo "$engine"
}
