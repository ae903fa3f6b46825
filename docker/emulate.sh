#!/usr/bin/env bash
# Run a command where programs for Linux on aarch64 start too, by qemu-user: emulate.sh COMMAND [ARG ...]
# qemu is registered in namespaces of the command's own, so nothing changes for the rest of the machine.
# Needs root, Linux 6.7 or later, and qemu-aarch64-static (Debian's qemu-user-static).
set -euo pipefail
[ "$(id -u)" -eq 0 ] || { echo "emulate: error: this needs root, to use all user ids in a namespace." >&2 && exit 2; }
qemu=$(command -v qemu-aarch64-static) || { echo "emulate: error: qemu-aarch64-static is missing. On Debian: apt-get install qemu-user-static." >&2 && exit 2; }

# The child waits, in its new user namespace, until this process has given it the user ids
exec 3>&1 4>&2
coproc child { exec unshare --user --mount bash -c '
    echo ready
    read -r _
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    # an ELF header for aarch64, and which of its bits count; F: opened now, so that it is found behind chroot as well
    magic="\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    mask="\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    printf "%s" ":aarch64:M::$magic:$mask:$0:F" > /proc/sys/fs/binfmt_misc/register || exit
    exec "$@" < /dev/null >&3 2>&4' "$qemu" "$@"; }
process=$child_PID
read -r _ <&"${child[0]}"
for map in uid_map gid_map; do echo "0 0 65536" > "/proc/$process/$map"; done
echo >&"${child[1]}"
wait "$process"
