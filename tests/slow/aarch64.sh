#!/usr/bin/env bash
# This project on Linux for aarch64, emulated: in a Debian root with the packages that README names, `make image`, pip check, the unit
# tests that compute, and a run from `make all` of a tiny model, all as a user types them. QUICK=1: the locked files, put there by
# this machine's pip, are imported, and the tests of two modules run. Needs root, and Debian's mmdebstrap and qemu-user-static.
set -euo pipefail
cd -P "$(dirname "$0")/../.."
. docker/host.sh
folder=$PWD/outputs/.aarch64 root=$PWD/outputs/.aarch64/root
packages=$(sed -n 's/.*`apt-get install \([^`]*\)`.*/\1/p' README.md | head -n 1 | tr ' ' ,)
rm -rf "$folder"
mkdir -p "$folder"

say() { echo "[aarch64] $* ($SECONDS s)"; }

# bootstrap VARIANT PACKAGES: make the root
bootstrap() {
    TMPDIR=$folder bash docker/emulate.sh mmdebstrap --quiet --architectures=arm64 --mode=root --skip=check/qemu --variant="$1" --include="$2" \
        --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr bookworm "$root" 2> "$folder/log" || { tail -n 20 "$folder/log" >&2 && exit 1; }
    mkdir -p "$root/project" "$root/proc" "$root/dev"
    git ls-files -z | xargs -0 tar -cf - | tar -xf - -C "$root/project"
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    mkdir -p "$root/etc/ssl/certs"
    cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$root/etc/ssl/certs/ca-certificates.crt"
}

# there COMMAND: run it in the root's copy of the project, with the network and nothing else of this machine
there() {
    say "$1"
    bash docker/emulate.sh bash -c 'mount --rbind /proc "$0/proc"; mount --rbind /dev "$0/dev"
        exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PIP_CERT=/etc/ssl/certs/ca-certificates.crt "${@:2}" \
            chroot "$0" /bin/bash -euc "cd /project; $1"' "$root" "$1" $(env | grep -iE '^(https?|no)_proxy=|^PIP_(INDEX_URL|TRUSTED_HOST)=')
}

if [ -z "${QUICK:-}" ]; then
    say "a Debian root for arm64 with $packages"
    bootstrap essential "$packages,ca-certificates,usr-is-merged"
    there "make image"
    there ".venv/bin/python -m pip check"
    there "make .venv/.dev-complete"
    there "OMP_NUM_THREADS=1 bash docker/run.sh python -m pytest --numprocesses 2 tests/unit/compute tests/unit/model tests/unit/training"
    settings=$(PYTHONPATH=src:. .venv/bin/python -m tests.slow.tiny_base "$root/project" 2> /dev/null)
    there "make all CONFIG=config/smoke.yaml SET=\"$settings\""
    say "done"
    exit
fi

say "the locked files for aarch64, put in a root by this machine's pip"
bootstrap extract bash,coreutils,python3,libstdc++6
mkdir "$folder/bin"
printf '#!/bin/sh\necho aarch64\n' > "$folder/bin/uname"
chmod +x "$folder/bin/uname"
python=$PWD/.venv/bin/python packages=$root/project/packages
cd "$root/project"
PATH=$folder/bin:$PATH PYTHON=$python ENGINE=venv bash docker/download.sh dev
target=(--target "$packages" $(wheels_for aarch64))
for lock in requirements-aarch64 dev; do
    "$python" -m pip --isolated install --quiet --upgrade --no-deps --no-compile --no-index --find-links docker/wheels --require-hashes \
        --no-build-isolation --use-pep517 "${target[@]}" --requirement "docker/$lock.lock"
done
"$python" -m compileall -q -j 2 -x py312_ "$packages"
cd "$OLDPWD"
echo root:x:0:0::/root:/bin/bash > "$root/etc/passwd"
there "PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=packages:src OMP_NUM_THREADS=1 python3 -c '
import sys, lorabundle.train, pytest
sys.exit(pytest.main([\"-q\", \"-n0\", \"tests/unit/compute/test_fused.py\", \"tests/unit/compute/test_packing.py\"]))'"
say "done"
