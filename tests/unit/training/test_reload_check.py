"""A saved adapter in a new process: the trained model's logits, and what is said when they differ or it does not load."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorabundle.compute.load import attach_lora, load_base
from lorabundle.core.errors import AdapterError
from lorabundle.training import reload_check
from lorabundle.training.reload_check import plain_logits, reload_in_new_process
from tests.conftest import ROOT

INPUT_IDS = torch.tensor([[0, 5, 3, 7]])


@pytest.fixture
def trained(saved_tiny, monkeypatch):
    """The config, and a model whose adapter is not zero and is saved in its folder."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    config = saved_tiny()
    torch.manual_seed(0)
    model = attach_lora(load_base(config), config).eval()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(config.adapter_dir)
    return config, model


def files(config) -> set[str]:
    return {file.name for file in config.run_dir.iterdir()}


def test_plain_logits_are_those_of_the_model(trained):
    _, model = trained
    with torch.no_grad():
        assert torch.equal(plain_logits(model, INPUT_IDS), model(input_ids=INPUT_IDS).logits)


def test_new_process_gives_the_same_logits_or_an_error(trained):
    config, model = trained
    logits = plain_logits(model, INPUT_IDS)
    assert reload_in_new_process(config, config.adapter_dir, INPUT_IDS, logits) == 0.0
    with pytest.raises(AdapterError, match=r"other logits in a new process: they differ by up to 0\.01"):
        reload_in_new_process(config, config.adapter_dir, INPUT_IDS, logits + 0.01)
    assert files(config) == {"adapter"}


def test_adapter_that_does_not_load(trained):
    config, model = trained
    path = config.adapter_dir / "adapter_model.safetensors"
    weights = load_file(path)
    weights.popitem()
    save_file(weights, path)
    with pytest.raises(AdapterError, match=r"does not load in a new process \(exit code 1\): .* missing"):
        reload_in_new_process(config, config.adapter_dir, INPUT_IDS, plain_logits(model, INPUT_IDS))


@pytest.mark.parametrize(
    ("stderr", "reason"), [("Traceback\nMemoryError: no\n", r"MemoryError: no$"), ("", "out of memory\\?$")]
)
def test_the_last_line_of_a_failed_process_is_the_reason(smoke, monkeypatch, stderr, reason):
    finished = reload_check.subprocess.CompletedProcess([], returncode=-9, stdout="", stderr=stderr)
    monkeypatch.setattr(reload_check.subprocess, "run", lambda *_, **__: finished)
    with pytest.raises(AdapterError, match=rf"\(exit code -9\): .*{reason}"):
        reload_in_new_process(smoke, smoke.adapter_dir, INPUT_IDS, torch.zeros(1, 4, 16))
