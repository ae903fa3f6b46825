"""Loading on a tiny model: dtype and attention, 4 bits, and every way in which weights or an adapter do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file, save_file

from lorabundle.compute import cpu_probe, load
from lorabundle.core.errors import AdapterError, ConfigError, MissingInputError, ModelFormatError

WEIGHTS = Path("data/models/tiny/model.safetensors")
DOWN = "model.layers.0.mlp.down_proj.weight"


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite a safetensors file after `edit` has changed its tensors."""
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_dtype_and_attention_of_a_config(monkeypatch):
    monkeypatch.setattr(cpu_probe, "decision", lambda: {"dtype": "bfloat16", "attn_implementation": "sdpa"})
    assert load.resolve_dtype("float32") is torch.float32
    assert load.resolve_dtype("auto") is torch.bfloat16
    assert load.resolve_attention("eager") == "eager"
    assert load.resolve_attention("auto") == "sdpa"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_is_frozen_and_in_evaluation_mode(saved_tiny, tiny_model, dtype):
    model = load.load_base(saved_tiny(f"model.dtype={dtype}"))
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    for name, weight in tiny_model.named_parameters():
        assert torch.equal(model.get_parameter(name), weight.to(getattr(torch, dtype)))


@pytest.mark.parametrize("bits", ["model.load_in_4bit=false", "model.load_in_4bit=true"])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.pop(DOWN), r"missing \['model\.layers\.0\.mlp\.down_proj\.weight'\], unexpected \[\]"),
        (lambda weights: weights.update(other=torch.ones(2)), r"missing \[\], unexpected \['other'\]"),
    ],
    ids=["missing", "unexpected"],
)
def test_weights_that_do_not_fit_the_config(saved_tiny, edit, message, bits):
    """Transformers only warns, and fills missing weights with random numbers."""
    change(WEIGHTS, edit)
    with pytest.raises(ModelFormatError, match=message):
        load.load_base(saved_tiny(bits))


@pytest.mark.parametrize("bits", ["model.load_in_4bit=false", "model.load_in_4bit=true"])
def test_weights_that_cannot_be_read(saved_tiny, bits):
    WEIGHTS.write_bytes(b"not weights")
    with pytest.raises(ModelFormatError, match=r"The weights in data/models/tiny cannot be loaded"):
        load.load_base(saved_tiny(bits))


