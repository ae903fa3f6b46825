"""An estimate of a training's peak memory from shapes, before anything large is allocated.

The model is built on torch's meta device, which has shapes and no data. The largest forward pass of the training is run
through it, and what autograd would keep is counted tensor by tensor.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace

import psutil
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from lorabundle.compute import fused, packing, precision
from lorabundle.compute.frozen_linear import PIECE
from lorabundle.compute.load import attach_lora, resolve_attention
from lorabundle.compute.precision import BYTES, Precision
from lorabundle.core import machine
from lorabundle.core.config import Config
from lorabundle.core.errors import MemoryExhaustedError
from lorabundle.training import step
from lorabundle.training.step import Pass

log = logging.getLogger("lorabundle.train")

FALLBACK_MAX_TOKENS = (512, 256, 128)  # values of max_tokens to try when memory is short
LIBRARIES_LATER = 100_000_000  # what the trainer, the tokenizer and the threads add to the libraries, measured
# For each size of pass: oneDNN keeps about 30 products of 0.5 MB (see packing.TOKENS_MULTIPLE), the allocator keeps blocks
CODE_PER_PASS_SIZE = 40_000_000
ALLOCATOR_OVERHEAD = 1.15  # the allocator keeps freed blocks that the next shapes do not fit into; measured: 1.0 to 1.2


def largest_pass(passes: list[Pass]) -> tuple[list[int], int]:
    """Indices of the rows of the forward pass with the most tokens, and the number of different sizes of passes."""
    sizes = {-(-one.tokens // packing.TOKENS_MULTIPLE) for one in passes}
    return max(passes, key=lambda one: one.tokens).rows, len(sizes)


def estimate(config: Config, rows: list[dict], shared_tokens: int, num_pass_sizes: int) -> dict[str, int]:
    """Peak memory of a training in bytes, by what takes it.

    Args:
        config: of the run; the shapes come from `config.json` in its model folder.
        rows: of the largest forward pass (see `largest_pass`).
        shared_tokens: number of tokens that all rows start with.
        num_pass_sizes: number of different sizes of passes.
    """
    model_config = AutoConfig.from_pretrained(config.model_dir)
    formats = precision.resolve(config)
    dtype = getattr(torch, formats.activation_dtype)
    full_model = _meta_model(config, model_config, dtype, model_config.num_hidden_layers)
    num_adapter = sum(weight.numel() for weight in full_model.parameters() if weight.requires_grad)
    packed = packing.pack(rows, shared_tokens)
    working = max(_head_bytes(model_config, dtype), _backward_bytes(formats, model_config, full_model, dtype, packed))
    return {
        "Python and libraries": psutil.Process().memory_info().rss + LIBRARIES_LATER,
        "generated code": num_pass_sizes * CODE_PER_PASS_SIZE if dtype is torch.bfloat16 else 0,
        "base weights": _base_bytes(formats, full_model),
        "adapter": 4 * num_adapter,
        "gradients": 4 * num_adapter,
        "optimizer": 8 * num_adapter,
        "activations": int(ALLOCATOR_OVERHEAD * _activation_bytes(config, model_config, dtype, packed)),
        "working memory": int(ALLOCATOR_OVERHEAD * working),
    }


def fit(config: Config, rows: list[dict], shared_tokens: int, num_pass_sizes: int) -> tuple[Config, dict[str, int]]:
    """The config to train with, and the memory estimate for it.

    That is the given config, if it fits into the free memory. With `train.fit: auto` and fast numerics it may be one that saves
    memory and changes the result only by rounding.

    Args:
        config: as the user gave it.
        rows, shared_tokens, num_pass_sizes: see `estimate`.

    Raises:
        MemoryExhaustedError: it does not fit; the message names the change that does and costs least time.
    """
    memory_estimate, free = estimate(config, rows, shared_tokens, num_pass_sizes), free_memory()
    if sum(memory_estimate.values()) <= free.amount:
        return config, memory_estimate
    short = (
        f"Training needs about {sum(memory_estimate.values()) / 1e9:.1f} GB of memory, and {free.amount / 1e9:.1f} GB are free "
        f"({free.origin})."
    )
    lengths = [len(row["input_ids"]) for row in rows]
    for setting, changed in cheaper(config):
        largest, _ = largest_pass(step.passes(lengths, range(len(rows)), shared_tokens, changed.train))
        fewer_sizes = min(num_pass_sizes, -(-changed.train.max_tokens // packing.TOKENS_MULTIPLE))
        smaller_estimate = estimate(changed, [rows[index] for index in largest], shared_tokens, fewer_sizes)
        if sum(smaller_estimate.values()) > free.amount:
            continue
        # Passes of another size round differently, so portable bytes must not depend on the free memory
        if config.train.fit == "auto" and config.numerics == "fast" and changed.model == config.model:
            log.warning("%s Training uses %s instead: slower, and the result changes only by rounding.", short, setting)
            return changed, smaller_estimate
        raise MemoryExhaustedError(
            f"{short} It fits ({sum(smaller_estimate.values()) / 1e9:.1f} GB) with {setting}: set that and run again."
        )
    raise MemoryExhaustedError(
        f"{short} No setting makes it fit: use a smaller model, a shorter data.max_length, or a machine with more memory."
    )


def table(memory_estimate: dict[str, int], free: machine.Limit) -> str:
    """The estimate as lines of text, and what is free."""
    rows = [*memory_estimate.items(), ("total", sum(memory_estimate.values())), ("free", free.amount)]
    return "\n".join(f"  {name:<22}{size / 1e9:6.2f} GB" for name, size in rows) + f" ({free.origin})"


def free_memory() -> machine.Limit:
    """Bytes that this process may use, what it uses now included."""
    return machine.free_memory(psutil.Process().memory_info().rss, psutil.virtual_memory().available)


def cheaper(config: Config) -> Iterator[tuple[str, Config]]:
    """Changes that save memory, those that cost least time first: the setting to write, and the config with it.

    Fewer tokens a pass and gradient checkpointing change the result only by rounding; keeping weights in less changes it more.
    """
    for size in FALLBACK_MAX_TOKENS:
        if size < config.train.max_tokens:
            yield f"train.max_tokens={size}", _with(config, "train", max_tokens=size)
    smallest = min([config.train.max_tokens, *FALLBACK_MAX_TOKENS])
    setting = f"train.gradient_checkpointing=true train.max_tokens={smallest}"
    saving = _with(config, "train", gradient_checkpointing=True, max_tokens=smallest)
    yield setting, saving
    if config.numerics == "portable":  # which is float32
        return
    formats = list(BYTES)
    for dtype in formats[formats.index(precision.resolve(config).dtype) + 1 :]:
        yield f"model.dtype={dtype} {setting}", _with(saving, "model", dtype=dtype)


def _with(config: Config, section: str, **values) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def _base_bytes(formats: Precision, model: PeftModel) -> int:
    """The base model's weights."""
    total = 0.0
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            kept = formats.dtype if name.endswith("base_layer.weight") else formats.embedding_dtype
            total += weight.numel() * BYTES[kept]
    return int(total)


