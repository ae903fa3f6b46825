"""The time estimate: its arithmetic, that layers and tokens are scaled, that the model is left as it was, and the advice."""

import itertools

import pytest
import torch
from datasets import Dataset

from lorabundle.compute import fused
from lorabundle.compute.load import attach_lora, load_base
from lorabundle.training import duration
from lorabundle.training.duration import Duration
from lorabundle.training.step import Pass
from tests.conftest import word_tokenizer

EXPECTED = Duration(
    start=10.0,
    step=4.0,
    num_steps=100,
    tokens_per_second=50.0,
    validation=20.0,
    num_validations=5,
    scoring=30.0,
    answers=60.0,
)


def row(length: int) -> dict:
    ids = [2 + place % 14 for place in range(length)]
    return {"input_ids": ids, "labels": [-100] * (length - 4) + ids[-4:]}


ROWS = Dataset.from_list([row(length) for length in (12, 20, 20, 28)])
SPLITS = {"train": ROWS, "val": ROWS, "test": ROWS}
PASSES = [Pass(30, [0, 1]), Pass(46, [2, 3])]


def test_stages_by_hand():
    """Training loads the model twice, because a new process checks the saved adapter; evaluation loads it once."""
    assert EXPECTED.training == 2 * 10 + 100 * 4 + 5 * 20
    assert EXPECTED.evaluation == 10 + 30 + 60
    assert str(EXPECTED) == "training 8.7 min (100 steps of 4 s), evaluation 100 s"


def test_corrected_by_the_measured_rate():
    """At half the rate everything takes twice as long, except loading, which has been measured."""
    corrected = EXPECTED.corrected(25.0)
    assert (corrected.training, corrected.evaluation) == (20 + 2 * 500, 10 + 2 * 90)
    assert corrected.corrected(25.0) == corrected


@pytest.mark.parametrize(
    ("seconds", "said"), [(1.4, "1 s"), (119, "119 s"), (120, "2.0 min"), (7199, "120.0 min"), (9000, "2.5 hours")]
)
def test_durations_as_they_are_said(seconds, said):
    assert duration.spoken(seconds) == said


@pytest.fixture
def model(saved_tiny):
    """The tiny model of two layers with a fused adapter."""
    model = attach_lora(load_base(saved_tiny()), saved_tiny())
    fused.fuse(model)
    return model


def clocked(monkeypatch, model, seconds_of_a_layer: float, more: float) -> None:
    """Each call of the model's decoder takes a fixed time, for each layer that it has."""
    now = itertools.count()
    base = model.get_base_model()
    clock = [0.0]
    monkeypatch.setattr(duration.time, "perf_counter", lambda: next(now) * 1e-9 + clock[0])

    def tick(module, arguments, output):
        clock[0] += more + seconds_of_a_layer * len(base.model.layers)

    base.model.register_forward_hook(tick)


def estimated(model, config, rows=SPLITS, first_step=0) -> Duration:
    return duration.estimate(model, word_tokenizer(), config, rows, PASSES, 0, first_step)


def test_time_of_layers_is_extrapolated(monkeypatch, model):
    """0.5 s and 0.05 s a layer: of 2 layers both are timed, of 20 one and three."""
    base = model.get_base_model()
    clocked(monkeypatch, model, seconds_of_a_layer=0.05, more=0.5)
    ids = torch.tensor([[3, 4]])

    def work():
        base.model(input_ids=ids)

    assert duration.of_all_layers(model, work) == pytest.approx(0.6, abs=1e-6)
    layers = base.model.layers
    base.model.layers = torch.nn.ModuleList([*layers] * 10)
    assert duration.of_all_layers(model, work) == pytest.approx(1.5, abs=1e-6)
    assert len(base.model.layers) == 20


def test_short_work_is_timed_with_more_layers(monkeypatch, model):
    """At 0.01 s a layer, 15 of 20 layers take the 0.15 s that a measurement should."""
    base, numbers = model.get_base_model(), []
    base.model.layers = torch.nn.ModuleList([*base.model.layers] * 10)
    clocked(monkeypatch, model, seconds_of_a_layer=0.01, more=0.0)

    def work():
        numbers.append(len(base.model.layers))
        base.model(input_ids=torch.tensor([[3, 4]]))

    assert duration.of_all_layers(model, work) == pytest.approx(0.2, abs=1e-6)
    assert sorted(set(numbers)) in ([1, 3, 15], [1, 3, 16])  # the clock's own steps may round up


