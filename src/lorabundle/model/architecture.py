"""A base model's folder: its tokenizer, checks of its files and architecture, and Llama weights in the layout of Phi-3.

The fetch command puts the folder in place; `from_pretrained` reads it.
"""

from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from lorabundle.core.errors import HashMismatchError, ModelFormatError
from lorabundle.core.files import changed_files, read_json, require

FETCH_FIRST = "Delete the model's folder, if it exists, and run `make fetch` with this run's CONFIG."

# First module of a stack -> the stacked module's name in Phi-3, and the modules in it
STACKS = {
    "q_proj": ("qkv_proj", ["q_proj", "k_proj", "v_proj"]),
    "gate_proj": ("gate_up_proj", ["gate_proj", "up_proj"]),
}
# Settings that have the same name and meaning in Llama's config and in Phi-3's
SHARED_SETTINGS = [
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


def quiet_libraries() -> None:
    """Turn off progress bars and advice from transformers, so that the console shows only this package's log."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def llama_to_phi3(llama: LlamaForCausalLM) -> Phi3ForCausalLM:
    """The same network in Phi-3's layout: q, k and v are stacked in `qkv_proj`, gate and up in `gate_up_proj`.

    The arithmetic is the same, so the logits are equal to the last bit (tested). Only if a projection's width is not a multiple
    of 32 may a matrix product round differently: by 7e-7 at most in random models of width 48.

    Raises:
        ModelFormatError: the model has projection biases, which Phi-3 does not have.
    """
    config = llama.config
    if config.attention_bias or config.mlp_bias:
        raise ModelFormatError(
            "This Llama model has projection biases, which Phi-3 does not have. Use a model without them."
        )
    phi3_config = Phi3Config(**{name: getattr(config, name) for name in SHARED_SETTINGS}, sliding_window=None)
    phi3_config.original_max_position_embeddings = config.max_position_embeddings
    phi3 = Phi3ForCausalLM(phi3_config).to(llama.dtype)
    phi3.load_state_dict(_stacked(llama.state_dict()))  # strict: a missing or unexpected key is an error
    return phi3.eval()


def _stacked(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Llama's weights under Phi-3's names, with the projections of one input stacked along the output dimension."""
    stacked = {}
    for name, weight in weights.items():
        module = name.removesuffix(".weight").rpartition(".")[2]
        if module in STACKS:
            target, parts = STACKS[module]
            stacked[name.replace(module, target)] = torch.cat([weights[name.replace(module, part)] for part in parts])
        elif not any(module in parts for _, parts in STACKS.values()):
            stacked[name] = weight
    return stacked


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder.

    Raises:
        MissingInputError: the folder does not exist.
        ModelFormatError: the tokenizer files cannot be read.
    """
    require(folder / "config.json", FETCH_FIRST)
    quiet_libraries()
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"The tokenizer in {folder} cannot be loaded: {error}.") from error


def check_unchanged(folder: Path) -> None:
    """Compare a model's folder with the hashes that fetch wrote into it: a changed weight would only look like a worse model.

    Raises:
        MissingInputError: fetch has not run.
        HashMismatchError: a file is missing, or is not the one that fetch left.
    """
    hashes = read_json(folder / "provenance.json", FETCH_FIRST)["files"]
    if changed := changed_files(folder, hashes):
        raise HashMismatchError(
            f"{folder / changed[0]} is not the file that fetch left: it is damaged, or was changed. Delete {folder} and run "
            f"`make fetch` with this run's CONFIG."
        )


def check_architecture(folder: Path) -> None:
    """Raise `ModelFormatError` if the folder does not hold a Phi-3-family model."""
    try:
        model_type = AutoConfig.from_pretrained(folder).model_type
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{folder}/config.json cannot be read as a model config: {error}.") from error
    if model_type != "phi3":
        raise ModelFormatError(
            f"{folder} holds a model of type {model_type}, but the LoRA targets and the checks are for phi3. Set model.path to a "
            f"Phi-3-family model."
        )