def _activation_bytes(
    config: Config, model_config: PreTrainedConfig, dtype: torch.dtype, packed: packing.Packed
) -> int:
    """What autograd keeps of a forward pass, from models with one layer and with two."""
    first, both = (_kept_bytes(_meta_model(config, model_config, dtype, layers), packed) for layers in (1, 2))
    per_layer = both - first
    if config.train.gradient_checkpointing:  # only a layer's input, until the layer is computed again
        per_layer = packed.input_ids.shape[1] * model_config.hidden_size * dtype.itemsize
    return first + (model_config.num_hidden_layers - 1) * per_layer


def _head_bytes(model_config: PreTrainedConfig, dtype: torch.dtype) -> int:
    """What the head needs for a moment."""
    logits = fused.HEAD_ROWS * model_config.vocab_size * 8  # and likelihoods, both in float32
    # oneDNN lays a bfloat16 weight out again for each product
    weight = model_config.vocab_size * model_config.hidden_size * dtype.itemsize if dtype is torch.bfloat16 else 0
    return logits + weight


def _backward_bytes(
    formats: Precision, model_config: PreTrainedConfig, model: PeftModel, dtype: torch.dtype, packed: packing.Packed
) -> int:
    """What the backward pass of a layer needs for a moment."""
    layers = [weight for name, weight in model.named_parameters() if name.endswith("base_layer.weight")]
    widest = max(weight.numel() for weight in layers)
    gradients = 3 * packed.input_ids.shape[1] * 2 * model_config.intermediate_size * dtype.itemsize  # its widest part's
    if formats.int8_kernel is not None:
        copies = 2 * widest  # turned, and laid out
    elif formats.dtype != formats.activation_dtype:
        copies = PIECE * max(weight.shape[1] for weight in layers) * dtype.itemsize  # restored
    else:
        copies = (dtype is torch.bfloat16) * widest * dtype.itemsize  # oneDNN lays it out again for each product
    return gradients + copies


def _meta_model(config: Config, model_config: PreTrainedConfig, dtype: torch.dtype, num_layers: int) -> PeftModel:
    """The model with its adapter and `num_layers` layers, without data."""
    shape = type(model_config)(**(model_config.to_dict() | {"num_hidden_layers": num_layers}))
    attention = resolve_attention(config.model.attn_implementation)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(shape, dtype=dtype, attn_implementation=attention).requires_grad_(False)
        model = attach_lora(base, config).train()
    fused.fuse(model)
    return model


def _kept_bytes(model: PeftModel, packed: packing.Packed) -> int:
    """Bytes of the tensors that autograd keeps of a forward pass, without the parameters."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.device.type == "meta" and storage._cdata not in weights:
            storages[storage._cdata] = storage  # kept alive, so that its number is not given to another
        return tensor

    base = model.get_base_model()
    tensors = {name: value.to("meta") for name, value in vars(packed).items() if isinstance(value, torch.Tensor)}
    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with torch.device("meta"), hooks, packing.packed_attention(base):
        packing.scored_states(base, replace(packed, **tensors))
    return sum(storage.nbytes() for storage in storages.values())
