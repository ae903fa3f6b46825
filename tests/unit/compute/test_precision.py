"""What weights are kept and multiplied in, for settings, CPUs and sizes of memory."""

import json
from pathlib import Path

import pytest

from lorabundle.compute import cpu_probe, precision
from lorabundle.core import machine

ZEN3 = {"float32": 180.0, "bfloat16": 20.0, "int8": 200.0}
VNNI = {"float32": 340.0, "bfloat16": 60.0, "int8": 900.0}
AMX = {"float32": 340.0, "bfloat16": 2500.0, "int8": 2600.0}


@pytest.fixture
def resolved(saved_tiny, monkeypatch):
    """A function from settings, the CPU's rates, the memory in sizes of the float32 weights, and the files' dtype, to the formats."""

    def resolve(*settings, rates=ZEN3, memory=10.0, files="float32"):
        fastest = "bfloat16" if rates["bfloat16"] > rates["float32"] else "float32"
        monkeypatch.setattr(cpu_probe, "decision", lambda: {"gflops": rates, "dtype": fastest, "int8_kernel": "int_mm"})
        config = saved_tiny("model.dtype=auto", *settings)
        path = config.model_dir / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": files}))
        size = sum(file.stat().st_size for file in config.model_dir.glob("*.safetensors"))
        wide = size * (1 if files == "float32" else 2)
        monkeypatch.setattr(machine, "total_memory", lambda physical: machine.Limit(memory * wide, "of a test"))
        return precision.resolve(config)

    return resolve


def names(formats: precision.Precision) -> tuple[str, str, str, str]:
    return formats.dtype, formats.compute_dtype, formats.activation_dtype, formats.embedding_dtype


@pytest.mark.parametrize(
    ("settings", "given", "expected"),
    [
        # auto keeps what fits and multiplies in the fastest float
        ([], {}, ("float32", "float32", "float32", "float32")),
        ([], {"rates": AMX}, ("bfloat16",) * 4),
        ([], {"files": "bfloat16"}, ("bfloat16", "float32", "float32", "bfloat16")),  # wider would hold nothing more
        ([], {"files": "float16"}, ("float32",) * 4),  # bfloat16 would lose some of its digits
        ([], {"files": "float16", "memory": 1.5}, ("bfloat16", "float32", "float32", "bfloat16")),
        ([], {"memory": 1.5}, ("bfloat16", "float32", "float32", "bfloat16")),
        ([], {"memory": 0.6}, ("int8", "float32", "float32", "float32")),
        ([], {"memory": 0.6, "rates": VNNI}, ("int8", "int8", "float32", "float32")),
        ([], {"memory": 0.6, "rates": AMX}, ("int8", "bfloat16", "bfloat16", "bfloat16")),  # int8 is not clearly faster
        ([], {"memory": 0.3}, ("nf4", "float32", "float32", "float32")),
        ([], {"memory": 0.01}, ("nf4", "float32", "float32", "float32")),
        # int8 products only for weights that are kept in int8, or if the config asks for them
        ([], {"rates": VNNI}, ("float32",) * 4),
        (["model.dtype=int8"], {"rates": VNNI}, ("int8", "int8", "float32", "float32")),
        (["model.dtype=int8"], {}, ("int8", "float32", "float32", "float32")),
        (["model.dtype=int8", "model.compute_dtype=int8"], {}, ("int8", "int8", "float32", "float32")),
        (["model.dtype=int8"], {"files": "bfloat16"}, ("int8", "float32", "float32", "bfloat16")),
        (["model.compute_dtype=int8"], {}, ("int8", "int8", "float32", "float32")),
        (["model.compute_dtype=int8"], {"memory": 0.3}, ("nf4", "int8", "float32", "float32")),
        (["model.dtype=nf4"], {"rates": VNNI}, ("nf4", "float32", "float32", "float32")),
        # what the config says
        (["model.dtype=float32"], {"rates": AMX}, ("float32",) * 4),
        (["model.dtype=bfloat16"], {}, ("bfloat16", "float32", "float32", "bfloat16")),
        (["model.dtype=bfloat16"], {"rates": AMX}, ("bfloat16",) * 4),
        (["model.dtype=bfloat16", "model.compute_dtype=bfloat16"], {}, ("bfloat16",) * 4),
        (["model.compute_dtype=float32"], {"rates": AMX}, ("float32",) * 4),
        # configs of earlier versions
        (["model.load_in_4bit=true"], {}, ("nf4", "float32", "float32", "float32")),
        (["model.load_in_4bit=true", "model.dtype=bfloat16"], {}, ("nf4", "bfloat16", "bfloat16", "bfloat16")),
        (["model.load_in_4bit=false", "model.dtype=float32"], {}, ("float32",) * 4),
    ],
)
def test_formats(resolved, settings, given, expected):
    formats = resolved(*settings, **given)
    assert names(formats) == expected
    assert formats.int8_kernel == ("int_mm" if formats.compute_dtype == "int8" else None)
    assert formats.is_plain == (len(set(expected)) == 1)


@pytest.mark.parametrize(("files", "memory"), [("bfloat16", 10.0), ("float32", 0.01)])
def test_portable_is_float32_whatever_fits(resolved, files, memory):
    assert names(resolved("numerics=portable", files=files, memory=memory)) == ("float32",) * 4


def test_the_log_says_why(resolved):
    reasons = resolved("model.dtype=int8", rates=VNNI).reasons
    assert reasons == (
        "weights kept in int8 (as the config says), multiplied in int8 (fastest here; GFLOP/s: float32 340, "
        "bfloat16 60, int8 900)"
    )
    assert resolved().reasons.endswith("multiplied in float32 (fastest here; GFLOP/s: float32 180, bfloat16 20)")
    assert resolved("model.dtype=float32").reasons.endswith("multiplied in float32 (as they are kept)")
    reasons = resolved(memory=0.6).reasons
    size = sum(file.stat().st_size for file in Path("data/models/tiny").glob("*.safetensors"))
    assert f"weights kept in int8 ({size / 4e9:.1f} of {0.6 * size / 1e9:.1f} GB of a test)" in reasons


def test_what_must_not_differ_does_not_count_as_a_difference(resolved):
    """Free memory and rates are in the reasons; a checkpoint must not be refused for them."""
    assert resolved(memory=10.0) == resolved(memory=9.0)