def test_other_architecture(saved_tiny):
    path = WEIGHTS.with_name("config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "llama"}))
    with pytest.raises(ModelFormatError, match="type llama"):
        load.load_base(saved_tiny())


def test_model_that_was_not_fetched(saved_tiny):
    with pytest.raises(MissingInputError, match=r"data/models/other/config\.json does not exist.*`make fetch`"):
        load.load_base(saved_tiny("model.name=other"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_4bit_weights_are_those_of_one_quantisation(saved_tiny, tiny_model, monkeypatch, dtype):
    """Quantised 256 weights at a time; head, embedding and norms stay in the dtype."""
    monkeypatch.setattr(load, "SLICE", 256)
    model, report = load.load_4bit(WEIGHTS.parent, dtype, "eager")
    assert report == {"missing_keys": [], "unexpected_keys": []}
    found = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    linears = {name for name, module in tiny_model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert found == linears - {"lm_head"}
    for name in found:
        layer, weight = model.get_submodule(name), tiny_model.get_submodule(name).weight.detach().to(dtype)
        expected = dequantize_4bit(*quantize_4bit(weight, quant_type="nf4", blocksize=64))
        assert layer.weight.dtype is torch.uint8
        assert torch.equal(dequantize_4bit(layer.weight, layer.weight.quant_state), expected)
        assert not torch.equal(expected, weight)
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(model.get_parameter(name), tiny_model.get_parameter(name).to(dtype))


@torch.no_grad()
def test_4bit_logits_are_those_of_the_restored_weights(saved_tiny, tiny_copy):
    input_ids = torch.tensor([[0, 5, 3, 7, 8, 1]])
    full = tiny_copy(input_ids=input_ids).logits
    model = load.load_base(saved_tiny("model.load_in_4bit=true"))
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            restored = dequantize_4bit(module.weight, module.weight.quant_state)
            tiny_copy.get_submodule(name).weight.copy_(restored)
    logits = model(input_ids=input_ids).logits
    torch.testing.assert_close(logits, tiny_copy(input_ids=input_ids).logits, rtol=1e-4, atol=1e-4)
    assert (logits - full).abs().max() > 0.1


def adapter(config, seed: int = 0):
    """The tiny model with a new adapter."""
    torch.manual_seed(seed)
    return load.attach_lora(load.load_base(config), config)


def test_adapter_is_all_that_is_trained(saved_tiny):
    model = adapter(saved_tiny("lora.lora_alpha=12"))
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * 4 * 2  # A and B of four linear layers in two layers
    assert all(".lora_" in name for name in trained)
    assert all(not weight.any() for name, weight in trained.items() if "lora_B" in name)
    layer = model.get_base_model().model.layers[0].mlp.down_proj
    assert layer.lora_A["default"].weight.shape == (4, 64)
    assert layer.scaling["default"] == 12 / 4


def test_the_seed_decides_the_adapter(saved_tiny):
    name = "base_model.model.model.layers.0.mlp.down_proj.lora_A.default.weight"
    first, same, other = (adapter(saved_tiny(), seed).get_parameter(name) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("names", ["[q_proj]", "[qkv_proj,q_proj]", "[norm]"])
def test_unknown_target_module(saved_tiny, names):
    """PEFT is content if one name matches, and would train less than the config says."""
    config = saved_tiny(f"lora.target_modules={names}")
    with pytest.raises(ConfigError, match=r"no linear layer (q_proj|norm); it has down_proj, gate_up_proj, lm_head"):
        load.attach_lora(load.load_base(config), config)


@pytest.fixture
def saved_adapter(saved_tiny) -> Path:
    """A saved adapter whose B matrices are not zero."""
    model = adapter(saved_tiny())
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained("adapter")
    return Path("adapter/adapter_model.safetensors")


@torch.no_grad()
def test_saved_adapter_is_loaded_frozen(saved_tiny, saved_adapter, tiny_model):
    model = load.load_adapter(load.load_base(saved_tiny()), saved_adapter.parent)
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    input_ids = torch.tensor([[0, 5, 3]])
    assert not torch.allclose(model(input_ids=input_ids).logits, tiny_model(input_ids=input_ids).logits)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.popitem(), r"missing \['base_model.*\], unexpected \[\]"),
        (
            lambda weights: weights.update({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)}),
            r"missing \[\], unexpected \['base_model\.model\.lm_head\.lora_A\.weight'\]",
        ),
        (
            lambda weights: weights.update({name: weight[:2].clone() for name, weight in weights.items()}),
            "cannot be loaded onto the base model",
        ),
    ],
    ids=["missing", "unexpected", "other shape"],
)
def test_adapter_that_does_not_fit(saved_tiny, saved_adapter, edit, message):
    """PEFT only warns of missing and unexpected tensors, and layers stay as the base model has them."""
    change(saved_adapter, edit)
    with pytest.raises(AdapterError, match=message):
        load.load_adapter(load.load_base(saved_tiny()), saved_adapter.parent)


def test_adapter_that_cannot_be_read(saved_tiny, saved_adapter):
    saved_adapter.write_bytes(b"not weights")
    with pytest.raises(AdapterError, match="cannot be loaded onto the base model"):
        load.load_adapter(load.load_base(saved_tiny()), saved_adapter.parent)


def test_adapter_that_was_not_trained(saved_tiny):
    with pytest.raises(MissingInputError, match="Run `make train` first"):
        load.load_adapter(load.load_base(saved_tiny()), Path("none"))
