"""The memory estimate: parts that can be computed by hand, and what is proposed when it does not fit."""

import pytest

from lorabundle.core import machine
from lorabundle.core.errors import MemoryExhaustedError
from lorabundle.core.machine import Limit
from lorabundle.training import memory, step

ROW = {"input_ids": [5] * 30, "labels": [-100] * 20 + [5] * 10}
HIDDEN, WIDE, VOCABULARY, LAYERS, RANK = 32, 64, 16, 2, 4


def test_weights_and_adapter_by_hand(saved_tiny):
    """Four heads and two key heads of 8: qkv gives 64. Two norms a layer and one at the end; head and embedding apart."""
    linears = HIDDEN * 64 + HIDDEN * HIDDEN + HIDDEN * 2 * WIDE + WIDE * HIDDEN
    rest = (2 * LAYERS + 1) * HIDDEN + 2 * VOCABULARY * HIDDEN
    adapter = LAYERS * RANK * ((HIDDEN + 64) + 2 * HIDDEN + (HIDDEN + 2 * WIDE) + (WIDE + HIDDEN))
    found = memory.estimate(saved_tiny(), [ROW], shared_tokens=0, num_pass_sizes=1)
    assert found["base weights"] == 4 * (LAYERS * linears + rest)
    assert (found["adapter"], found["gradients"], found["optimizer"]) == (4 * adapter, 4 * adapter, 8 * adapter)
    assert memory.estimate(saved_tiny("model.dtype=bfloat16"), [ROW], 0, 1)["base weights"] == 2 * (
        LAYERS * linears + rest
    )
    four_bits = memory.estimate(saved_tiny("model.dtype=nf4"), [ROW], 0, 1)["base weights"]
    assert four_bits == pytest.approx(0.5625 * LAYERS * linears + 4 * rest, abs=16)


def test_activations_grow_with_tokens_and_shrink_with_checkpointing(saved_tiny):
    """11 and 22 rows of 29 tokens fill up to 320 and 640."""
    one, two = (memory.estimate(saved_tiny(), [ROW] * rows, 0, 1)["activations"] for rows in (11, 22))
    assert 1.9 * one < two < 2.1 * one
    assert memory.estimate(saved_tiny(), [ROW] * 22, shared_tokens=15, num_pass_sizes=1)["activations"] < two
    assert memory.estimate(saved_tiny("train.gradient_checkpointing=true"), [ROW] * 22, 0, 1)["activations"] < 0.7 * two


def test_largest_pass_is_found_in_the_order_of_training(saved_tiny):
    """Two steps of two rows: 10 + 20 tokens go in one pass, 40 and 5 in two, so the largest is the row of 40."""
    train = saved_tiny("train.per_device_train_batch_size=2", "train.max_tokens=38").train
    assert memory.largest_pass(step.passes([10, 20, 40, 5], [0, 1, 2, 3], 0, train)) == ([2], 1)
    assert memory.largest_pass(step.passes([10, 20, 25, 5], [0, 1, 2, 3], 0, train)) == ([0, 1], 1)


def test_sizes_of_passes_are_counted(saved_tiny):
    """Passes of 63, 64, 65 and 10 tokens are filled up to 64, 64, 128 and 64."""
    train = saved_tiny("train.per_device_train_batch_size=1").train
    assert memory.largest_pass(step.passes([64, 65, 66, 11], [0, 1, 2, 3], 0, train)) == ([2], 2)


def give(monkeypatch, free: int) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: Limit(free, "here"))


def total_bytes(config, rows) -> int:
    return sum(memory.estimate(config, rows, 0, 1).values())


def test_what_fits_is_not_changed(saved_tiny, monkeypatch):
    config = saved_tiny()
    give(monkeypatch, total_bytes(config, [ROW]) + 10**9)
    assert memory.fit(config, [ROW], 0, 1)[0] == config


