"""Speed and memory of our training step beside TRL's `SFTTrainer` at its defaults, on a run's base model and training rows.

Each side is a process of its own, so that its peak memory is its own, and works only when it is its turn. In each turn all
train an adapter of the same seed on the same rows in the same order, 16 a step; the float32 sides must come to the same losses.
With "AVX2" in its name, a side is kept from newer instructions by the libraries' own settings. Tokens a second are the rows'
own, without padding; the validation loss, after the turn's steps, is the mean over the turns' seeds.
Reads `data/models/<name>/` and `data/processed/{train,val}/`; writes `outputs/bench/training.json` and `training.md`.

Run as: make bench (QUICK=1 for one step a turn)
"""

import argparse
import json
import os
import subprocess
import sys
from statistics import mean, median

import torch
from datasets import load_from_disk
from transformers import AutoConfig, AutoModelForCausalLM

from lorabundle.compute import cpu_probe, packing
from lorabundle.core import config
from lorabundle.core.config_file import load_config
from lorabundle.core.files import write_json
from lorabundle.model.prompts import IGNORE_INDEX
from lorabundle.training.environment import describe
from tests.bench.bench_evaluation import OUTPUT, REPEATS, compare

FULL = {"steps": 8, "val_rows": 64}
QUICK = {"steps": 1, "val_rows": 8}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
SIDES = {  # name -> (peer's arguments, environment); `compare` compares the last of each group with the others
    "best": {
        "SFTTrainer, float32": (["stock", "float32"], {}),
        "SFTTrainer, bf16=True": (["stock", "bfloat16"], {}),
        "ours, float32": (["ours", "float32"], {}),
        "ours": (["ours", "auto"], {}),
    },
    "AVX2": {
        "SFTTrainer, float32, AVX2": (["stock", "float32"], AVX2),
        "ours, float32, AVX2": (["ours", "float32"], AVX2),
    },
    "portable": {
        "ours, float32": (["ours", "float32"], {}),
        "ours, float32, portable": (["ours", "float32", "numerics=portable"], {"NUMERICS": "portable"}),
    },
}
SAME_LOSS = 1e-3  # nats, over all steps: float32 adds up in another order in each


class Peer:
    """A side's process, up to its being ready."""

    def __init__(self, side: list[str], sizes: tuple[int, int], environment: dict, arguments: argparse.Namespace):
        kind, dtype, *settings = side
        command = [sys.executable, "-W", "ignore", "-m", "tests.bench.peer", kind, dtype, *map(str, sizes)]
        command += ["--config", str(arguments.config), "--set", *arguments.set, *settings]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen(command, env=os.environ | environment, **pipes)
        self.ready = self._answer()
        self.turns: list[dict] = []

    def turn(self, seed: int) -> None:
        """Let it train once over the rows, from the start."""
        self.process.stdin.write(f"{seed}\n")
        self.turns.append(self._answer())

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"bench: error: {' '.join(self.process.args)} ended early; its messages are above.")
        return json.loads(line)


def measure(sides: dict[str, tuple], rows: list[dict], val_rows: int, arguments: argparse.Namespace) -> dict:
    """Start the sides one after the other, then let them take turns, each turn with another seed."""
    peers = {}
    for name, (side, environment) in sides.items():
        peers[name] = Peer(side, (len(rows), val_rows), environment, arguments)
        print(f"[bench] {name}: ready after {peers[name].ready['ready_seconds']:.1f} s", flush=True)
    for repeat in range(REPEATS):
        for name, peer in peers.items():
            peer.turn(seed=repeat)
            print(f"[bench] {repeat + 1}/{REPEATS} {name}: {peer.turns[-1]['seconds']:.1f} s", flush=True)
    for peer in peers.values():
        peer.close()
    tokens = sum(len(row["input_ids"]) for row in rows)
    result = compare(tokens, {name: [turn["seconds"] for turn in peer.turns] for name, peer in peers.items()})
    result["peak_rss_bytes"] = {name: peer.turns[-1]["peak_rss_bytes"] for name, peer in peers.items()}
    result["ready_seconds"] = {name: peer.ready["ready_seconds"] for name, peer in peers.items()}
    result["dtype"] = {name: peer.ready["dtype"] for name, peer in peers.items()}
    result["val_losses"] = {name: [turn["val_loss"] for turn in peer.turns] for name, peer in peers.items()}
    result["losses"] = {name: [loss for turn in peer.turns for loss in turn["losses"]] for name, peer in peers.items()}
    return result


