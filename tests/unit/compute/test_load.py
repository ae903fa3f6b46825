"""Loading on a tiny model: attention, formats of the weights, and every way in which weights or an adapter do not fit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorabundle.compute import cpu_probe, load
from lorabundle.compute.frozen_linear import FrozenLinear, Int8Linear, Nf4Linear, WideLinear
from lorabundle.core.errors import AdapterError, ConfigError, MissingInputError, ModelFormatError

WEIGHTS = Path("data/models/tiny/model.safetensors")
DOWN = "model.layers.0.mlp.down_proj.weight"


def change(path: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Rewrite a safetensors file after `edit` has changed its tensors."""
    weights = load_file(path)
    edit(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_attention_of_a_config(monkeypatch):
    monkeypatch.setattr(cpu_probe, "decision", lambda: {"attn_implementation": "sdpa"})
    assert load.resolve_attention("eager") == "eager"
    assert load.resolve_attention("auto") == "sdpa"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_is_frozen_and_in_evaluation_mode(saved_tiny, tiny_model, dtype):
    model = load.load_base(saved_tiny(f"model.dtype={dtype}", f"model.compute_dtype={dtype}"))
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    for name, weight in tiny_model.named_parameters():
        assert torch.equal(model.get_parameter(name), weight.to(getattr(torch, dtype)))


@pytest.mark.parametrize("kept", ["model.dtype=float32", "model.dtype=int8", "model.dtype=nf4"])
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.pop(DOWN), r"missing \['model\.layers\.0\.mlp\.down_proj\.weight'\], unexpected \[\]"),
        (lambda weights: weights.update(other=torch.ones(2)), r"missing \[\], unexpected \['other'\]"),
    ],
    ids=["missing", "unexpected"],
)
def test_weights_that_do_not_fit_the_config(saved_tiny, edit, message, kept):
    """Transformers only warns, and fills missing weights with random numbers."""
    change(WEIGHTS, edit)
    with pytest.raises(ModelFormatError, match=message):
        load.load_base(saved_tiny(kept))


@pytest.mark.parametrize("kept", ["model.dtype=float32", "model.dtype=int8", "model.dtype=nf4"])
def test_weights_that_cannot_be_read(saved_tiny, kept):
    WEIGHTS.write_bytes(b"not weights")
    with pytest.raises(ModelFormatError, match=r"The weights in data/models/tiny cannot be loaded"):
        load.load_base(saved_tiny(kept))


def test_other_architecture(saved_tiny):
    path = WEIGHTS.with_name("config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "llama"}))
    with pytest.raises(ModelFormatError, match="type llama"):
        load.load_base(saved_tiny())


def test_model_that_was_not_fetched(saved_tiny):
    with pytest.raises(MissingInputError, match=r"data/models/other/config\.json does not exist.*`make fetch`"):
        load.load_base(saved_tiny("model.name=other"))


KINDS = {"bfloat16": WideLinear, "int8": Int8Linear, "nf4": Nf4Linear}


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kept", list(KINDS))
def test_layers_are_kept_in_the_format_and_all_else_in_floats(saved_tiny, tiny_model, kept, compute_dtype):
    """Head and embedding are in bfloat16 only if the layers or the states are; norms are in the states' dtype."""
    settings = f"model.dtype={kept}", f"model.compute_dtype={compute_dtype}"
    model = load.load_base(saved_tiny(*settings))
    found = {name for name, module in model.named_modules() if isinstance(module, FrozenLinear)} - {"lm_head"}
    if kept == compute_dtype:
        assert not found  # plain layers
        return
    assert found == {name for name, module in tiny_model.named_modules() if isinstance(module, torch.nn.Linear)} - {
        "lm_head"
    }
    assert {type(model.get_submodule(name)) for name in found} == {KINDS[kept]}
    states = getattr(torch, compute_dtype)
    ends = torch.bfloat16 if kept == "bfloat16" else states
    for name, dtype in {"lm_head": ends, "model.embed_tokens": ends, "model.norm": states}.items():
        weight = model.get_parameter(f"{name}.weight")
        assert weight.dtype is dtype
        assert torch.equal(weight, tiny_model.get_parameter(f"{name}.weight").to(dtype))
    assert model(input_ids=torch.tensor([[0, 5, 3]])).logits.dtype is states


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kept", list(KINDS))
def test_logits_are_those_of_the_restored_weights(saved_tiny, tiny_copy, kept, tied):
    """Of a model that transformers computes with these weights, in float32."""
    config = saved_tiny(f"model.dtype={kept}", "model.compute_dtype=float32")
    if tied:
        tiny_copy.config.tie_word_embeddings = True
        tiny_copy.lm_head.weight = tiny_copy.model.embed_tokens.weight
        tiny_copy.save_pretrained(config.model_dir)
    input_ids = torch.tensor([[0, 5, 3, 7, 8, 1]])
    full, model = tiny_copy(input_ids=input_ids).logits, load.load_base(config)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    for name, module in model.named_modules():
        if isinstance(module, FrozenLinear):
            restored = torch.cat([weight for _, weight in module.pieces(torch.float32)])
            tiny_copy.get_submodule(name).weight.copy_(restored)
    if kept == "bfloat16":
        tiny_copy.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight)
    logits = model(input_ids=input_ids).logits
    torch.testing.assert_close(logits, tiny_copy(input_ids=input_ids).logits, rtol=1e-4, atol=1e-4)
    assert (logits - full).abs().max() > 1e-3


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
