"""Pack a finished run into `archive/submission-<run>.tar.gz`: the same inputs give the same bytes.

`submission/contents` says what is in it, `submission/tarball` in which form. The archive's hash is in a file next to it.

Run as: python -m lorabundle.archive --config config/default.yaml
"""

import logging
import stat
import sys

from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.files import atomic_write, sha256_bytes
from lorabundle.core.stage import Artifacts, run_stage
from lorabundle.submission import tarball
from lorabundle.submission.contents import packed_contents, packed_paths

log = logging.getLogger("lorabundle.archive")


def run(run_config: Config) -> Artifacts:
    """Write the archive and its checksum; remove a signature of other bytes."""
    name = f"submission-{run_config.run}"
    files = packed_paths(run_config)
    contents = packed_contents(run_config, files)
    executable = {file.as_posix() for file in files if file.stat().st_mode & stat.S_IXUSR}
    data = tarball.compress(tarball.make_tar(contents, executable, name))
    archive, checksum = config.ARCHIVE / f"{name}.tar.gz", config.ARCHIVE / f"{name}.tar.gz.sha256"
    if not archive.exists() or archive.read_bytes() != data:
        archive.with_name(f"{archive.name}.sig").unlink(missing_ok=True)
    atomic_write(archive, data)
    atomic_write(checksum, f"{sha256_bytes(data)}  {archive.name}\n")
    log.info("%s: %d files, %.1f MB, sha256 %s", archive, len(contents), len(data) / 1e6, sha256_bytes(data))
    return Artifacts(inputs=files, outputs=[archive, checksum])


if __name__ == "__main__":
    sys.exit(run_stage("archive", run))
