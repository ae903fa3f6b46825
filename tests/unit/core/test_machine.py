"""What this process may use, from control groups as containers, clusters and systemd make them (small trees of the same files)."""

import os

import pytest

from lorabundle.core import machine

GB = 10**9


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write the files of control groups: `groups("0::/job", {"job/cpu.max": "max 100000"})`."""
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "cores", lambda: 16)
    (tmp_path / "cgroup").mkdir()

    def write(own: str, files: dict[str, str]) -> None:
        for name, text in ({"../proc/self/cgroup": own} | files).items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return write


def test_cores_are_those_that_this_process_may_run_on():
    assert machine.cores() == len(os.sched_getaffinity(0))


def test_a_machine_without_control_groups(groups):
    assert machine.cpu_quota() is None
    assert machine.threads() == machine.Limit(16, "all cores")
    assert machine.free_memory(1 * GB, 7 * GB) == machine.Limit(8 * GB, "free on the machine")


@pytest.mark.parametrize(
    ("own", "files", "quota", "threads"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2.0, 2),  # a container
        ("0::/", {"cpu.max": "max 100000"}, None, 16),
        ("0::/", {"cpu.max": "350000 100000"}, 3.5, 3),
        ("0::/", {"cpu.max": "50000 100000"}, 0.5, 1),
        ("0::/", {"cpu.max": "3200000 100000"}, 32.0, 16),
        # nested: the tightest counts, wherever it stands
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "cpu.max": "max 100000"}, 4.0, 4),
        ("0::/a/b", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "100000 50000"}, 2.0, 2),
        # version 1, alone and with another controller
        ("5:cpu:/job", {"cpu/job/cpu.cfs_quota_us": "150000", "cpu/job/cpu.cfs_period_us": "100000"}, 1.5, 1),
        ("5:cpu,cpuacct:/", {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3.0, 3),
        ("5:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, 16),
        # a container that sees the host's path
        ("5:cpu:/docker/0123", {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2.0, 2),
        # both versions at once
        ("5:cpu:/\n0::/job", {"unified/job/cpu.max": "200000 100000"}, 2.0, 2),
        # half of the files, as some sandboxes have it
        ("5:cpu:/", {"cpu/cpu.cfs_quota_us": "100000"}, None, 16),
        # of another group, or another controller
        ("0::/job", {"other/cpu.max": "100000 100000"}, None, 16),
        ("5:cpuset:/", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, None, 16),
    ],
)
def test_cpu_quota(groups, own, files, quota, threads):
    groups(own, files)
    found = machine.cpu_quota()
    assert (found and found.amount) == quota
    assert machine.threads().amount == threads
    if quota and quota < 16:
        assert machine.threads().origin.startswith(f"{quota:g} CPUs by ")


def memory(limit: str, used: int = 0, cache: int = 0) -> dict[str, str]:
    return {"memory.max": limit, "memory.current": str(used), "memory.stat": f"anon 5\ninactive_file {cache}"}


def below(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("own", "files", "free", "origin"),
    [
        ("0::/", memory(str(2 * GB), used=1 * GB), 2 * GB, "cgroup/memory.max"),  # all of it is ours
        (
            "0::/",
            memory(str(2 * GB), used=int(1.5 * GB)),
            int(1.5 * GB),
            "cgroup/memory.max",
        ),  # another process has half a GB
        ("0::/", memory(str(2 * GB), used=2 * GB, cache=1 * GB), 2 * GB, "cgroup/memory.max"),  # cached files can go
        ("0::/", memory("max"), 8 * GB, "machine"),
        ("0::/", memory(str(20 * GB)), 8 * GB, "machine"),
        # Slurm's job, and systemd's scope in a slice
        (
            "0::/job/step",
            below("job/step", memory("max")) | below("job", memory(str(4 * GB))),
            4 * GB,
            "job/memory.max",
        ),
        ("0::/u/s", below("u/s", memory(str(3 * GB))) | below("u", memory(str(4 * GB))), 3 * GB, "u/s/memory.max"),
        ("0::/", memory("max") | {"memory.high": str(2 * GB)}, 2 * GB, "memory.high"),
        ("0::/", {"memory.max": str(2 * GB)}, 2 * GB, "cgroup/memory.max"),  # nothing says what is used
        (
            "7:memory:/job",
            below(
                "memory/job",
                {
                    "memory.limit_in_bytes": str(2 * GB),
                    "memory.usage_in_bytes": str(3 * GB // 2),
                    "memory.stat": f"cache 9\ntotal_inactive_file {GB // 4}",
                },
            ),
            int(1.75 * GB),
            "memory.limit_in_bytes",
        ),
        (
            "7:memory:/",
            {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "0"},
            8 * GB,
            "machine",
        ),
    ],
)
def test_free_memory_is_what_the_tightest_limit_leaves(groups, own, files, free, origin):
    """A process that uses 1 GB, on a machine with 7 GB free."""
    groups(own, files)
    found = machine.free_memory(1 * GB, 7 * GB)
    assert found.amount == free
    assert found.origin.endswith(origin)


@pytest.mark.parametrize(
    ("own", "files", "total", "origin"),
    [
        ("0::/", {}, 8 * GB, "of this machine"),
        ("0::/job/step", below("job", memory(str(4 * GB))), 4 * GB, "job/memory.max"),
        ("0::/", {"memory.high": str(2 * GB), "memory.current": str(GB)}, 2 * GB, "memory.high"),  # used or not
        ("7:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 8 * GB, "of this machine"),
    ],
)
def test_all_memory_is_the_tightest_limit(groups, own, files, total, origin):
    groups(own, files)
    found = machine.total_memory(8 * GB)
    assert found.amount == total
    assert found.origin.endswith(origin)
