"""The answers that the report shows: base beside fine-tuned beside reference, picked from those that evaluation generated.

Reads `outputs/<run>/examples.jsonl`; writes `outputs/<run>/samples.jsonl`. Three picks: the first test examples, whose order is
fixed by the ids' hashes, so that nobody has chosen them; those whose loss fell most; and those whose loss rose most.

Run as: python -m lorabundle.sample --config config/default.yaml
"""

import sys

from lorabundle import artifacts
from lorabundle.config import Config
from lorabundle.stage import Artifacts, run_stage


def loss_change(example: dict) -> float:
    """Fine-tuned minus base loss of one example, in nats a token."""
    return (example["finetuned"]["nats"] - example["base"]["nats"]) / example["tokens"]


def pick(examples: list[dict], number: int) -> list[tuple[str, dict]]:
    """(why, example), at most `number` for each reason."""
    by_change = sorted(examples, key=loss_change)
    gains = [example for example in by_change[:number] if loss_change(example) < 0]
    losses = [example for example in by_change[::-1][:number] if loss_change(example) > 0]
    reasons = {"first": examples[:number], "largest gain": gains, "largest loss": losses}
    return [(why, example) for why, picked in reasons.items() for example in picked]


def run(run_config: Config) -> Artifacts:
    """Pick the samples."""
    source = run_config.run_dir / "examples.jsonl"
    samples = [
        {
            "picked": why,
            **{key: example[key] for key in ("id", "kind", "prompt", "reference")},
            "loss_change": loss_change(example),
            "base": example["base"]["text"],
            "base_stopped": example["base"]["stopped"],
            "finetuned": example["finetuned"]["text"],
            "finetuned_stopped": example["finetuned"]["stopped"],
        }
        for why, example in pick(artifacts.read_jsonl(source, "Run `make eval` first."), run_config.sample.num_prompts)
    ]
    artifacts.write_jsonl(run_config.run_dir / "samples.jsonl", samples)
    return Artifacts(inputs=[source], outputs=[run_config.run_dir / "samples.jsonl"])


if __name__ == "__main__":
    sys.exit(run_stage("sample", run))
