"""What this process may use of the machine: its CPUs and its memory, with the limits of every control group that it is in.

A limit can be set at any level: by a container, a pod of Kubernetes, a job of Slurm, a scope or slice of systemd. Each is read here,
from version 2 of control groups and from version 1. Uses the standard library only, because it runs before torch is loaded.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
MEMORY_FILES = {  # of a control group: file of a limit -> file with what is used, name in memory.stat of what it could give up
    "memory.max": ("memory.current", "inactive_file"),
    "memory.high": ("memory.current", "inactive_file"),
    "memory.limit_in_bytes": ("memory.usage_in_bytes", "total_inactive_file"),
}


@dataclass(frozen=True)
class Limit:
    """A number, and where it was found.

    Attributes:
        amount: CPUs, or bytes.
        origin: the file that sets it, or what else does.
    """

    amount: float
    origin: str


def cores() -> int:
    """Number of CPUs that this process may run on."""
    return len(os.sched_getaffinity(0))


def cpu_quota() -> Limit | None:
    """The CPUs' worth of time that the tightest quota allows; None without one."""
    quotas = []
    for folder in _groups("cpu"):
        for name, values in (
            ("cpu.max", _numbers(folder / "cpu.max")),
            ("cpu.cfs_quota_us", [*_numbers(folder / "cpu.cfs_quota_us"), *_numbers(folder / "cpu.cfs_period_us")]),
        ):
            if len(values) == 2 and min(values) > 0:  # microseconds in each period of so many
                quotas.append(Limit(values[0] / values[1], str(folder / name)))
    return min(quotas, key=lambda limit: limit.amount, default=None)


def threads() -> Limit:
    """Number of threads to compute with: one for each core, but no more than a quota pays for.

    More threads than that only wait for each other, because the kernel stops all of them until the next period.
    """
    quota = cpu_quota()
    if quota is not None and quota.amount < cores():
        return Limit(max(1, int(quota.amount)), f"{quota.amount:g} CPUs by {quota.origin}")
    return Limit(cores(), "all cores")


def free_memory(own: int, available: int) -> Limit:
    """Bytes that this process may use, what it uses now included.

    Args:
        own: bytes that it uses now.
        available: bytes that the machine has free.
    """
    limits = [Limit(own + available, "free on the machine")]
    for limit, file in _memory_limits():
        used, cache = MEMORY_FILES[file.name]
        taken = sum(_numbers(file.with_name(used))) - _statistic(file.with_name("memory.stat"), cache)
        left = limit - max(0, taken - own)  # what other processes of the group use is not free
        limits.append(Limit(left, f"limit of {limit / 1e9:.1f} GB by {file}"))
    return min(limits, key=lambda limit: limit.amount)


def total_memory(physical: int) -> Limit:
    """Bytes that this process may use if nothing else runs.

    Args:
        physical: bytes that the machine has.
    """
    limits = [Limit(limit, f"by {file}") for limit, file in _memory_limits()]
    return min([Limit(physical, "of this machine"), *limits], key=lambda limit: limit.amount)


def _memory_limits() -> Iterator[tuple[int, Path]]:
    """Each control group's limits in bytes, and the files that set them."""
    for folder in _groups("memory"):
        for name in MEMORY_FILES:
            for limit in _numbers(folder / name):
                yield limit, folder / name


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the control groups that this process is in and that have this controller, the innermost first.

    In a container, paths may be those of the host, which are not there; the mount itself is then the container's own group.
    """
    for line in _lines(PROC / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mounts = [CGROUPS, CGROUPS / "unified"]
        elif controller in controllers.split(","):
            mounts = [CGROUPS / controller]
        else:
            continue
        for mount in mounts:
            inner = mount / path.strip("/")
            for folder in (inner, *inner.parents):
                if folder.is_relative_to(mount) and folder.is_dir():
                    yield folder


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _numbers(path: Path) -> list[int]:
    """The numbers in a file; none if it is missing, or says "max"."""
    words = " ".join(_lines(path)).split()
    return [] if "max" in words else [int(word) for word in words]


def _statistic(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.split()[0] == name), 0)
