"""Speed and peak memory of our step at Phi-3-mini's size: its geometry (3.82 B parameters) with random weights.

Makes `data/models/phi-3-mini-random/` (7.6 GB) if it is not there. A turn is one step of 16 of the run's training rows, their
token ids modulo Phi-3-mini's vocabulary, with its weights kept and multiplied in different formats. Writes
`outputs/bench/geometry.json` and `geometry.md`.

Run as: make bench (left out by QUICK=1)
"""

import argparse
import shutil

import torch
from datasets import load_from_disk
from transformers import Phi3Config, Phi3ForCausalLM

from lorabundle.core import config
from lorabundle.core.config_file import add_arguments, load_config
from lorabundle.core.files import atomic_dir, write_json
from lorabundle.training.environment import describe
from tests.bench.bench_evaluation import OUTPUT, REPEATS
from tests.bench.bench_training import Side, measure

NAME = "phi-3-mini-random"
GEOMETRY = {  # of microsoft/Phi-3-mini-4k-instruct
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "pad_token_id": 2,
}
SETTINGS = ["model.name=" + NAME, "train.max_tokens=256"]
SIDES = {
    "bfloat16": Side("ours", "bfloat16", ["model.compute_dtype=bfloat16"]),
    "bfloat16, multiplied in float32": Side("ours", "bfloat16", ["model.compute_dtype=float32"]),
    "int8, multiplied in float32": Side("ours", "int8", ["model.compute_dtype=float32"]),
    "int8, multiplied in int8": Side("ours", "int8", ["model.compute_dtype=int8"]),
    "4-bit, multiplied in float32": Side("ours", "nf4", ["model.compute_dtype=float32"]),
    "4-bit, multiplied in float32, checkpointing": Side(
        "ours", "nf4", ["model.compute_dtype=float32", "train.gradient_checkpointing=true"]
    ),
    "4-bit, multiplied in int8": Side("ours", "nf4", ["model.compute_dtype=int8"]),
}


def make_model(run_config: config.Config) -> None:
    """Save a model of Phi-3-mini's shapes, with the run's tokenizer next to it."""
    folder = config.MODELS / NAME
    if (folder / "config.json").is_file():
        return
    torch.manual_seed(0)
    with atomic_dir(folder) as temporary, torch.no_grad():
        with torch.device("meta"):
            model = Phi3ForCausalLM(Phi3Config(**GEOMETRY)).to(torch.bfloat16)
        model.to_empty(device="cpu")
        for name, weight in model.named_parameters():
            weight.fill_(1) if name.endswith("norm.weight") else weight.normal_(std=0.02)
        model.save_pretrained(temporary)
        for file in run_config.model_dir.glob("*token*"):
            shutil.copy(file, temporary)


def markdown(result: dict) -> str:
    """The measurements as a table, with the machine they were taken on."""
    environment, part = result["environment"], result["part"]
    lines = [
        f"Phi-3-mini's geometry with random weights, one step of 16 rows a turn ({part['tokens']:,} tokens), medians of "
        f"{REPEATS} turns; {environment['cpu']}, {environment['threads']} of {environment['cores']} cores.",
        "",
        "| base | tokens/s | least to most | peak memory (GB) | ready after (s) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, rate in part["tokens_per_second"].items():
        slowest, fastest = part["tokens"] / max(part["seconds"][name]), part["tokens"] / min(part["seconds"][name])
        lines.append(
            f"| {name} | {rate:.1f} | {slowest:.1f} to {fastest:.1f} | {part['peak_rss_bytes'][name] / 1e9:.2f} | "
            f"{part['ready_seconds'][name]:.1f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    arguments = parser.parse_args()
    run_config = load_config(arguments.config, arguments.set)
    make_model(run_config)
    rows = (
        load_from_disk(config.PROCESSED / "train").select_columns(["input_ids", "labels"]).select(range(16)).to_list()
    )
    arguments.set = [*arguments.set, *SETTINGS]
    result = {"schema": 1, "environment": describe(run_config), "part": {}}
    parts = [measure({name: side}, rows, 1, arguments) for name, side in SIDES.items()]  # one at a time in memory
    for key in parts[0]:
        values = [part[key] for part in parts]
        result["part"][key] = (
            {k: v for value in values for k, v in value.items()} if isinstance(values[0], dict) else values[0]
        )
    OUTPUT.mkdir(parents=True, exist_ok=True)
    write_json(OUTPUT / "geometry.json", result)
    (OUTPUT / "geometry.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
