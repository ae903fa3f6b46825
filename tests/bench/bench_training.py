"""Speed and memory of our training step, compared with TRL's `SFTTrainer` at its defaults, on a run's base model and rows.

Each side is its own process, so that its peak memory is its own, and works only when it is its turn. In each turn all train an
adapter of the same seed on the same rows in the same order, 16 a step; the float32 sides must give the same losses. A side with
"AVX2" in its name uses no newer instructions, by the libraries' own settings. Tokens a second are the rows' own, without
padding; the validation loss, after the turn's steps, is the mean over the turns' seeds.
Reads `data/models/<name>/` and `data/processed/{train,val}/`; writes `outputs/bench/training.json` and `training.md`.

Run as: make bench (QUICK=1 for one step a turn)
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from statistics import mean, median

import torch
from datasets import load_from_disk
from transformers import AutoConfig, AutoModelForCausalLM

from lorabundle.compute import cpu_probe, packing
from lorabundle.core import config
from lorabundle.core.config_file import add_arguments, load_config
from lorabundle.core.files import write_json
from lorabundle.model.prompts import IGNORE_INDEX
from lorabundle.training.environment import describe
from tests.bench.bench_evaluation import OUTPUT, REPEATS, compare

FULL = {"steps": 8, "val_rows": 64}
QUICK = {"steps": 1, "val_rows": 8}
SAME_LOSS = 1e-3  # nats, over all steps: the float32 sides add up in different orders
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}


@dataclass(frozen=True)
class Side:
    """One way to train: TRL's ("stock") or "ours", in a dtype, with further settings and environment variables."""

    kind: str
    dtype: str
    settings: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


def sides(probed_dtype: str) -> dict[str, dict[str, Side]]:
    """The groups of sides. `compare` compares the last of each group with the others.

    The last of "best" is ours in the dtype that the probe chose. If that is float32, "ours, float32" is both, listed once.
    """
    portable = Side("ours", "float32", ["numerics=portable"], {"NUMERICS": "portable"})
    return {
        "best": {
            "SFTTrainer, float32": Side("stock", "float32"),
            "SFTTrainer, bf16=True": Side("stock", "bfloat16"),
            "ours, float32": Side("ours", "float32"),
            f"ours, {probed_dtype}": Side("ours", probed_dtype),
        },
        "AVX2": {
            "SFTTrainer, float32, AVX2": Side("stock", "float32", environment=AVX2),
            "ours, float32, AVX2": Side("ours", "float32", environment=AVX2),
        },
        "portable": {"ours, float32": Side("ours", "float32"), "ours, float32, portable": portable},
    }


def quick_sides(best: dict[str, Side], rates: dict[str, float]) -> dict[str, Side]:
    """The sides of a quick run: without a stock one that takes minutes, where the CPU multiplies bfloat16 a quarter as fast or less.

    (On an EPYC Zen 3 its step took 239 s, and the one in float32 12 s.)
    """
    if rates["bfloat16"] > rates["float32"] / 4:
        return best
    print("[bench] SFTTrainer, bf16=True is left out: bfloat16 products take over four times as long here", flush=True)
    return {name: side for name, side in best.items() if (side.kind, side.dtype) != ("stock", "bfloat16")}


class Peer:
    """A side's process. The constructor waits until it is ready."""

    def __init__(self, side: Side, num_rows: int, num_val_rows: int, arguments: argparse.Namespace):
        command = [sys.executable, "-W", "ignore", "-m", "tests.bench.peer", side.kind, side.dtype]
        command += [str(num_rows), str(num_val_rows)]
        command += ["--config", str(arguments.config), "--set", *arguments.set, *side.settings]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        self.process = subprocess.Popen(command, env=os.environ | side.environment, **pipes)
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


def measure(group: dict[str, Side], rows: list[dict], num_val_rows: int, arguments: argparse.Namespace) -> dict:
    """Start the sides of a group one after the other, then let them take turns, each turn with another seed."""
    peers = {}
    for name, side in group.items():
        peers[name] = Peer(side, len(rows), num_val_rows, arguments)
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
    float32_losses = [values for name, values in losses.items() if "float32" in name]
    difference = max(max(step) - min(step) for step in zip(*float32_losses, strict=True))
    if not difference <= SAME_LOSS:
        sys.exit(
            f"bench: error: the float32 sides' losses differ by {difference:.2g}: their speeds cannot be compared."
        )
    return difference


