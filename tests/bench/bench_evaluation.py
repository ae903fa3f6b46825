"""Speed of our scoring and generation, compared with the stock ones, on a run's base model and the prompts of its test split.

- scoring: `score_responses` compared with `SFTTrainer.evaluate` at its defaults (batches of 8, with its own loss, entropy and
  accuracy) in the same dtype. If that is float32, also with its default bf16=True, which saves time by computing less exactly.
- generation: `generate` compared with transformers' greedy `generate`, one prompt at a time.

The sides get the same rows and take turns; their results are compared. Tokens a second are the rows' own, without padding.
Reads `data/models/<name>/` and `data/processed/test/`; writes `outputs/bench/evaluation.json` and `evaluation.md`.

Run as: make bench (QUICK=1 for fewer rows)
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median

import torch
from datasets import Dataset, load_from_disk
from transformers import GenerationConfig, PreTrainedModel, PrinterCallback
from trl import SFTConfig, SFTTrainer

from lorabundle.compute.generate import Generation, generate
from lorabundle.compute.load import load_base
from lorabundle.compute.scoring import Score, mean_loss, score_responses
from lorabundle.core import config
from lorabundle.core.config import Config
from lorabundle.core.config_file import add_arguments, load_config
from lorabundle.core.files import write_json
from lorabundle.model import prompts
from lorabundle.model.architecture import load_tokenizer
from lorabundle.training.environment import describe

OUTPUT = Path("outputs/bench")
REPEATS = 3
FULL = {"rows": 200, "prompts": 48, "max_new_tokens": 96}
QUICK = {"rows": 32, "prompts": 16, "max_new_tokens": 24}
WARM_UP = 2  # rows


def take_turns(runs: dict[str, Callable[[], object]]) -> tuple[dict[str, list[float]], dict[str, object]]:
    """Each side's seconds and its result. The machine's speed drifts slowly; taking turns, all sides meet it alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results = {}
    for repeat in range(REPEATS):
        for name, run in runs.items():
            started = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - started)
            print(f"[bench] {repeat + 1}/{REPEATS} {name}: {seconds[name][-1]:.1f} s", flush=True)
    return seconds, results


def compare(tokens: int, seconds: dict[str, list[float]]) -> dict:
    """Rates and speed-ups; ours is the last side. A speed-up is a ratio of times of one turn: median, least and most."""
    *stock, ours = seconds
    ratios = {n: [a / b for a, b in zip(seconds[n], seconds[ours], strict=True)] for n in stock}
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": {name: tokens / median(values) for name, values in seconds.items()},
        "speedup": {n: {"median": median(r), "min": min(r), "max": max(r)} for n, r in ratios.items()},
    }


def require_close(name: str, stock: float, ours: float, tolerance: float) -> None:
    """Stop unless both sides gave the same number: else they did not do the same work."""
    if not abs(stock - ours) <= tolerance:
        sys.exit(f"bench: error: {name}: the stock side gives {stock}, ours {ours}. Their speeds cannot be compared.")


