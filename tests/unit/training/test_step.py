"""The training step on a tiny model: its loss and gradients, compared with transformers' own for each row."""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lorabundle.compute import fused
from lorabundle.training import step

NO = -100
ROWS = [
    {"input_ids": [0, 5, 3, 7, 8, 1], "labels": [NO, NO, NO, NO, 8, 1]},
    {"input_ids": [0, 5, 3, 9, 6, 4, 2, 1], "labels": [NO, NO, NO, NO, 6, 4, 2, 1]},
    {"input_ids": [0, 5, 3, 2, 1], "labels": [NO, NO, NO, NO, 1]},
]
NUM_RESPONSE_TOKENS = 7


@pytest.fixture
def model(tiny_copy):
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["qkv_proj", "down_proj"], init_lora_weights=False)
    return get_peft_model(tiny_copy, lora).train()


def gradients(model) -> list[torch.Tensor]:
    """Of all trainable parameters, which are then reset."""
    found = [weight.grad for weight in model.parameters() if weight.requires_grad]
    model.zero_grad()
    return found


def plain_loss(model) -> torch.Tensor:
    """Nats of all response tokens / their number, row by row through transformers' own loss."""
    nats = 0.0
    for row in ROWS:
        labels = torch.tensor([row["labels"]])
        nats += model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss * (labels != NO).sum()
    return nats / NUM_RESPONSE_TOKENS


@pytest.mark.parametrize("shared_tokens", [0, 3])
@pytest.mark.parametrize("max_tokens", [1, 100], ids=["a pass a row", "one pass"])
def test_loss_and_gradients_are_those_of_plain_rows(model, shared_tokens, max_tokens):
    expected = plain_loss(model)
    expected.backward()
    expected_gradients = gradients(model)
    fused.fuse(model)
    loss = step.backward(model, ROWS, shared_tokens, max_tokens, NUM_RESPONSE_TOKENS)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, wanted in zip(gradients(model), expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * wanted.abs().max().item())


def test_parts_of_a_step_add_up(model):
    """Each part is divided by the response tokens of the step, so accumulation changes nothing."""
    together = step.backward(model, ROWS, 0, 100, NUM_RESPONSE_TOKENS)
    expected = gradients(model)
    parts = [step.backward(model, part, 0, 100, NUM_RESPONSE_TOKENS) for part in (ROWS[:1], ROWS[1:])]
    assert sum(parts).item() == pytest.approx(together.item(), rel=1e-6)
    for found, wanted in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6 * wanted.abs().max().item())


def test_unpadded_rows_are_the_rows_before_padding():
    """The mask decides, not the token: the first row ends with a real token 1, which is also the padding."""
    batch = {
        "input_ids": torch.tensor([[5, 6, 1, 1], [5, 6, 7, 1]]),
        "labels": torch.tensor([[NO, 6, 1, NO], [NO, NO, 7, 1]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
    }
    assert step.unpadded(batch) == [
        {"input_ids": [5, 6, 1], "labels": [NO, 6, 1]},
        {"input_ids": [5, 6, 7, 1], "labels": [NO, NO, 7, 1]},
    ]


@pytest.mark.parametrize("dropout", ["lora_dropout", "attention_dropout", "resid_pdrop", "embd_pdrop"])
def test_with_dropout_no_tokens_are_shared(dropout):
    rates = dict.fromkeys(("lora_dropout", "attention_dropout", "resid_pdrop", "embd_pdrop"), 0.0)

    def count(rates: dict[str, float]) -> int:
        return step.count_sharable_tokens(SimpleNamespace(**rates), rates["lora_dropout"], ROWS)

    assert count(rates) == 3
    assert count(rates | {dropout: 0.1}) == 0
