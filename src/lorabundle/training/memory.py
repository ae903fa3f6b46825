"""How much memory a training will take, from shapes alone, before anything large is allocated.

The model is built on torch's meta device, which has shapes and no data, and the largest forward pass of the training is run
through it: what autograd would keep is counted tensor by tensor.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lorabundle.compute import fused, packing
from lorabundle.compute.load import attach_lora, resolve_attention, resolve_dtype
from lorabundle.core.config import Config, Train
from lorabundle.core.errors import MemoryExhaustedError

log = logging.getLogger("lorabundle.train")

# In a container: what it may use of the machine's memory, by cgroups' version 2 and 1
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
BITS_4 = 0.5 + 4 / 64  # bytes a weight: 4 bits, and a float32 scale for each 64
STEPS = (512, 256, 128)  # max_tokens to fall back on
LATER = 100_000_000  # what the trainer, the tokenizer and the threads add to the libraries, measured
CODE = 40_000_000  # for each size of pass: oneDNN keeps some 30 products of 0.5 MB (see packing.TOKENS_MULTIPLE), the allocator blocks
ROUNDING = 1.05  # the allocator keeps freed blocks that the next shapes do not fit into; measured: 1.0 to 1.2


def largest_pass(lengths: list[int], order: Iterable[int], shared: int, train: Train) -> tuple[list[int], int]:
    """Indices of the rows that make up the forward pass with the most tokens, and how many sizes of passes there are.

    Args:
        lengths: of all rows.
        order: the rows of the training, one after the other.
        shared: tokens that all rows start with.
        train: settings.
    """
    order, size = list(order), train.per_device_train_batch_size
    largest: list[int] = []
    most, sizes = 0, set()
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        for indices in packing.batches([lengths[row] for row in batch], shared, train.max_tokens):
            members = [batch[index] for index in indices]
            tokens = shared + sum(lengths[row] - 1 - shared for row in members)
            sizes.add(-(-tokens // packing.TOKENS_MULTIPLE))
            if tokens > most:
                largest, most = members, tokens
    return largest, len(sizes)


def estimate(config: Config, rows: list[dict], shared: int, sizes: int) -> dict[str, int]:
    """Peak memory of training in bytes, by what takes it.

    Args:
        config: of the run; the shapes come from `config.json` in its model folder.
        rows: of the largest forward pass (see `largest_pass`).
        shared: tokens that all rows start with.
        sizes: how many sizes of passes there are.
    """
    settings = AutoConfig.from_pretrained(config.model_dir)
    dtype = resolve_dtype(config.model.dtype)
    attention = resolve_attention(config.model.attn_implementation)
    whole = _meta_model(config, settings, dtype, attention, settings.num_hidden_layers)
    base = adapter = 0
    for name, weight in whole.named_parameters():
        if weight.requires_grad:
            adapter += weight.numel()
        else:
            four_bits = config.model.load_in_4bit and name.endswith("base_layer.weight")
            base += int(weight.numel() * (BITS_4 if four_bits else dtype.itemsize))
    packed = packing.pack(rows, shared)
    one, two = (_kept(_meta_model(config, settings, dtype, attention, layers), packed) for layers in (1, 2))
    places = packed.input_ids.shape[1]
    further = two - one  # a layer keeps so much; with checkpointing its input alone, until it is gone through again
    if config.train.gradient_checkpointing:
        further = places * settings.hidden_size * dtype.itemsize
    kept = one + (settings.num_hidden_layers - 1) * further
    head = fused.HEAD_ROWS * settings.vocab_size * 8  # logits and likelihoods, in float32
    widest = max(weight.numel() for name, weight in whole.named_parameters() if name.endswith("base_layer.weight"))
    backward = 3 * places * 2 * settings.intermediate_size * dtype.itemsize  # gradients of the widest part of a layer
    if dtype is torch.bfloat16:  # oneDNN lays a weight out anew for each product
        head += settings.vocab_size * settings.hidden_size * dtype.itemsize
        backward += widest * dtype.itemsize
    if config.model.load_in_4bit:
        backward += widest * dtype.itemsize
    return {
        "Python and libraries": psutil.Process().memory_info().rss + LATER,
        "generated code": sizes * CODE if dtype is torch.bfloat16 else 0,
        "base weights": base,
        "adapter": 4 * adapter,
        "gradients": 4 * adapter,
        "optimizer": 8 * adapter,
        "activations": int(ROUNDING * kept),
        "working memory": int(ROUNDING * max(head, backward)),
    }


def fit(config: Config, rows: list[dict], shared: int, sizes: int) -> tuple[Config, dict[str, int]]:
    """The config to train with, and the estimate for it.

    That is the given one, if it fits into the memory that is free; with `train.fit: auto` and fast numerics one that saves
    memory, as long as it changes no result but by rounding.

    Raises:
        MemoryExhaustedError: it does not fit; the message names the cheapest change that does.
    """
    needed, free = estimate(config, rows, shared, sizes), available_bytes()
    if sum(needed.values()) <= free:
        return config, needed
    short = f"Training needs about {sum(needed.values()) / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free."
    lengths = [len(row["input_ids"]) for row in rows]
    for setting, changed in cheaper(config):
        largest, _ = largest_pass(lengths, range(len(rows)), shared, changed.train)
        fewer_sizes = min(sizes, -(-changed.train.max_tokens // packing.TOKENS_MULTIPLE))
        less = estimate(changed, [rows[index] for index in largest], shared, fewer_sizes)
        if sum(less.values()) > free:
            continue
        # Passes of another size round otherwise, so portable bytes cannot depend on what memory is free
        if config.train.fit == "auto" and config.numerics == "fast" and changed.model == config.model:
            log.warning("%s Going on with %s: slower, with the same result.", short, setting)
            return changed, less
        raise MemoryExhaustedError(
            f"{short} It fits ({sum(less.values()) / 1e9:.1f} GB) with {setting}: set that and run again."
        )
    raise MemoryExhaustedError(
        f"{short} No setting makes it fit: use a smaller model, a shorter data.max_length, or a machine with more memory."
    )


def table(needed: dict[str, int]) -> str:
    """The estimate as lines of text."""
    rows = [*needed.items(), ("in all", sum(needed.values()))]
    return "\n".join(f"  {name:<22}{size / 1e9:6.2f} GB" for name, size in rows)


def available_bytes() -> int:
    """Memory that this process may still take, its present share included."""
    available = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    limits = [path.read_text(encoding="utf-8").strip() for path in CGROUP_LIMITS if path.is_file()]
    return min([available, *(int(limit) for limit in limits if limit != "max")])


def cheaper(config: Config) -> Iterator[tuple[str, Config]]:
    """Changes that save memory, the least costly first: each with the setting to write, and the config it gives.

    Fewer tokens a pass and gradient checkpointing cost time and change results by rounding alone; the dtype and a 4-bit base do.
    """
    fewer = [size for size in STEPS if size < config.train.max_tokens]
    for size in fewer:
        yield f"train.max_tokens={size}", _with(config, "train", max_tokens=size)
    last = {"max_tokens": min([config.train.max_tokens, *STEPS])}
    saving = _with(config, "train", gradient_checkpointing=True, **last)
    yield f"train.gradient_checkpointing=true train.max_tokens={last['max_tokens']}", saving
    if resolve_dtype(config.model.dtype) is torch.float32:
        saving = _with(saving, "model", dtype="bfloat16")
        yield f"model.dtype=bfloat16 train.gradient_checkpointing=true train.max_tokens={last['max_tokens']}", saving
    yield (
        f"model.load_in_4bit=true train.gradient_checkpointing=true train.max_tokens={last['max_tokens']}",
        _with(saving, "model", load_in_4bit=True),
    )


def _with(config: Config, section: str, **values) -> Config:
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def _meta_model(config: Config, settings, dtype: torch.dtype, attention: str, layers: int):
    """The model with its adapter and so many layers, without data."""
    shape = type(settings)(**(settings.to_dict() | {"num_hidden_layers": layers}))
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(shape, dtype=dtype, attn_implementation=attention).requires_grad_(False)
        model = attach_lora(base, config).train()
    fused.fuse(model)
    return model


def _kept(model, packed: packing.Packed) -> int:
    """Bytes of the tensors that autograd keeps of a forward pass, parameters excluded."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if tensor.device.type == "meta" and storage._cdata not in weights:
            storages[storage._cdata] = storage  # held, so that its number is not given to another
        return tensor

    base = model.get_base_model()
    tensors = {name: value.to("meta") for name, value in vars(packed).items() if isinstance(value, torch.Tensor)}
    hooks = torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor)
    with torch.device("meta"), hooks, packing.packed_attention(base):
        packing.scored_states(base, replace(packed, **tensors))
    return sum(storage.nbytes() for storage in storages.values())