def flops(run_config: config.Config, rows: list[dict]) -> dict[str, float]:
    """Operations of one turn: 4 for each parameter and token (forward 2, backward 2; the weights are frozen).

    The head counts only at response tokens. "rows" counts each row's tokens; "computed" counts the tokens that go through our
    step, where the start that all rows share goes through once in each forward pass.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(run_config.model_dir))
    linears = [m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    layers, head = sum(m.weight.numel() for m in linears), model.lm_head.weight.numel()
    shared_tokens, steps = packing.count_shared_tokens(rows), [rows[i : i + 16] for i in range(0, len(rows), 16)]
    num_passes = sum(
        len(packing.batches([len(row["input_ids"]) for row in step], shared_tokens, run_config.train.max_tokens))
        for step in steps
    )
    num_tokens = sum(len(row["input_ids"]) - 1 for row in rows)
    num_response_tokens = sum(label != IGNORE_INDEX for row in rows for label in row["labels"])
    num_computed = num_tokens - shared_tokens * (len(rows) - num_passes)
    return {
        "rows": 4.0 * (layers * num_tokens + head * num_response_tokens),
        "computed": 4.0 * (layers * num_computed + head * num_response_tokens),
    }


def share_of_rate(part: dict, operations: dict[str, float], rates: dict[str, float]) -> dict:
    """How much of this CPU's measured rate the last side of a part uses.

    Args:
        part: as `measure` gives it.
        operations: of one turn, as `flops` gives them.
        rates: GFLOP/s of matrix products by dtype, as `cpu_probe.measure` gives them.

    Returns {"rate_dtype": that the side computed in, "gflops": the rate of that dtype, "utilisation": {kind: share}}.
    """
    ours = list(part["seconds"])[-1]
    dtype, seconds = part["dtype"][ours], median(part["seconds"][ours])
    gflops = rates[dtype]
    shares = {kind: number / seconds / gflops / 1e9 for kind, number in operations.items()}
    return {"rate_dtype": dtype, "gflops": gflops, "utilisation": shares}


def markdown(result: dict) -> str:
    """The measurements as tables, with the machine they were taken on."""
    environment, lines = result["environment"], []
    lines += [
        f"Base model of run {result['run']}, {result['steps']} steps of 16 rows a turn, medians of {REPEATS} turns; "
        f"{environment['cpu']}, {environment['threads']} of {environment['cores']} cores, engine {environment['engine']}.",
        "",
    ]
    for name, part in result["parts"].items():
        headings = ("side", "tokens/s", "the last is faster by", "least to most")
        headings += ("peak memory (GB)", "ready after (s)", "validation loss")
        lines += [f"| {' | '.join(headings)} |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
        for side, rate in part["tokens_per_second"].items():
            ratio = part["speedup"].get(side)
            shown = f"{ratio['median']:.1f}x | {ratio['min']:.1f}x to {ratio['max']:.1f}x" if ratio else " | "
            lines.append(
                f"| {side} | {rate:.0f} | {shown} | {part['peak_rss_bytes'][side] / 1e9:.2f} | "
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
    add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="one step a turn, and only the first group of sides")
    arguments = parser.parse_args()
    run_config = load_config(arguments.config, arguments.set)
    split = load_from_disk(config.PROCESSED / "train").select_columns(["input_ids", "labels"])
    size = QUICK if arguments.quick else FULL
    steps = min(size["steps"], len(split) // 16)
    rows = split.select(range(16 * steps)).to_list()
    rates = cpu_probe.measure()["gflops"]  # now: the machine's speed drifts, and the file may be old
    groups = sides(cpu_probe.decision()["dtype"])
    if arguments.quick:
        groups = {"best": quick_sides(groups["best"], rates)}
    parts = {name: measure(group, rows, size["val_rows"], arguments) for name, group in groups.items()}
    for part in parts.values():
        part["loss_difference"] = require_same_losses(part["losses"])
    operations = flops(run_config, rows)
    result = {
        "schema": 1,
        "run": run_config.run,
        "steps": steps,
        "environment": describe(run_config),
        "parts": parts,
        "flops": operations,
    } | share_of_rate(parts["best"], operations, rates)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    write_json(OUTPUT / "training.json", result)
    (OUTPUT / "training.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