def sft_trainer(run_config: Config, rows: Dataset, folder: str, bf16: bool) -> SFTTrainer:
    """TRL's trainer at its defaults, except for the device, the dtype and what it prints."""
    trainer = SFTTrainer(
        model=load_base(run_config),
        args=SFTConfig(output_dir=folder, use_cpu=True, bf16=bf16, report_to="none", disable_tqdm=True),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=load_tokenizer(run_config.model_dir),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def trainer_loss(scores: list[Score], batch_size: int) -> float:
    """Our scores averaged as the trainer does it: the mean over tokens in each batch, then the batches' mean by rows."""
    batches = [scores[first : first + batch_size] for first in range(0, len(scores), batch_size)]
    return mean(mean_loss(batch) for batch in batches for _ in batch)


def bench_scoring(run_config: Config, model: PreTrainedModel, rows: Dataset) -> dict:
    """`score_responses` compared with `SFTTrainer.evaluate`."""
    is_float32 = model.dtype is torch.float32
    examples = rows.to_list()
    with tempfile.TemporaryDirectory() as folder:
        same = sft_trainer(run_config, rows, folder, bf16=not is_float32)
        runs = {"SFTTrainer.evaluate": same.evaluate}
        if is_float32:
            runs["SFTTrainer.evaluate, bf16=True"] = sft_trainer(run_config, rows, folder, bf16=True).evaluate
        for run in runs.values():
            run(rows.select(range(WARM_UP)))
        runs["score_responses"] = lambda: score_responses(model, examples)
        seconds, results = take_turns(runs)
    loss = results["SFTTrainer.evaluate"]["eval_loss"]
    ours = trainer_loss(results["score_responses"], same.args.per_device_eval_batch_size)
    require_close("loss", loss, ours, 1e-4 if is_float32 else 2e-2)
    return {"examples": len(rows)} | compare(sum(len(row["input_ids"]) for row in examples), seconds)


def bench_generation(run_config: Config, model: PreTrainedModel, rows: Dataset, max_new_tokens: int) -> dict:
    """`generate` compared with transformers' `generate`, one prompt at a time."""
    tokenizer = load_tokenizer(run_config.model_dir)
    stop = prompts.end_of_turn_id(tokenizer)
    settings = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=stop, pad_token_id=stop)
    prompt_ids = [prompts.encode_prompt(tokenizer, row["prompt"]) for row in rows]

    def one_by_one(prompt_ids: list[list[int]]) -> list[list[int]]:
        outputs = []
        for prompt in prompt_ids:
            input_ids = torch.tensor([prompt])
            mask = torch.ones_like(input_ids)
            output = model.generate(input_ids=input_ids, attention_mask=mask, generation_config=settings)
            outputs.append(output[0, len(prompt) :].tolist())
        return outputs

    def ours(prompt_ids: list[list[int]]) -> list[Generation]:
        return generate(model, tokenizer, prompt_ids, max_new_tokens, run_config.evaluate.batch_size)

    for run in (one_by_one, ours):
        run(prompt_ids[:WARM_UP])
    seconds, results = take_turns({"one by one": lambda: one_by_one(prompt_ids), "generate": lambda: ours(prompt_ids)})
    texts = [tokenizer.decode(new_ids, skip_special_tokens=True).strip() for new_ids in results["one by one"]]
    different = sum(text != own.text for text, own in zip(texts, results["generate"], strict=True))
    if model.dtype is torch.float32:  # in bfloat16, rounding decides between tokens that are almost equally likely
        require_close("texts that differ", 0, different, 0)
    result = compare(sum(len(new_ids) for new_ids in results["one by one"]), seconds)
    return {"prompts": len(rows), "max_new_tokens": max_new_tokens, "texts_that_differ": different} | result


def markdown(result: dict) -> str:
    """The measurements as two tables, with the machine they were taken on."""
    environment, parts = result["environment"], []
    for name in ("scoring", "generation"):
        part = result[name]
        parts += [f"| {name} ({part['tokens']:,} tokens) | tokens/s | ours is faster by | least to most |"]
        parts += ["| --- | ---: | ---: | ---: |"]
        for side, rate in part["tokens_per_second"].items():
            ratio = part["speedup"].get(side)
            shown = f"{ratio['median']:.1f}x | {ratio['min']:.1f}x to {ratio['max']:.1f}x" if ratio else " | "
            parts.append(f"| {side} | {rate:.0f} | {shown} |")
        parts.append("")
    return "\n".join(
        [
            f"Base model of run {result['run']}, {environment['dtype']}; {environment['cpu']}, {environment['threads']} of "
            f"{environment['cores']} cores, engine {environment['engine']}. Medians of {REPEATS} turns.",
            "",
            *parts,
        ]
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--quick", action="store_true", help="fewer rows and shorter answers")
    arguments = parser.parse_args()
    run_config, size = load_config(arguments.config, arguments.set), QUICK if arguments.quick else FULL
    model = load_base(run_config)
    test = load_from_disk(config.PROCESSED / "test")
    rows = test.select(range(min(size["rows"], len(test))))
    prompt_rows = test.select(range(min(size["prompts"], len(test))))
    result = {
        "schema": 1,
        "run": run_config.run,
        "environment": describe(run_config),
        "scoring": bench_scoring(run_config, model, rows.select_columns(["input_ids", "labels"])),
        "generation": bench_generation(run_config, model, prompt_rows, size["max_new_tokens"]),
    }
    OUTPUT.mkdir(parents=True, exist_ok=True)
    write_json(OUTPUT / "evaluation.json", result)
    (OUTPUT / "evaluation.md").write_text(markdown(result), encoding="utf-8")
    print(markdown(result))


if __name__ == "__main__":
    main()
