"""Greedy answers to a fixed set of test prompts, base beside fine-tuned beside reference.

Reads `data/models/<name>/`, `data/processed/test/` and `outputs/<run>/adapter/`; writes `outputs/<run>/samples.jsonl`.
The prompts are the first of the test split, whose order is fixed by the ids' hashes: nobody has picked them.

Run as: python -m lorabundle.sample --config config/default.yaml
"""

import sys

from datasets import load_from_disk

from lorabundle import artifacts, config, modeling, prompts, scoring
from lorabundle.config import Config
from lorabundle.stage import Artifacts, run_stage

DATA_FIRST = "Run `make data` first."


def run(run_config: Config) -> Artifacts:
    """Generate with both models."""
    settings = run_config.sample
    artifacts.require(config.PROCESSED / "manifest.json", DATA_FIRST)
    rows = load_from_disk(config.PROCESSED / "test").to_list()[: settings.num_prompts]
    tokenizer = modeling.load_tokenizer(run_config.model_dir)
    prompt_ids = [prompts.encode_prompt(tokenizer, row["prompt"]) for row in rows]

    def answers(model) -> list[scoring.Generation]:
        return scoring.generate(model, tokenizer, prompt_ids, settings.max_new_tokens, len(prompt_ids))

    model = modeling.load_base(run_config)
    base = answers(model)
    finetuned = answers(modeling.load_adapter(model, run_config.adapter_dir))
    samples = [
        {
            "id": row["id"],
            "prompt": row["prompt"],
            "reference": row["completion"][0]["content"],
            "base": before.text,
            "base_stopped": before.stopped,
            "finetuned": after.text,
            "finetuned_stopped": after.stopped,
        }
        for row, before, after in zip(rows, base, finetuned, strict=True)
    ]
    artifacts.write_jsonl(run_config.run_dir / "samples.jsonl", samples)
    return Artifacts(
        inputs=[run_config.model_dir, run_config.adapter_dir, config.PROCESSED / "test"],
        outputs=[run_config.run_dir / "samples.jsonl"],
    )


if __name__ == "__main__":
    sys.exit(run_stage("sample", run))
