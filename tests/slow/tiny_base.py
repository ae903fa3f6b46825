"""Write a tiny Phi-3 that knows its words a little, and rows for it, because `make all` refuses a model with random weights.

Run as: python -m tests.slow.tiny_base FOLDER   (prints the overrides for a run with it)
"""

import json
import sys
from pathlib import Path

import torch

from tests.conftest import TINY, random_phi3, word_tokenizer, write_tiny

STEPS = 60
ROLES = {"user": "prompt", "assistant": "completion"}


def main(folder: Path) -> None:
    """Train all weights on the rows as conversations, and save."""
    model = random_phi3()
    write_tiny(folder, model)
    rows = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    tokenizer = word_tokenizer()
    turns = [[{"role": role, "content": row[key]} for role, key in ROLES.items()] for row in rows]
    texts = [tokenizer.apply_chat_template(conversation, tokenize=False) for conversation in turns]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(folder / "tiny")
    print(*TINY)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
