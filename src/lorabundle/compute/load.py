"""Load the base model, in the dtype that the config asks for or in 4 bits, and attach a new LoRA adapter or load a saved one."""

from functools import partial
from pathlib import Path

import torch
from accelerate import init_empty_weights
from bitsandbytes.functional import quantize_4bit
from bitsandbytes.nn import Linear4bit, Params4bit
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.utils import load_peft_weights
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lorabundle.compute import cpu_probe
from lorabundle.core.config import Config
from lorabundle.core.errors import AdapterError, ConfigError, ModelFormatError
from lorabundle.core.files import require
from lorabundle.model.architecture import FETCH_FIRST, check_architecture, quiet_libraries

LOADING_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError)  # of the libraries, for files that cannot be used
SLICE = 64 * 2**14  # weights that are quantised at a time: a multiple of the block size


def resolve_dtype(dtype: str) -> torch.dtype:
    """The weights' dtype for a config value; `auto` is what the probe found faster on this CPU."""
    return getattr(torch, cpu_probe.decision()["dtype"] if dtype == "auto" else dtype)


def resolve_attention(attn_implementation: str) -> str:
    """The attention for a config value; `auto` is what the probe found faster on this CPU."""
    return cpu_probe.decision()["attn_implementation"] if attn_implementation == "auto" else attn_implementation


def from_folder(
    folder: Path, dtype: torch.dtype, attn_implementation: str, load_in_4bit: bool
) -> tuple[PreTrainedModel, dict]:
    """The model, and a report of its missing and unexpected keys, as transformers gives it.

    Args:
        folder: as `save_pretrained` leaves it.
        dtype: of the weights; with `load_in_4bit`, of the computation.
        attn_implementation: "eager" or "sdpa".
        load_in_4bit: see `load_4bit`.
    """
    quiet_libraries()
    load = load_4bit if load_in_4bit else partial(AutoModelForCausalLM.from_pretrained, output_loading_info=True)
    return load(folder, dtype=dtype, attn_implementation=attn_implementation)


def load_4bit(folder: Path, dtype: torch.dtype, attn_implementation: str) -> tuple[PreTrainedModel, dict]:
    """The model with the layers' linear weights as NormalFloat4 in blocks of 64 (Dettmers et al. 2023, arXiv 2305.14314).

    By bitsandbytes, which restores 50 M weights in 5 ms; torchao's NF4 took 345 ms (EPYC Zen 4, two cores). Weights are read
    one at a time: transformers' own loading of such a model held 15.6 GB at Phi-3-mini's size, which is 2.3 GB when loaded.
    """
    settings = AutoConfig.from_pretrained(folder)
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(settings, dtype=dtype, attn_implementation=attn_implementation)
    empty, unexpected = dict(model.named_parameters()), []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
        for name in names:
            path, _, leaf = name.rpartition(".")
            if empty.pop(name, None) is None:
                unexpected.append(name)
                continue
            # Opened again for each weight, because an open file keeps in memory what has been read
            with safe_open(file, framework="pt") as tensors:
                weight = tensors.get_tensor(name).to(dtype, copy=True)
            module = model.get_submodule(path)
            if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings():
                model.set_submodule(path, _linear_4bit(weight))
            else:
                setattr(module, leaf, torch.nn.Parameter(weight, requires_grad=False))
    model.tie_weights()
    model.is_loaded_in_4bit = True  # where PEFT looks
    missing = [name for name, weight in model.named_parameters() if weight.device.type == "meta"]
    return model, {"missing_keys": missing, "unexpected_keys": unexpected}


def _linear_4bit(weight: torch.Tensor) -> Linear4bit:
    """A linear layer with `weight` (out, in) in 4 bits, quantised slice by slice: all at once would take 32 times its memory."""
    with torch.device("meta"):
        layer = Linear4bit(weight.shape[1], weight.shape[0], bias=False, compute_dtype=weight.dtype, quant_type="nf4")
    slices = [quantize_4bit(part, quant_type="nf4", blocksize=64) for part in weight.flatten().split(SLICE)]
    state = slices[0][1]
    state.absmax, state.shape = torch.cat([part.absmax for _, part in slices]), weight.shape
    packed = torch.cat([data for data, _ in slices])
    layer.weight = Params4bit(packed, requires_grad=False, quant_state=state, bnb_quantized=True, module=layer)
    layer.weight.quant_type = "nf4"
    layer.support_avx512bf16_for_cpu = (
        False  # else its first forward packs the weights for kernels that the package lacks
    )
    return layer


def load_base(config: Config) -> PreTrainedModel:
    """The base model in evaluation mode, frozen, in the dtype and with the attention that the config asks for.

    Raises:
        MissingInputError: fetch has not run.
        ModelFormatError: the folder does not hold a Phi-3-family model, or its weights are not exactly those of its config.
    """
    folder = config.model_dir
    require(folder / "config.json", FETCH_FIRST)
    check_architecture(folder)
    try:
        model, report = from_folder(
            folder,
            resolve_dtype(config.model.dtype),
            resolve_attention(config.model.attn_implementation),
            config.model.load_in_4bit,
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
