"""The tiny model with full attention or a sliding window, and in a run's model folder."""

from collections.abc import Callable

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM

from lorabundle.core.config import Config
from lorabundle.core.config_file import load_config


@pytest.fixture(params=[None, 5], ids=["full attention", "sliding window"])
def any_model(request, tiny_model):
    """The tiny model; and one that sees only the last five tokens, as Phi-3-mini sees the last 2,047."""
    if request.param is None:
        return tiny_model
    torch.manual_seed(1)
    settings = tiny_model.config.to_dict() | {"sliding_window": request.param}
    return Phi3ForCausalLM(Phi3Config(**settings)).eval()


@pytest.fixture
def saved_tiny(workspace, tiny_model) -> Callable[..., Config]:
    """A config over the tiny model, which is saved in its model folder; with further overrides."""
    tiny_model.save_pretrained("data/models/tiny")
    settings = ["model.name=tiny", "lora.r=4", "train.max_tokens=1024"]
    return lambda *overrides: load_config(workspace / "config/smoke.yaml", [*settings, *overrides])
