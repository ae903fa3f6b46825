"""The locks: versions and sha256 of the packages of each architecture, and of the wheels that are read as data; their files."""

import re
from pathlib import Path

from lorabundle.core.config import ASSETS_LOCK, WHEELS
from lorabundle.core.errors import ConfigError, HashMismatchError, MalformedInputError
from lorabundle.core.files import require, sha256_file

PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?P<hashes>(?:\s*\\?\s+--hash=sha256:[0-9a-f]{64})+)", re.M
)

OPENMP_LOCK = Path("docker/openmp.lock")  # a wheel whose library takes the place of torch's OpenMP runtime
RUNTIME_LOCKS = {"x86_64": Path("docker/requirements.lock"), "aarch64": Path("docker/requirements-aarch64.lock")}


def runtime_lock(platform: str) -> Path:
    """The lock of the packages that stages run with.

    Args:
        platform: what Python calls the machine, `platform.machine()` or `platform.platform()`.
    """
    return RUNTIME_LOCKS["aarch64" if "aarch64" in platform else "x86_64"]


def installed_locks(platform: str) -> tuple[Path, Path]:
    """The locks of all that stages run with: the packages, and the OpenMP runtime. `platform` as for `runtime_lock`."""
    return runtime_lock(platform), OPENMP_LOCK


def read_lock(path: Path) -> dict[str, tuple[str, set[str]]]:
    """Parse a requirements lock into {package: (version, sha256 of each allowed file)}.

    Raises:
        MissingInputError: the lock does not exist.
        MalformedInputError: it pins nothing.
    """
    text = require(path, "It is part of the repository: restore it with git.").read_text(encoding="utf-8")
    pins = {
        pin["name"]: (pin["version"], set(re.findall(r"sha256:([0-9a-f]{64})", pin["hashes"])))
        for pin in PIN.finditer(text)
    }
    if not pins:
        raise MalformedInputError(f"{path} pins no package with a hash. Regenerate it with `make lock`.")
    return pins


def locked_wheels(packages: list[str], lock: Path = ASSETS_LOCK, folder: Path = WHEELS) -> dict[str, Path]:
    """Path of each package's wheel in `folder`, its sha256 checked against the lock.

    Raises:
        ConfigError: a package is not in the lock.
        MissingInputError: a wheel has not been downloaded.
        HashMismatchError: a wheel does not have a sha256 that the lock allows.
    """
    pins = read_lock(lock)
    unknown = [name for name in packages if name not in pins]
    if unknown:
        raise ConfigError(
            f"{lock} does not pin {', '.join(unknown)}; it pins {', '.join(pins)}. Name one of these, or add the package to "
            f"{lock.with_suffix('.in')} and run `make lock`."
        )
    wheels = {}
    for name in packages:
        version, allowed = pins[name]
        found = sorted(folder.glob(f"{re.sub('[-_.]+', '_', name)}-{version}-*.whl"))
        wheel = found[0] if found else folder / f"{name}-{version}.whl"
        require(wheel, "Delete docker/wheels/.complete, if it exists, and run `make fetch` to download the wheel.")
        digest = sha256_file(wheel)
        if digest not in allowed:
            raise HashMismatchError(
                f"{wheel} has sha256 {digest}, but {lock} allows {', '.join(sorted(allowed))}. The file is damaged, or is not "
                f"the one that was locked. Delete it and docker/wheels/.complete, then run `make fetch`."
            )
        wheels[name] = wheel
    return wheels
