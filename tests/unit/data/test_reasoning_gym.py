"""Tasks from the real wheel: records, and the library's own verifiers."""

import pytest

from lorabundle.core import locks
from lorabundle.core.errors import ConfigError
from lorabundle.data import reasoning_gym
from tests.conftest import ROOT

TASKS = {"word_sequence_reversal": {"size": 5, "seed": 1}, "simple_equations": {"size": 3, "seed": 1}}


@pytest.fixture(autouse=True)
def wheels(monkeypatch):
    """The wheels that `make test` has fetched, from any working directory."""
    lock, folder = ROOT / "docker/assets.lock", ROOT / "data/raw/wheels"
    monkeypatch.setattr(reasoning_gym, "locked_wheels", lambda names: locks.locked_wheels(names, lock, folder))


def test_records():
    records = reasoning_gym.build_records(TASKS)
    assert [record["id"] for record in records] == [f"word_sequence_reversal:{n}" for n in range(5)] + [
        f"simple_equations:{n}" for n in range(3)
    ]
    assert len({record["group"] for record in records}) == 8
    question, answer = records[0]["prompt"][0]["content"], records[0]["completion"][0]["content"]
    words = question.rpartition("Reverse this list of words: ")[2].split(", ")
    assert answer == ", ".join(words[::-1])
    assert records[0]["kind"] == "word_sequence_reversal"


def test_questions_with_one_sentence_for_an_answer_stay_together():
    """The generator shuffles some sentences more than once; apart, a test answer would have been seen in training."""
    records = reasoning_gym.build_records({"sentence_reordering": {"size": 300, "seed": 1}})
    answers = {record["completion"][0]["content"] for record in records}
    assert len(answers) < len(records)
    sentences = [record for record in records if len(record["completion"][0]["content"].split()) > 2]
    groups = {(record["group"], record["completion"][0]["content"]) for record in sentences}
    assert len({group for group, _ in groups}) == len({answer for _, answer in groups}) == len(groups)


def test_same_seed_same_questions_and_other_seed_others():
    other = {"word_sequence_reversal": {"size": 5, "seed": 2}}
    first = {"word_sequence_reversal": TASKS["word_sequence_reversal"]}
    assert (
        reasoning_gym.build_records(first) == reasoning_gym.build_records(first) != reasoning_gym.build_records(other)
    )


def test_right_answers_get_full_marks_and_wrong_ones_do_not():
    records = reasoning_gym.build_records(TASKS)
    ids = [record["id"] for record in records]
    answers = [record["completion"][0]["content"] for record in records]
    assert reasoning_gym.verify(ids, answers, TASKS) == [1.0] * 8
    assert max(reasoning_gym.verify(ids, ["x"] * 8, TASKS)) < 1.0
    assert max(reasoning_gym.verify(ids, [""] * 8, TASKS)) < 1.0
    others = answers[1:5] + answers[:1] + answers[6:] + answers[5:6]  # right answers to other questions of the task
    assert max(reasoning_gym.verify(ids, others, TASKS)) < 1.0


def test_part_of_an_answer_gets_part_of_the_marks():
    (record,) = reasoning_gym.build_records({"simple_equations": {"size": 1, "seed": 1}})
    answer = record["completion"][0]["content"]
    (mark,) = reasoning_gym.verify([record["id"]], [f"It is {answer}"], TASKS)
    assert 0.0 < mark < 1.0


def test_unknown_task():
    with pytest.raises(ConfigError, match=r"has no task word_reversal\. Its tasks: .*simple_equations"):
        reasoning_gym.build_records({"word_reversal": {"size": 1, "seed": 1}})


def test_refused_setting():
    with pytest.raises(ConfigError, match=r"data\.tasks\.simple_equations: .* refuses the settings .*max_word"):
        reasoning_gym.build_records({"simple_equations": {"size": 1, "seed": 1, "max_word": 3}})
