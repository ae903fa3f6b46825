"""The adapter's model card: a function of settings, manifest and loss, and YAML that can be read back."""

import yaml

from lorabundle.core.config import TRAINING_SECTIONS
from lorabundle.training.model_card import model_card
from tests.fake_run import manifest


def test_card_says_what_the_adapter_is(smoke):
    card = model_card(smoke, manifest(), val_loss=1.23456)
    assert "# LoRA adapter of run smoke\n" in card
    assert "(rank 4) for `smollm2-135m-phi3`, trained on 4 examples\n(40 response tokens) from data/mine.jsonl." in card
    assert "Validation loss at the end: 1.2346 nats a token." in card
    assert 'PeftModel.from_pretrained(base, "outputs/smoke/adapter")' in card


def test_front_matter_and_settings_can_be_read_back(smoke):
    card = model_card(smoke, manifest(), val_loss=1.0)
    _, front, rest = card.split("---\n", 2)
    assert yaml.safe_load(front) == {"base_model": smoke.model.name, "library_name": "peft", "tags": ["lora", "phi3"]}
    settings = rest.split("```yaml\n")[1].removesuffix("```\n")
    assert yaml.safe_load(settings) == smoke.model_dump(include=TRAINING_SECTIONS)


def test_card_follows_from_its_inputs(smoke):
    """So that `verify` can rebuild it; data and evaluation settings are not in it."""
    card = model_card(smoke, manifest(), 1.0)
    assert card == model_card(smoke, manifest(), 1.0)
    same = smoke.model_copy(update={"sample": smoke.sample.model_copy(update={"num_prompts": 5})})
    assert card == model_card(same, manifest(), 1.0)
    assert card != model_card(smoke.model_copy(update={"seed": 7}), manifest(), 1.0)
