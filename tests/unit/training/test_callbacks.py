"""The training log: its rows, the tokens a second on a clock that the test sets, and a run that diverges."""

import json
import logging
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from lorabundle.core.errors import DivergenceError
from lorabundle.training import callbacks
from lorabundle.training.duration import Duration

ARGUMENTS = SimpleNamespace(learning_rate=2e-3)
EXPECTED = Duration(
    start=5.0,
    step=2.0,
    num_steps=4,
    tokens_per_second=100.0,
    validation=43.0,
    num_validations=1,
    scoring=10.0,
    answers=30.0,
)


class Run:
    """A training of `max_steps` steps, whose steps take 2 seconds and have 100 tokens each."""

    def __init__(self, monkeypatch, path, max_steps: int, resumed_at: int = 0):
        self.now = 1000.0
        monkeypatch.setattr(callbacks.time, "monotonic", lambda: self.now)
        self.path = path
        self.state = TrainerState(max_steps=max_steps, global_step=resumed_at)
        if resumed_at:
            self.state.log_history.append({"step": resumed_at, "loss": 3.0, "tokens": 100 * resumed_at})
        self.callback = callbacks.TrainingLog(path, EXPECTED)
        self.callback.on_train_begin(ARGUMENTS, self.state, TrainerControl())

    def step(self) -> bool:
        """Take a step; whether the callback asks for a logged loss."""
        control = TrainerControl()
        self.now += 30  # validation and saving, which are not part of a step
        self.callback.on_step_begin(ARGUMENTS, self.state, control)
        self.now += 2
        self.state.global_step += 1
        self.callback.on_step_end(ARGUMENTS, self.state, control)
        return control.should_log

    def log(self, **values: float) -> None:
        entry = {"step": self.state.global_step, "tokens": 100 * self.state.global_step, "learning_rate": 1e-3}
        self.state.log_history.append(entry | values)
        self.callback.on_log(ARGUMENTS, self.state, TrainerControl(), values)

    def rows(self) -> list[dict]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def test_only_the_last_step_asks_for_a_loss(monkeypatch, tmp_path):
    """The steps between are those of `logging_steps`, which the trainer itself counts."""
    run = Run(monkeypatch, tmp_path / "log", max_steps=3)
    assert [run.step() for _ in range(3)] == [False, False, True]


def test_tokens_per_second_are_of_the_steps_since_the_last_loss(monkeypatch, tmp_path):
    """100 tokens in 2 seconds, however many steps a row is of; the 30 seconds between steps do not count."""
    run = Run(monkeypatch, tmp_path / "log", max_steps=4)
    for _ in range(3):
        run.step()
    run.log(loss=2.0)
    run.log(eval_loss=1.5)
    run.step()
    run.log(loss=1.0)
    assert [row.get("tokens_per_second") for row in run.rows()] == [50.0, None, 50.0]
    assert [row["step"] for row in run.rows()] == [3, 3, 4]


def test_resumed_run_counts_its_own_tokens(monkeypatch, tmp_path):
    run = Run(monkeypatch, tmp_path / "log", max_steps=7, resumed_at=5)
    run.step()
    assert run.step()
    run.log(loss=2.0)
    assert run.rows()[-1]["tokens_per_second"] == 50.0
    assert [row["step"] for row in run.rows()] == [5, 7]


def test_progress_without_a_terminal(monkeypatch, tmp_path, caplog):
    """Two of four steps took 64 seconds with what was between them, so two more take 1.1 minutes.

    At 50 tokens a second instead of 100, the expected time doubles, once.
    """
    run = Run(monkeypatch, tmp_path / "log", max_steps=4)
    run.step()
    run.step()
    with caplog.at_level(logging.INFO, logger="lorabundle.train"):
        run.log(loss=2.0)
        run.log(eval_loss=1.5)
    assert [record.getMessage() for record in caplog.records] == [
        "step 2/4  loss 2.0000  learning rate 1.00e-03  50 tokens/s  1.1 min left",
        "estimated time, corrected: training 112 s (4 steps of 4 s), evaluation 85 s",
        "step 2/4  validation loss 1.5000",
    ]
    caplog.clear()
    run.step()
    run.log(loss=1.0)
    assert not any("corrected" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("name", ["loss", "grad_norm", "eval_loss"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_divergence_names_the_step_and_the_setting(monkeypatch, tmp_path, name, value):
    run = Run(monkeypatch, tmp_path / "log", max_steps=4)
    run.step()
    with pytest.raises(
        DivergenceError, match=rf"{name} is {value} at step 1.*Lower train\.learning_rate \(now 0\.002\)"
    ):
        run.log(**{name: value})
    assert not run.path.exists()


def test_rows_keep_losses_and_leave_the_rest():
    history = [
        {"step": 1, "loss": 2.0, "tokens": 10, "mean_token_accuracy": 0.5},
        {"step": 1, "eval_loss": 1.5, "tokens": 10},
        {"step": 1, "train_runtime": 3.0},
    ]
    assert callbacks.log_rows(history) == [{"step": 1, "loss": 2.0, "tokens": 10}, {"step": 1, "eval_loss": 1.5}]
