"""Rows of examples.jsonl whose aggregates can be computed in the head."""


def answer(nats: float, correct: int, text: str = "a", **scores) -> dict:
    defaults = {"rouge1": 0.5, "rouge2": 0.0, "rougeL": 0.5, "chrf": 10.0, "exact_match": False, "repetition_rate": 0.0}
    return {"nats": nats, "correct": correct, "text": text, "stopped": True} | defaults | scores


def example(kind: str, tokens: int, base: dict, finetuned: dict, group: str = "") -> dict:
    row = {"id": f"{kind}{tokens}", "group": group or f"{kind}{tokens}", "kind": kind, "reference": "a b"}
    return row | {"tokens": tokens, "base": base, "finetuned": finetuned}


EXAMPLES = [
    example("x", 1, answer(9.0, 0), answer(1.0, 1, "a b", exact_match=True, rougeL=1.0)),
    example("x", 9, answer(1.0, 9, stopped=False), answer(2.0, 8)),
    example("y", 10, answer(10.0, 1), answer(7.0, 3)),
]


def marked(tokens: int, mark: float) -> dict:
    """An example whose base answer gets 0.05 and whose fine-tuned answer gets `mark`; the most frequent answer is right."""
    row = example("x", tokens, answer(1.0, 0, score=0.05), answer(1.0, 0, score=mark))
    return row | {"majority": {"text": "a", "score": 1.0}}


WITH_VERIFIER = [marked(1, 1.0), marked(2, 0.9)]
