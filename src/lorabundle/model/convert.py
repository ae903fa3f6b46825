"""Load the base model, re-lay Llama weights out as Phi-3, and attach or load a LoRA adapter.

Everything here works on a folder that `from_pretrained` reads; how it got there is fetch's business.
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

FETCH_FIRST = "Delete that folder, if it is there, and run `make fetch` to get the base model."


def quiet_libraries() -> None:
    """Leave the console to our own log: no progress bars or advice from transformers."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


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
    require(folder / "config.json", FETCH_FIRST)
    quiet_libraries()
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"The tokenizer in {folder} cannot be loaded: {error}.") from error


def check_unchanged(folder: Path) -> None:
    """Compare a model's folder with the hashes that fetch noted in it: a changed weight can pass for a worse model.

    Raises:
        MissingInputError: fetch has not run.
        HashMismatchError: a file is missing, or is not the one that fetch left.
    """
    hashes = read_json(folder / "provenance.json", FETCH_FIRST)["files"]
    if changed := changed_files(folder, hashes):
        raise HashMismatchError(
            f"{folder / changed[0]} is not the file that fetch left: it is damaged, or was changed. Delete {folder} and run the same "
            f"command again, which makes it anew."
        )


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
