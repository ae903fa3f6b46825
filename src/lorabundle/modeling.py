"""Load the base model, re-lay Llama weights out as Phi-3, and attach or load a LoRA adapter.

Everything here works on a folder that `from_pretrained` reads; how it got there is fetch's business.
"""

import logging
from pathlib import Path

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.utils import load_peft_weights
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from lorabundle import artifacts, probe
from lorabundle.config import Config
from lorabundle.errors import AdapterError, ConfigError, ModelFormatError

FETCH_FIRST = "Delete that folder, if it is there, and run `make fetch` to get the base model."


def quiet_libraries() -> None:
    """Leave the console to our own log: no progress bars or advice from transformers."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def resolve_dtype(dtype: str) -> torch.dtype:
    """The weights' dtype for a config value; `auto` is what the probe found faster on this CPU."""
    return getattr(torch, probe.decision()["dtype"] if dtype == "auto" else dtype)


def resolve_attention(attn_implementation: str) -> str:
    """The attention for a config value; `auto` is what the probe found faster on this CPU."""
    return probe.decision()["attn_implementation"] if attn_implementation == "auto" else attn_implementation


def llama_to_phi3(llama: LlamaForCausalLM) -> Phi3ForCausalLM:
    """The same network with Phi-3's parameter layout: q, k, v stacked in `qkv_proj`; gate, up in `gate_up_proj`.

    The arithmetic is the same, so the logits are equal to the last bit (tested).

    Raises:
        ModelFormatError: the model uses a feature that Phi-3 lacks (projection biases).
    """
    config = llama.config
    if config.attention_bias or config.mlp_bias:
        raise ModelFormatError("This Llama model has projection biases, which Phi-3 lacks; use one without.")
    weights = llama.state_dict()
    phi3_weights = {}
    for name, weight in weights.items():
        if name.endswith(".q_proj.weight"):
            parts = [weights[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            phi3_weights[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
        elif name.endswith(".gate_proj.weight"):
            parts = [weights[name.replace("gate_proj", part)] for part in ("gate_proj", "up_proj")]
            phi3_weights[name.replace("gate_proj", "gate_up_proj")] = torch.cat(parts)
        elif not name.endswith((".k_proj.weight", ".v_proj.weight", ".up_proj.weight")):
            phi3_weights[name] = weight
    shared = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "hidden_act",
        "max_position_embeddings",
        "initializer_range",
        "rms_norm_eps",
        "rope_parameters",
        "tie_word_embeddings",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    ]
    phi3_config = Phi3Config(**{name: getattr(config, name) for name in shared}, sliding_window=None)
    phi3_config.original_max_position_embeddings = config.max_position_embeddings
    phi3 = Phi3ForCausalLM(phi3_config).to(llama.dtype)
    phi3.load_state_dict(phi3_weights)  # strict: a missing or unexpected key is an error
    return phi3.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        MissingInputError: there is no such folder.
        ModelFormatError: the tokenizer files cannot be read.
    """
    artifacts.require(folder / "config.json", FETCH_FIRST)
    quiet_libraries()
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"The tokenizer in {folder} cannot be loaded: {error}.") from error


def check_architecture(folder: Path) -> None:
    """Raise `ModelFormatError` unless the folder's config is of a Phi-3-family model."""
    try:
        model_type = AutoConfig.from_pretrained(folder).model_type
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{folder}/config.json cannot be read as a model config: {error}.") from error
    if model_type != "phi3":
        raise ModelFormatError(
            f"{folder} holds a model of type {model_type}, but the training targets and the checks here are for phi3. "
            f"Point model.path at a Phi-3-family model."
        )


def from_folder(
    folder: Path, dtype: torch.dtype, attn_implementation: str, load_in_4bit: bool
) -> tuple[PreTrainedModel, dict]:
    """The model as transformers loads it, and its report of missing and unexpected keys.

    Args:
        folder: as `save_pretrained` leaves it.
        dtype: of the weights; with `load_in_4bit`, of what is computed with them.
        attn_implementation: "eager" or "sdpa".
        load_in_4bit: keep the linear layers as NormalFloat4 in blocks of 64 (Dettmers et al. 2023, arXiv 2305.14314). By
            bitsandbytes, which restores 50 M weights in 5 ms here; torchao's NF4 took 345 ms (EPYC Zen 4, two cores).
    """
    quiet_libraries()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # on a CPU it advises about kernels from a hub
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=attn_implementation,
        quantization_config=nf4 if load_in_4bit else None,
        output_loading_info=True,
    )
    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = (
                False  # else its first forward packs the weights for kernels not in the package
            )
    return model, report


def load_base(config: Config) -> PreTrainedModel:
    """The base model in evaluation mode, frozen, in the dtype and with the attention that the config asks for.

    Raises:
        MissingInputError: fetch has not run.
        ModelFormatError: the folder is not a Phi-3-family model, or weights are missing in it.
    """
    folder = config.model_dir
    artifacts.require(folder / "config.json", FETCH_FIRST)
    check_architecture(folder)
    try:
        model, report = from_folder(
            folder,
            resolve_dtype(config.model.dtype),
            resolve_attention(config.model.attn_implementation),
            config.model.load_in_4bit,
        )
    except (OSError, ValueError, RuntimeError) as error:
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
        ConfigError: a name in `lora.target_modules` is of no linear layer of the model (PEFT asks for one match in all).
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
    artifacts.require(folder / "adapter_model.safetensors", "Run `make train` first.")
    try:
        adapted = PeftModel.from_pretrained(model, folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise AdapterError(f"The adapter in {folder} cannot be loaded onto the base model: {error}.") from error
    needed = {name.replace(".default.", ".") for name in adapted.state_dict() if ".lora_" in name}
    saved = set(load_peft_weights(str(folder), device="cpu"))
    if needed != saved:
        raise AdapterError(
            f"The adapter in {folder} does not fit the base model: missing {sorted(needed - saved)[:3]}, unexpected "
            f"{sorted(saved - needed)[:3]}. Train it again for this base model."
        )
    return adapted.eval()
