"""Stand-ins for docker and podman, which say of themselves what a test gives them, and print how they are asked to run."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import ROOT

# The files next to it say how it behaves: NAME.info is what `info` prints (without the file it does not answer), NAME.blind means that
# it does not see the folder, NAME.unlimited that it starts no container with a limit, NAME.broken that it starts none. In NAME.built
# it keeps what it was last asked to build.
ENGINE = """#!/bin/bash
me=$(dirname "$0")/$(basename "$0")
case $1 in
    --version) cat "$me.version" ;;
    info) cat "$me.info" ;;
    create) [ ! -e "$me.blind" ] && echo c0ffee ;;
    import | image) echo sha256:0123 ;;
    build) printf '%s\\n' "$@" > "$me.built" ;;
    rm) ;;
    export) tar -cf - -T /dev/null ;;
    run)
        if [ -e "$me.broken" ] || { [ -e "$me.unlimited" ] && [[ " $* " == *" --memory "* ]]; }; then
            echo "Error: crun: controller memory is not available under /sys/fs/cgroup" >&2
            exit 126
        fi
        case "$*" in
            *" docker/digest.py") cat > /dev/null; echo "content sha256:89ab, 1.46 GB unpacked" ;;
            *) printf '%s\\n' "$@" ;;
        esac ;;
esac
"""
INFO = {
    "docker": "linux x86_64 [name=seccomp,profile=default]",
    "podman": "linux amd64",
}


def make_project(folder: Path) -> None:
    """A project with the scripts, an image for each engine, a .venv, and stand-ins for docker and podman that do not answer yet."""
    (folder / "docker").mkdir(parents=True)
    for name in ("run.sh", "setup.sh", "host.sh", "digest.py"):
        shutil.copy(ROOT / "docker" / name, folder / "docker")
    (folder / "Makefile").touch()
    for name in ("docker", "podman"):
        (folder / f"docker/.image-{name}").write_text("sha256:0123\nlorabundle:abc, content sha256:4567\n")
    for name in INFO:
        place(folder / "bin" / name, ENGINE)
        (folder / f"bin/{name}.version").write_text(f"{name} version 20.10\n")
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/.complete").touch()


def place(path: Path, script: str) -> None:
    """Write an executable script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)


def answer(name: str, information: str = "") -> None:
    """Let an engine answer."""
    Path("bin", f"{name}.info").write_text((information or INFO[name]) + "\n")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a command in the project, with the stand-ins first on the path."""
    names = ("ENGINE", "NETWORK", "THREADS", "PYTHON", "READS", "RUN_DEV", "QUICK")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    path = f"{Path('bin').resolve()}:{os.environ['PATH']}"
    return subprocess.run(arguments, capture_output=True, text=True, env=inherited | {"PATH": path} | environment)


def container(*command: str, **environment: str) -> list[str]:
    """The arguments that docker is started with for a command."""
    answer("docker")
    finished = run("bash", "docker/run.sh", *(command or ("true",)), ENGINE="docker", **environment)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


def values(options: list[str], name: str) -> list[str]:
    """The values of an option that can stand several times."""
    return [options[index + 1] for index, option in enumerate(options) if option == name]
