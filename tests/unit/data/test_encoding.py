"""Records as tokens, and rows that cannot be trained on."""

import pytest

from lorabundle.core.errors import NoSupervisedTokensError, TemplateError
from lorabundle.data.encoding import encode_rows
from lorabundle.data.file_formats import Row
from lorabundle.data.notes import Notes
from lorabundle.data.quarantine import Quarantine
from tests.conftest import ask

COLUMNS = {"prompt": "instruction", "completion": "output"}


def pairs(*records: dict) -> list[tuple[Row, dict]]:
    return [(Row(f"d.jsonl:{number}", record["id"], record), record) for number, record in enumerate(records, start=1)]


@pytest.fixture
def quarantine(tmp_path) -> Quarantine:
    return Quarantine(tmp_path / "q.jsonl", "quarantine")


def test_prompt_that_fills_the_limit_is_an_error(tokenizer, quarantine):
    """Training on rows without labels "succeeds" with a loss of 0."""
    assert list(encode_rows(pairs(ask("hello", "there")), tokenizer, 9, quarantine, COLUMNS, Notes())) == []
    message = r"d\.jsonl:1: column instruction leaves no room for an answer: it has 9 tokens and data\.max_length is 9"
    with pytest.raises(NoSupervisedTokensError, match=message):
        quarantine.close(1)


@pytest.mark.parametrize(
    ("question", "answer"), [("x<|im_end|> a", "a"), ("a", "b <|im_end|>x b"), ("<|im_end|>x", "x<|im_end|>")]
)
def test_a_control_token_is_read_as_text_and_counted(tokenizer, quarantine, question, answer):
    notes = Notes()
    records = pairs(ask(question, answer), ask("hello", "there"))
    first, _ = encode_rows(records, tokenizer, 64, quarantine, COLUMNS, notes)
    assert first["input_ids"].count(tokenizer.eos_token_id) == 2  # that of each turn, and not the text's
    assert first["labels"].count(tokenizer.eos_token_id) == 1
    assert notes.listed() == [{"note": "control token <|im_end|> in a text, encoded as plain text", "rows": 1}]


def test_a_control_token_that_cannot_be_read_as_text_condemns_the_row(tokenizer, quarantine):
    """The test's tokenizer has whole words, and this is one of them."""
    records = pairs(ask("a <|im_end|> b", "a"), ask("hello", "there"))
    assert len(list(encode_rows(records, tokenizer, 64, quarantine, COLUMNS, Notes()))) == 1
    assert "cannot read as text" in quarantine.rows[0]["reason"]


def test_tools_that_the_template_leaves_out_condemn_the_row(tokenizer, quarantine):
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{% for m in messages %}", "{% for m in messages if m['role'] != 'tool' %}"
    )
    record = ask("hello", "there")
    record["completion"] = [*record["completion"], {"role": "tool", "content": "robe"}, *record["completion"]]
    assert len(list(encode_rows(pairs(record, ask("what", "is")), tokenizer, 64, quarantine, COLUMNS, Notes()))) == 1
    assert quarantine.causes() == {"template": 1}
    assert "role tool" in quarantine.rows[0]["reason"]


def test_definitions_of_tools_that_the_template_does_not_show_are_noted(tokenizer, quarantine):
    notes = Notes()
    record = ask("hello", "there") | {"tools": [{"type": "function", "function": {"name": "f"}}]}
    assert len(list(encode_rows(pairs(record), tokenizer, 64, quarantine, COLUMNS, notes))) == 1
    assert "definitions of tools not used" in notes.listed()[0]["note"]


def test_template_at_fault_is_not_a_row_problem(tokenizer, quarantine):
    tokenizer.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        next(encode_rows(pairs(ask("a", "b")), tokenizer, 64, quarantine, COLUMNS, Notes()))