def test_steps_and_tokens_are_counted(monkeypatch, model, saved_tiny):
    """Passes of 30 and 46 tokens make one step of four rows; one of 30 takes 2 s, so a step takes 76 / 30 of that."""
    clocked(monkeypatch, model, seconds_of_a_layer=1.0, more=0.0)
    settings = ["train.per_device_train_batch_size=4", "train.eval_steps=2", "train.num_train_epochs=5"]
    whole = estimated(model, saved_tiny(*settings, "train.max_steps=-1"))
    assert whole.step == pytest.approx(2 * 76 / 30, rel=1e-6)
    assert whole.tokens_per_second == pytest.approx(80 / whole.step)
    assert (whole.num_steps, whole.num_validations) == (5, 3)
    half = estimated(model, saved_tiny(*settings, "train.max_steps=-1", "train.num_train_epochs=1.5"))
    assert half.num_steps == 2
    resumed = estimated(model, saved_tiny(*settings, "train.max_steps=7"), first_step=4)
    assert (resumed.num_steps, resumed.num_validations) == (3, 2)


def test_answers_of_the_base_model_may_be_as_long_as_allowed(monkeypatch, model, saved_tiny):
    """Four answers at a time take 2 s a token: the base model's have 50, the fine-tuned one's 4 as the references, and prompts."""
    clocked(monkeypatch, model, seconds_of_a_layer=1.0, more=0.0)
    found = estimated(model, saved_tiny("evaluate.batch_size=4", "evaluate.max_new_tokens=50"))
    tokens = 2 * (50 + 4)
    assert tokens < found.answers < tokens + 25
    one_by_one = estimated(model, saved_tiny("evaluate.batch_size=1", "evaluate.max_new_tokens=50"))
    assert one_by_one.answers > 3.5 * tokens


def test_model_is_left_as_it_was(saved_tiny):
    """Its dropout draws from the generator."""
    config = saved_tiny("lora.lora_dropout=0.5", "evaluate.max_new_tokens=20")
    model = attach_lora(load_base(config), config)
    fused.fuse(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    found = estimated(model, config)
    assert min(found.step, found.validation, found.scoring, found.answers) > 0
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert len(model.get_base_model().model.layers) == 2
    mlp = model.get_base_model().model.layers[0].mlp
    assert "forward" in vars(mlp)


def rates(monkeypatch, int8: float) -> None:
    decision = {
        "gflops": {"float32": 100.0, "bfloat16": 10.0, "int8": int8},
        "dtype": "float32",
        "int8_kernel": "int_mm",
    }
    monkeypatch.setattr(duration.cpu_probe, "decision", lambda: decision)


def test_no_advice_below_an_hour(saved_tiny):
    assert duration.advice(saved_tiny(), EXPECTED, num_examples=1600) == []


def test_advice_from_an_hour_on(saved_tiny, monkeypatch):
    """3,200 s of steps and 600 s of answers."""
    long = Duration(**(vars(EXPECTED) | {"step": 32.0, "answers": 600.0}))
    settings = ["evaluate.max_new_tokens=96", "model.dtype=auto", "model.compute_dtype=auto"]
    rates(monkeypatch, int8=170.0)
    assert duration.advice(saved_tiny(*settings, "train.max_steps=-1"), long, num_examples=1600) == [
        "That is over an hour. These settings shorten it:",
        "  data.max_train_examples=800: 26.7 min less",
        "  evaluate.max_new_tokens=48: up to 5.0 min less; long answers are cut off",
        "  model.dtype=int8: its products are 1.7 times as fast here; it changes results a little",
    ]
    assert "  train.max_steps=50: 26.7 min less" in duration.advice(saved_tiny("train.max_steps=100"), long, 1600)
    rates(monkeypatch, int8=110.0)
    assert "int8" not in " ".join(duration.advice(saved_tiny(*settings), long, 1600))