def require_same_losses(losses: dict[str, list[float]]) -> float:
    """Largest difference between the float32 sides' losses; stop if they did not do the same work."""
    sides = [values for name, values in losses.items() if "float32" in name]
    difference = max(max(step) - min(step) for step in zip(*sides, strict=True))
    if not difference <= SAME_LOSS:
        sys.exit(
            f"bench: error: the float32 sides' losses differ by {difference:.2g}: their speeds cannot be compared."
        )
    return difference


def flops(run_config: config.Config, rows: list[dict]) -> dict[str, float]:
    """Operations of one turn: 4 for each parameter and token (forward 2, backward 2; the weights are frozen).

    The head counts at response tokens alone. "rows" takes each row's tokens; "computed" the tokens that go through our
    step, where a start common to all rows goes through once in each forward pass.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(run_config.model_dir))
    linears = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    layers, head = sum(m.weight.numel() for m in linears), model.lm_head.weight.numel()
    shared, per_step = packing.shared_start(rows), [rows[i : i + 16] for i in range(0, len(rows), 16)]
    passes = sum(
        len(packing.batches([len(row["input_ids"]) for row in step], shared, run_config.train.max_tokens))
        for step in per_step
    )
    tokens = sum(len(row["input_ids"]) - 1 for row in rows)
    responses = sum(label != IGNORE_INDEX for row in rows for label in row["labels"])
    computed = tokens - shared * (len(rows) - passes)
    return {
        "rows": 4.0 * (layers * tokens + head * responses),
        "computed": 4.0 * (layers * computed + head * responses),
    }


def markdown(result: dict) -> str:
    """The measurements as tables, with what they were taken on."""
    environment, lines = result["environment"], []
    lines += [
        f"Base model of run {result['run']}, {result['steps']} steps of 16 rows a turn, medians of {REPEATS} turns; "
        f"{environment['cpu']}, {environment['threads']} of {environment['cores']} cores, engine {environment['engine']}.",
        "",
    ]
    for name, part in result["parts"].items():
        lines += [
            "| side | tokens/s | the last is faster by | least to most | peak memory (GB) | ready after (s) | validation loss |"
        ]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
        for side, rate in part["tokens_per_second"].items():
            ratio = part["speedup"].get(side)
            shown = f"{ratio['median']:.1f}x | {ratio['min']:.1f}x to {ratio['max']:.1f}x" if ratio else " | "
            label = f"{side}, {part['dtype'][side]}" if side == "ours" else side
            lines.append(
                f"| {label} | {rate:.0f} | {shown} | {part['peak_rss_bytes'][side] / 1e9:.2f} | "
                f"{part['ready_seconds'][side]:.1f} | {mean(part['val_losses'][side]):.4f} |"
            )
        lines += ["", f"Largest difference of the float32 losses ({name}): {part['loss_difference']:.1e} nats.", ""]
    shares = ", ".join(f"{share:.0%} counting the tokens {kind}" for kind, share in result["utilisation"].items())
    lines += [
        f"Share of this CPU's measured {result['rate_dtype']} rate ({result['gflops']:.0f} GFLOP/s) that our step uses: {shares}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config.add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="one step a turn, and no side that is kept to AVX2")
    arguments = parser.parse_args()
    run_config = load_config(arguments.config, arguments.set)
    split = load_from_disk(config.PROCESSED / "train").select_columns(["input_ids", "labels"])
    size = QUICK if arguments.quick else FULL
    steps = min(size["steps"], len(split) // 16)
    rows = split.select(range(16 * steps)).to_list()
    measured = cpu_probe.measure()  # now, and not from an earlier mood of the machine
    groups = {name: sides for name, sides in SIDES.items() if name == "best" or not arguments.quick}
    parts = {name: measure(sides, rows, size["val_rows"], arguments) for name, sides in groups.items()}
    for part in parts.values():
        part["loss_difference"] = require_same_losses(part["losses"])
    best = parts["best"]
    work, seconds = flops(run_config, rows), median(best["seconds"]["ours"])
    gflops = measured["gflops"]["bfloat16"]
    result = {
        "schema": 1,
        "run": run_config.run,
        "steps": steps,
        "environment": describe(run_config),
        "parts": parts,
        "flops": work,
        "rate_dtype": "bfloat16",
        "gflops": gflops,
        "utilisation": {kind: operations / seconds / gflops / 1e9 for kind, operations in work.items()},
    }
    OUTPUT.mkdir(parents=True, exist_ok=True)
    write_json(OUTPUT / "training.json", result)
    (OUTPUT / "training.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
