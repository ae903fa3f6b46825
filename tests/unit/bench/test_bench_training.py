"""What the training benchmark shows, from numbers made by hand."""

import pytest

from tests.bench.bench_training import markdown, quick_sides, require_same_losses, share_of_rate, sides

RATES = {"float32": 1000.0, "bfloat16": 100.0}  # GFLOP/s of a CPU without bfloat16 units


def part(*names: str, dtype: str) -> dict:
    """Measurements of sides: 100 tokens in 2 s, the last side in 1 s; the last computes in `dtype`."""
    ours = names[-1]
    rates = {name: 100.0 if name == ours else 50.0 for name in names}
    return {
        "seconds": {name: [4.0, 1.0, 1.0] if name == ours else [2.0] * 3 for name in names},
        "tokens_per_second": rates,
        "speedup": {name: {"median": 2.0, "min": 1.5, "max": 2.5} for name in names[:-1]},
        "peak_rss_bytes": dict.fromkeys(names, 2e9),
        "ready_seconds": dict.fromkeys(names, 3.0),
        "dtype": dict.fromkeys(names, "float32") | {ours: dtype},
        "val_losses": {name: [1.0, 2.0] for name in names},
        "loss_difference": 1e-5,
    }


@pytest.mark.parametrize(
    ("probed_dtype", "names"),
    [
        ("float32", ["SFTTrainer, float32", "SFTTrainer, bf16=True", "ours, float32"]),
        ("bfloat16", ["SFTTrainer, float32", "SFTTrainer, bf16=True", "ours, float32", "ours, bfloat16"]),
    ],
)
def test_ours_is_listed_once_for_each_dtype(probed_dtype, names):
    """The past bug: `ours` was measured and listed twice where the probe chooses float32."""
    best = sides(probed_dtype)["best"]
    assert list(best) == names
    assert (best[names[-1]].kind, best[names[-1]].dtype) == ("ours", probed_dtype)


@pytest.mark.parametrize(("bfloat16", "number"), [(300.0, 3), (251.0, 3), (250.0, 2), (20.0, 2)])
def test_a_quick_run_leaves_out_what_takes_minutes(bfloat16, number):
    found = quick_sides(sides("float32")["best"], {"float32": 1000.0, "bfloat16": bfloat16})
    assert len(found) == number
    assert list(found)[-1] == "ours, float32"  # which the others are compared with


@pytest.mark.parametrize(("dtype", "share"), [("float32", 0.5), ("bfloat16", 5.0)])
def test_share_is_of_the_rate_of_the_dtype_that_was_used(dtype, share):
    """The past bug: 306 %, because it was always of bfloat16's rate. 500 GFLOP in 1 s (the median) of 1000 or 100 a second."""
    found = share_of_rate(part("SFTTrainer, float32", f"ours, {dtype}", dtype=dtype), {"rows": 500e9}, RATES)
    assert found == {"rate_dtype": dtype, "gflops": RATES[dtype], "utilisation": {"rows": pytest.approx(share)}}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_table_of_the_measurements(dtype):
    measured = part(*sides(dtype)["best"], dtype=dtype)
    rates = RATES | {"bfloat16": 2000.0}
    result = {
        "run": "smoke",
        "steps": 8,
        "environment": {"cpu": "Some CPU", "threads": 2, "cores": 2, "engine": "venv"},
        "parts": {"best": measured},
    } | share_of_rate(measured, {"rows": 600e9, "computed": 400e9}, rates)
    lines = markdown(result).splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ours")] == [
        f"| ours, {name}" for name in dict.fromkeys(["float32", dtype])
    ]
    assert f"| ours, {dtype} | 100 |  |  | 2.00 | 3.0 | 1.5000 |" in lines
    assert "| SFTTrainer, bf16=True | 50 | 2.0x | 1.5x to 2.5x | 2.00 | 3.0 | 1.5000 |" in lines
    shares = "60% counting the tokens rows, 40%" if dtype == "float32" else "30% counting the tokens rows, 20%"
    assert f"measured {dtype} rate ({rates[dtype]:.0f} GFLOP/s) that our step uses: {shares}" in markdown(result)
    columns = {line.count("|") for line in lines if line.startswith("|")}
    assert columns == {8}


def test_float32_sides_must_have_the_same_losses():
    losses = {"SFTTrainer, float32": [1.0, 2.0], "ours, float32": [1.0, 2.0005], "ours, bfloat16": [3.0, 3.0]}
    assert require_same_losses(losses) == pytest.approx(0.0005)
    with pytest.raises(SystemExit, match=r"losses differ by 0\.1"):
        require_same_losses(losses | {"ours, float32": [1.0, 2.1]})
