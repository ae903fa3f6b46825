"""Which test examples the report shows, and what it shows of them. Everything is read from the rows of `examples.jsonl`."""


def loss_change(example: dict) -> float:
    """Fine-tuned minus base loss of one example, in nats a token."""
    return (example["finetuned"]["nats"] - example["base"]["nats"]) / example["tokens"]


def pick(examples: list[dict], number: int) -> list[tuple[str, dict]]:
    """Pairs (reason, example), at most `number` for each reason."""
    by_change = sorted(examples, key=loss_change)
    gains = [example for example in by_change[:number] if loss_change(example) < 0]
    losses = [example for example in by_change[::-1][:number] if loss_change(example) > 0]
    picked = {"first": examples[:number], "largest gain": gains, "largest loss": losses}
    return [(reason, example) for reason, chosen in picked.items() for example in chosen]


def samples(examples: list[dict], number: int) -> list[dict]:
    """The rows of samples.jsonl, at most `number` for each reason."""
    return [
        {
            "picked": reason,
            **{key: example[key] for key in ("id", "kind", "prompt", "reference")},
            "loss_change": loss_change(example),
            "base": example["base"]["text"],
            "base_stopped": example["base"]["stopped"],
            "finetuned": example["finetuned"]["text"],
            "finetuned_stopped": example["finetuned"]["stopped"],
        }
        for reason, example in pick(examples, number)
    ]
