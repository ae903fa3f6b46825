"""The probe: what decides, and that a machine is measured once."""

import json

import pytest

from lorabundle.compute import cpu_probe, int8, packing

COST = {"float32": 1.0, "bfloat16": 0.5, "int_mm": 2.0, "qlinear": 0.5, "eager": 1.0, "sdpa": 2.0}


@pytest.fixture
def costs(workspace, monkeypatch) -> dict[str, float]:
    """Seconds that each piece of work is said to take; a test changes them. `calls` counts the measurements."""
    known, calls = dict(COST), []
    monkeypatch.setattr(cpu_probe, "product", lambda dtype: str(dtype).removeprefix("torch."))
    monkeypatch.setattr(
        cpu_probe, "attention", lambda core, dtype: next(n for n, c in packing.CORES.items() if c is core)
    )
    monkeypatch.setattr(
        cpu_probe, "int8_product", lambda kernel: next(n for n, k in int8.KERNELS.items() if k is kernel)
    )
    monkeypatch.setattr(cpu_probe, "seconds", lambda work: calls.append(work) or known[work])
    cpu_probe.decision.cache_clear()
    known["calls"] = calls
    yield known
    cpu_probe.decision.cache_clear()


@pytest.mark.parametrize(
    ("bfloat16", "sdpa", "dtype", "attention"),
    [
        (0.5, 2.0, "bfloat16", "eager"),  # Zen 4, AMX
        (1.4, 2.0, "float32", "eager"),  # AVX512-BF16 on Intel without AMX
        (0.9, 0.9, "float32", "eager"),  # faster, but not clearly: noise must not decide
        (1.4, 0.5, "float32", "sdpa"),
    ],
)
def test_the_less_usual_must_be_clearly_faster(costs, bfloat16, sdpa, dtype, attention):
    costs |= {"bfloat16": bfloat16, "sdpa": sdpa}
    decision = cpu_probe.decision()
    assert (decision["dtype"], decision["attn_implementation"]) == (dtype, attention)
    assert decision["gflops"]["float32"] == pytest.approx(2e-9 * cpu_probe.SIZE**3)


def test_the_faster_int8_kernel_with_right_sums_is_used(costs, monkeypatch):
    assert cpu_probe.measure()["int8_kernel"] == "qlinear"
    assert cpu_probe.measure()["gflops"]["int8"] == pytest.approx(4e-9 * cpu_probe.SIZE**3)
    monkeypatch.setattr(int8, "is_exact", lambda kernel: kernel is int8.KERNELS["int_mm"])
    assert cpu_probe.measure()["int8_kernel"] == "int_mm"


def test_a_measurement_of_an_earlier_version_is_made_again(costs):
    first = cpu_probe.decision()
    cpu_probe.CACHE.write_text(json.dumps({name: value for name, value in first.items() if name != "int8_kernel"}))
    cpu_probe.decision.cache_clear()
    assert cpu_probe.decision() == first


def test_a_machine_is_measured_once(costs, monkeypatch):
    first = cpu_probe.decision()
    assert json.loads(cpu_probe.CACHE.read_text()) == first
    cpu_probe.decision.cache_clear()  # as in the next process
    assert cpu_probe.decision() == first
    assert len(costs["calls"]) == 6
    cpu_probe.decision.cache_clear()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert cpu_probe.decision()["machine"] != first["machine"]
    assert len(costs["calls"]) == 12


def test_the_work_that_is_measured_runs():
    for core in packing.CORES.values():
        cpu_probe.attention(core, cpu_probe.torch.bfloat16)()
    assert cpu_probe.int8_product(int8.KERNELS["int_mm"])().shape == (cpu_probe.SIZE, cpu_probe.SIZE)
    assert cpu_probe.product(cpu_probe.torch.bfloat16)().shape == (cpu_probe.SIZE, cpu_probe.SIZE)
