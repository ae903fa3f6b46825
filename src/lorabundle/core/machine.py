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
        if (quota := _words(folder / "cpu.max")) and quota[0] != "max":
            quotas.append(Limit(int(quota[0]) / int(quota[1]), str(folder / "cpu.max")))
        if (quota := _words(folder / "cpu.cfs_quota_us")) and int(quota[0]) > 0:
            period = int(_words(folder / "cpu.cfs_period_us")[0])
            quotas.append(Limit(int(quota[0]) / period, str(folder / "cpu.cfs_quota_us")))
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
    for folder in _groups("memory"):
        for name, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.high", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _words(folder / name)
            if limit and limit[0] != "max":
                taken = int(_words(folder / used)[0]) - _statistic(folder / "memory.stat", cache)
                left = int(limit[0]) - max(0, taken - own)  # what other processes of the group use is not free
                limits.append(Limit(left, f"limit of {int(limit[0]) / 1e9:.1f} GB by {folder / name}"))
    return min(limits, key=lambda limit: limit.amount)


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


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _statistic(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.split()[0] == name), 0)
