"""One side of the training benchmark, as its own process: TRL's `SFTTrainer` at its defaults, or this project's step.

Started by `bench_training`, which asks for each turn by a line with a seed on stdin. Each answer is a line of JSON: first, when
it is ready, {"ready_seconds", "dtype"}; then, for each turn over the rows with a new adapter, {"seconds", "losses",
"peak_rss_bytes", "val_loss"}.

Run as: python -m tests.bench.peer stock|ours float32|bfloat16|int8|nf4 ROWS VAL_ROWS --config config/default.yaml
"""

import argparse
import json
import os
import sys
import tempfile
import time

import psutil
from datasets import Dataset, load_from_disk
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, PrinterCallback, set_seed
from trl import SFTConfig, SFTTrainer

from lorabundle.compute import numerics
from lorabundle.compute.load import attach_lora, load_base
from lorabundle.compute.scoring import mean_loss, score_responses
from lorabundle.core import config
from lorabundle.core.config_file import add_arguments, load_config
from lorabundle.core.stage import peak_rss_bytes
from lorabundle.model.architecture import load_tokenizer
from lorabundle.model.prompts import IGNORE_INDEX
from lorabundle.training import step
from lorabundle.training.trainer import LoraTrainer

EFFECTIVE_BATCH = 16


class StockTrainer(SFTTrainer):
    """TRL's trainer, with rows in our order."""

    def _get_train_sampler(self, train_dataset=None):
        return LoraTrainer._get_train_sampler(self)


def trainer(side: str, run_config: config.Config, rows, folder: str) -> SFTTrainer:
    """A trainer over `rows` that logs each step."""
    common = {
        "learning_rate": run_config.train.learning_rate,
        "seed": run_config.seed,
        "max_length": None,
        "num_train_epochs": 1,
    }
    common |= {"logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    set_seed(run_config.seed)
    dtype = run_config.model.dtype
    if side == "stock":  # for bfloat16 it uses autocast over float32 weights
        run_config = run_config.model_copy(update={"model": run_config.model.model_copy(update={"dtype": "float32"})})
    model = attach_lora(load_base(run_config), run_config)
    given = {"model": model, "train_dataset": rows, "processing_class": load_tokenizer(run_config.model_dir)}
    if side == "stock":
        batch = SFTConfig(use_cpu=True).per_device_train_batch_size
        steps = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": EFFECTIVE_BATCH // batch}
        result = StockTrainer(args=SFTConfig(folder, bf16=dtype == "bfloat16", **steps, **common), **given)
    else:
        steps = {"per_device_train_batch_size": EFFECTIVE_BATCH, "bf16": False}
        steps |= {"gradient_checkpointing": run_config.train.gradient_checkpointing}
        result = LoraTrainer(
            args=SFTConfig(folder, **steps, **common),
            fingerprint="",
            val_rows=[],
            max_tokens=run_config.train.max_tokens,
            shared_tokens=step.count_sharable_tokens(model.get_base_model().config, run_config.lora.lora_dropout, rows),
            **given,
        )
    result.remove_callback(PrinterCallback)
    return result


def load_rows(split: str, number: int, vocabulary: int) -> list[dict]:
    """The first rows of a split, for a model of that vocabulary."""
    rows = load_from_disk(config.PROCESSED / split).select_columns(["input_ids", "labels"])
    return [folded(row, vocabulary) for row in rows.select(range(min(number, len(rows))))]


def restart(peer: SFTTrainer, seed: int) -> None:
    """A new adapter and order of the rows by the seed: the same on all sides."""
    peer.args.seed = seed
    peer.optimizer = peer.lr_scheduler = None
    set_seed(seed)
    for layer in peer.model.modules():
        if isinstance(layer, LoraLayer):
            layer.reset_lora_parameters(layer.active_adapters[0], init_lora_weights=True)


def folded(row: dict, vocabulary: int) -> dict:
    """The row with its ids modulo the vocabulary: another model's may be smaller than the one that the row was made for."""
    labels = [label if label == IGNORE_INDEX else label % vocabulary for label in row["labels"]]
    return {"input_ids": [token % vocabulary for token in row["input_ids"]], "labels": labels}


def main() -> None:
    """Answer on the real stdout; whatever else prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["stock", "ours"])
    parser.add_argument("dtype", choices=["float32", "bfloat16", "int8", "nf4"])
    parser.add_argument("rows", type=int)
    parser.add_argument("val_rows", type=int)
    add_arguments(parser)
    arguments = parser.parse_args()
    run_config = load_config(arguments.config, [*arguments.set, f"model.dtype={arguments.dtype}"])
    numerics.use_kernels()
    vocabulary = AutoConfig.from_pretrained(run_config.model_dir).vocab_size
    rows = Dataset.from_list(load_rows("train", arguments.rows, vocabulary))
    val_rows = load_rows("val", arguments.val_rows, vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        peer = trainer(arguments.side, run_config, rows, folder)
        ready = time.time() - psutil.Process().create_time()
        print(json.dumps({"ready_seconds": ready, "dtype": str(peer.model.dtype).removeprefix("torch.")}), file=answers)
        for line in sys.stdin:
            restart(peer, int(line))
            started = time.perf_counter()
            peer.train()
            answer = {"seconds": time.perf_counter() - started, "peak_rss_bytes": peak_rss_bytes()}
            answer["losses"] = [entry["loss"] for entry in peer.state.log_history if "loss" in entry]
            answer["val_loss"] = mean_loss(score_responses(peer.model.eval(), val_rows))
            print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
