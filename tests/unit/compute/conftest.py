"""The tiny model with full attention or a sliding window."""

import pytest
import torch
from transformers import Phi3Config, Phi3ForCausalLM


@pytest.fixture(params=[None, 5], ids=["full attention", "sliding window"])
def any_model(request, tiny_model):
    """The tiny model; and one that sees only the last five tokens, as Phi-3-mini sees the last 2,047."""
    if request.param is None:
        return tiny_model
    torch.manual_seed(1)
    settings = tiny_model.config.to_dict() | {"sliding_window": request.param}
    return Phi3ForCausalLM(Phi3Config(**settings)).eval()