def test_auto_takes_the_cheapest_change_that_fits(saved_tiny, monkeypatch):
    rows = [ROW] * 30  # 870 tokens: at most 512, 256 or 128 of them would go in one pass
    monkeypatch.setattr(memory.psutil.Process, "memory_info", lambda self: type("Memory", (), {"rss": 0}))
    monkeypatch.setattr(memory.fused, "HEAD_ROWS", 1)
    totals = {size: total_bytes(saved_tiny(f"train.max_tokens={size}"), rows[: size // 29]) for size in (512, 256, 128)}
    assert totals[128] < totals[256] < totals[512] < total_bytes(saved_tiny(), rows)
    give(monkeypatch, totals[256])
    chosen, memory_estimate = memory.fit(
        saved_tiny("train.fit=auto", "train.per_device_train_batch_size=30"), rows, 0, 1
    )
    assert chosen.train.max_tokens == 256
    assert sum(memory_estimate.values()) == totals[256]
    for refused in ("train.fit=stop", "numerics=portable"):  # passes of another size round differently
        with pytest.raises(MemoryExhaustedError, match=r"with train\.max_tokens=256: set that"):
            memory.fit(saved_tiny("train.fit=auto", "train.per_device_train_batch_size=30", refused), rows, 0, 1)


def test_a_change_of_the_result_is_named_and_not_made(saved_tiny, monkeypatch):
    monkeypatch.setattr(memory.psutil.Process, "memory_info", lambda self: type("Memory", (), {"rss": 0}))
    monkeypatch.setattr(memory.fused, "HEAD_ROWS", 1)
    monkeypatch.setattr(memory, "CODE_PER_PASS_SIZE", 0)
    small = ["train.max_tokens=128", "train.gradient_checkpointing=true"]
    rows = [ROW] * 4
    monkeypatch.setattr(memory, "PIECE", 1)
    half = total_bytes(saved_tiny(*small, "model.dtype=bfloat16"), rows)
    assert half < total_bytes(saved_tiny(*small), rows)
    give(monkeypatch, half)
    with pytest.raises(MemoryExhaustedError, match=r"with model\.dtype=bfloat16 train\.gradient_checkpointing=true"):
        memory.fit(saved_tiny("train.fit=auto", "train.per_device_train_batch_size=30"), rows, 0, 1)
    give(monkeypatch, 10)
    with pytest.raises(MemoryExhaustedError, match="No setting makes it fit"):
        memory.fit(saved_tiny("train.fit=auto", "train.per_device_train_batch_size=30"), rows, 0, 1)


def test_portable_is_not_told_to_keep_weights_in_less(saved_tiny):
    """That would be refused."""
    settings = [setting for setting, _ in memory.cheaper(saved_tiny("numerics=portable"))]
    assert settings[-1] == "train.gradient_checkpointing=true train.max_tokens=128"
    kept = [setting.split()[0] for setting, _ in memory.cheaper(saved_tiny())][-3:]
    assert kept == ["model.dtype=bfloat16", "model.dtype=int8", "model.dtype=nf4"]


def test_table_adds_up():
    lines = memory.table(
        {"base weights": 1_500_000_000, "activations": 250_000_000}, Limit(2_000_000_000, "here")
    ).splitlines()
    assert [line.split() for line in lines] == [
        ["base", "weights", "1.50", "GB"],
        ["activations", "0.25", "GB"],
        ["total", "1.75", "GB"],
        ["free", "2.00", "GB", "(here)"],
    ]


def test_a_limit_on_this_process_counts_and_is_named(saved_tiny, tmp_path, monkeypatch):
    """A control group of 100 MB, of which this process is to use what it needs for Python alone."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/job\n")
    (tmp_path / "job").mkdir()
    for name, text in (("max", "100000000"), ("current", "0"), ("stat", "inactive_file 0")):
        (tmp_path / f"job/memory.{name}").write_text(text)
    assert memory.free_memory().amount > 10**9
    monkeypatch.setattr(machine, "PROC", tmp_path)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    with pytest.raises(
        MemoryExhaustedError, match=rf"0.1 GB are free \(limit of 0.1 GB by {tmp_path}/job/memory.max\)"
    ):
        memory.fit(saved_tiny(), [ROW], 0, 1)
