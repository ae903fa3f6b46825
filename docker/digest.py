"""An image's content digest: one sha256 over every file's path, type, mode, owner, link target and bytes.

Reads the tar of a container's file system and prints the digest and the unpacked size. Times and the order of entries do not
count: two builds from the same locks differ only in those.
Run as: docker export CONTAINER | python3 docker/digest.py    (in the image, because a host may have no Python)
"""

import hashlib
import json
import posixpath
import sys
import tarfile

# Every engine replaces these in a container by its own: no stage sees the image's files, and engines differ
ENGINES_OWN = ("dev", "proc", "sys", ".dockerenv", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf")
BLOCK = 1 << 20


def digest(stream) -> tuple[str, int]:
    """Hex sha256 of the content of a tar, read as it comes, and the size of its files in bytes."""
    entries = {}
    size = 0
    with tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape") as tar:
        for item in tar:
            path = posixpath.normpath(item.name)
            if path == "." or any(path == own or path.startswith(own + "/") for own in ENGINES_OWN):
                continue
            if item.islnk():  # which name of a file comes first is chance
                entries[path] = entries[posixpath.normpath(item.linkname)]
                continue
            size += item.size
            kind = "file" if item.isreg() else item.type.decode()
            bytes_digest = _sha256(tar.extractfile(item)) if item.isreg() else ""
            entries[path] = [kind, item.mode, item.uid, item.gid, item.linkname, bytes_digest]
    lines = [json.dumps([path, *entries[path]]) for path in sorted(entries)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), size


def _sha256(file) -> str:
    result = hashlib.sha256()
    for block in iter(lambda: file.read(BLOCK), b""):
        result.update(block)
    return result.hexdigest()


if __name__ == "__main__":
    found, unpacked = digest(sys.stdin.buffer)
    print(f"content sha256:{found}, {unpacked / 1e9:.2f} GB unpacked")
