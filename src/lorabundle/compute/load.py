"""Load the base model, its weights kept as the run's precision says, and attach a new LoRA adapter or load a saved one."""

from pathlib import Path

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.utils import load_peft_weights
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lorabundle.compute import cpu_probe, int8, precision
from lorabundle.compute.frozen_linear import (
    FrozenEmbedding,
    FrozenLinear,
    Int8Linear,
    Nf4Linear,
    WideLinear,
    keep_outliers_exact,
)
from lorabundle.compute.precision import Precision
from lorabundle.core.config import Config
from lorabundle.core.errors import AdapterError, ConfigError, ModelFormatError
from lorabundle.core.files import require
from lorabundle.model.architecture import FETCH_FIRST, check_architecture, quiet_libraries

LOADING_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError)  # of the libraries, for files that cannot be used


def resolve_attention(attn_implementation: str) -> str:
    """The attention for a config value; `auto` is what the probe found faster on this CPU."""
    return cpu_probe.decision()["attn_implementation"] if attn_implementation == "auto" else attn_implementation


def from_folder(folder: Path, formats: Precision, attn_implementation: str) -> tuple[PreTrainedModel, dict]:
    """The model, and a report of its missing and unexpected keys, as transformers gives it.

    Args:
        folder: as `save_pretrained` leaves it.
        formats: of its weights and products.
        attn_implementation: "eager" or "sdpa".
    """
    quiet_libraries()
    if not formats.is_plain:
        return _one_by_one(folder, formats, attn_implementation)
    dtype = getattr(torch, formats.dtype)
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation=attn_implementation, output_loading_info=True
    )


def _one_by_one(folder: Path, formats: Precision, attn_implementation: str) -> tuple[PreTrainedModel, dict]:
    """The model with `FrozenLinear` layers. Weights are read and converted one at a time.

    transformers' own loading of a 4-bit model held 15.6 GB at Phi-3-mini's size, which is 2.3 GB when loaded.
    """
    settings, states = AutoConfig.from_pretrained(folder), getattr(torch, formats.activation_dtype)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(settings, dtype=states, attn_implementation=attn_implementation)
    empty, unexpected = dict(model.named_parameters()), []
    embeddings = model.get_input_embeddings(), model.get_output_embeddings()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            # Their own order differs each time: in one, loading 3.8 B weights as int8 left 6 GB of holes in the heap
            names = sorted(tensors.keys())
        for name in names:
            path, _, leaf = name.rpartition(".")
            if empty.pop(name, None) is None:
                unexpected.append(name)
                continue
            # Opened again for each weight, because an open file keeps in memory what has been read
            with safe_open(file, framework="pt") as tensors:
                weight = tensors.get_tensor(name)
            module = model.get_submodule(path)
            if module in embeddings:
                kept = weight.to(getattr(torch, formats.embedding_dtype), copy=True)
                model.set_submodule(path, _embedding(module, kept, states))
            elif isinstance(module, torch.nn.Linear):
                model.set_submodule(path, _linear(weight, formats))
            else:
                setattr(module, leaf, torch.nn.Parameter(weight.to(states, copy=True), requires_grad=False))
    if settings.tie_word_embeddings:  # the files have one of the two
        model.set_output_embeddings(_embedding(embeddings[1], model.get_input_embeddings().weight, states))
    model.tie_weights()
    missing = [name for name, weight in model.named_parameters() if weight.device.type == "meta"]
    if formats.int8_kernel is not None and not missing:
        keep_outliers_exact(model.eval())
    return model, {"missing_keys": missing, "unexpected_keys": unexpected}


def _linear(weight: torch.Tensor, formats: Precision) -> FrozenLinear:
    """A layer that keeps `weight` (out, in)."""
    kernel = None if formats.int8_kernel is None else int8.KERNELS[formats.int8_kernel]
    if formats.dtype == "int8":
        return Int8Linear(weight, kernel)
    if formats.dtype == "nf4":
        return Nf4Linear(weight, kernel)
    return WideLinear(weight.to(getattr(torch, formats.dtype), copy=True))


def _embedding(module: torch.nn.Module, weight: torch.Tensor, states: torch.dtype) -> torch.nn.Module:
    """The embedding or the head, as `module` is, with `weight` (vocabulary, hidden) and states in another dtype."""
    return WideLinear(weight) if isinstance(module, torch.nn.Linear) else FrozenEmbedding(weight, states)


def load_base(config: Config) -> PreTrainedModel:
    """The base model in evaluation mode, frozen, with the precision and the attention that the config asks for.

    Raises:
        MissingInputError: fetch has not run.
        ModelFormatError: the folder does not hold a Phi-3-family model, or its weights are not exactly those of its config.
    """
    folder = config.model_dir
    require(folder / "config.json", FETCH_FIRST)
    check_architecture(folder)
    try:
        model, report = from_folder(
            folder, precision.resolve(config), resolve_attention(config.model.attn_implementation)
        )
    except LOADING_ERRORS as error:
        raise ModelFormatError(f"The weights in {folder} cannot be loaded: {error}. {FETCH_FIRST}") from error
    if report["missing_keys"] or report["unexpected_keys"]:  # transformers only warns, and draws random weights
        raise ModelFormatError(
            f"The weights in {folder} do not fit its config: missing {sorted(report['missing_keys'])[:3]}, unexpected "
            f"{sorted(report['unexpected_keys'])[:3]}. {FETCH_FIRST}"
        )
    return model.eval().requires_grad_(False)


def attach_lora(model: PreTrainedModel, config: Config) -> PeftModel:
    """Wrap `model` with a fresh, trainable LoRA adapter. Seed first: the A matrices are drawn here.

    Raises:
        ConfigError: the model has no linear layer of a name in `lora.target_modules` (PEFT is content if one name matches).
    """
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    unknown = [t for t in config.lora.target_modules if not any(name.split(".")[-1] == t for name in names)]
    if unknown:
        known = ", ".join(sorted({name.split(".")[-1] for name in names}))
        raise ConfigError(f"lora.target_modules: the model has no linear layer {', '.join(unknown)}; it has {known}.")
    lora = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=config.lora.r,
        lora_alpha=config.lora.lora_alpha,
        lora_dropout=config.lora.lora_dropout,
        target_modules=config.lora.target_modules,
    )
    return get_peft_model(model, lora)


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Wrap `model` with a saved adapter, frozen.

    Raises:
        MissingInputError: there is no adapter in `folder`.
        AdapterError: the saved tensors are not exactly those that the adapter needs (PEFT itself only warns).
    """
    require(folder / "adapter_model.safetensors", "Run `make train` first.")
    try:
        adapted = PeftModel.from_pretrained(model, folder)
    except LOADING_ERRORS as error:
        raise AdapterError(f"The adapter in {folder} cannot be loaded onto the base model: {error}.") from error
    expected = {name.replace(".default.", ".") for name in adapted.state_dict() if ".lora_" in name}
    saved = set(load_peft_weights(str(folder), device="cpu"))
    if expected != saved:
        raise AdapterError(
            f"The adapter in {folder} does not fit the base model: missing {sorted(expected - saved)[:3]}, unexpected "
            f"{sorted(saved - expected)[:3]}. Train it again for this base model."
        )
    return adapted.eval()
