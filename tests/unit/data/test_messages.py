"""Conversations as people write them, as lists of messages."""

import json

import pytest

from lorabundle.data.messages import content_message, parse_history, parse_messages
from lorabundle.data.notes import Notes
from lorabundle.data.quarantine import RowProblem

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize(
    "value",
    [
        CHAT,
        json.dumps(CHAT),
        [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
        [{"role": "Human", "content": "Q"}, {"role": "ASSISTANT", "content": "A"}],
        [{"role": "user", "text": "Q"}, {"role": "model", "text": "A"}],
        [{"human": "Q", "assistant": "A"}],
        [{"user": "Q", "bot": "A"}],
        [{"input": "Q", "output": "A"}],
        ["Q", "A"],
        [["Q", "A"]],
        [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, {"role": "assistant", "content": ["A"]}],
        [turn | {"weight": 1, "train": True, "training": None} for turn in CHAT],
    ],
)
def test_forms_of_one_conversation(value):
    assert parse_messages(value, "m", Notes()) == CHAT


def test_a_system_message_of_a_pair_and_a_developer_come_first():
    value = [{"system": "S", "human": "Q", "assistant": "A"}]
    assert parse_messages(value, "m", Notes()) == [{"role": "system", "content": "S"}, *CHAT]
    assert parse_messages([{"role": "developer", "content": "S"}, *CHAT], "m", Notes())[0]["role"] == "system"


@pytest.mark.parametrize(
    "flag", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}, {"loss": False}]
)
def test_flags_of_turns_that_are_not_learnt(flag):
    notes = Notes()
    messages = parse_messages([CHAT[0], CHAT[1] | flag], "m", notes)
    assert messages == [CHAT[0], CHAT[1] | {"train": False}]
    assert notes.listed() == [{"note": "assistant turn not learnt, as its flag says", "rows": 1}]


def test_a_flag_of_the_users_turn_changes_nothing():
    assert parse_messages([CHAT[0] | {"train": False}, CHAT[1]], "m", Notes()) == CHAT


def test_texts_without_roles_are_counted():
    notes = Notes()
    parse_messages(["Q", "A", "Q2", "A2"], "m", notes)
    assert notes.listed() == [
        {"note": "conversation without roles: its texts taken as user and assistant in turn", "rows": 1}
    ]


def test_keys_that_are_not_used_are_counted():
    notes = Notes()
    parse_messages([turn | {"id": 3, "empty": None} for turn in CHAT], "m", notes)
    assert notes.listed() == [{"note": "message key id not used", "rows": 2}]


def test_parts_are_joined_by_line_breaks():
    value = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, CHAT[1]]
    assert parse_messages(value, "m", Notes())[0]["content"] == "a\nb"


@pytest.mark.parametrize(
    "turn",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"from": "function_call", "value": '{"name": "f", "arguments": "{}"}'},
    ],
)
def test_calls_of_tools_in_older_and_newer_forms(turn):
    (message,) = parse_messages([turn], "m", Notes())
    assert (message["role"], message["content"]) == ("assistant", "")
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}


@pytest.mark.parametrize("role", ["tool", "function", "observation"])
def test_what_tools_answer(role):
    message = {"role": role, "content": "ok", "tool_call_id": "1"}
    assert parse_messages([message], "m", Notes()) == [{"role": "tool", "content": "ok", "tool_call_id": "1"}]


@pytest.mark.parametrize(
    ("value", "column", "cause", "reason"),
    [
        ("text", "m", "wrong_type", "must be a list of messages, but is a str"),
        ("[{", "m", "not_json", "starts like JSON"),
        (None, "m", "null", "is null"),
        ([], "m", "null", "empty"),
        ([3, 4], "m[0]", "wrong_type", "is a int"),
        (["Q", "A", " "], "m[2]", "empty", "is empty"),
        ([["Q", "A"], ["Q"]], "m[1]", "wrong_type", "must be a pair of texts"),
        ([{"role": "robot", "content": "A"}], "m[0].role", "roles", "is 'robot', but must be one of system"),
        ([{"role": ["user"], "content": "Q"}], "m[0].role", "roles", "is ['user']"),
        ([{"content": "Q"}], "m[0].role", "missing", "the message has the keys content"),
        ([{"role": "user"}], "m[0].content", "missing", "is missing"),
        ([{"role": "user", "content": None}], "m[0].content", "null", "is null"),
        ([{"role": "user", "content": "Q \ud800"}], "m[0].content", "surrogate", "U+D800"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "m[0].content",
            "not_text",
            "type image_url",
        ),
        ([CHAT[1] | {"weight": 0.5}], "m[0].weight", "wrong_type", "is 0.5"),
    ],
)
def test_bad_messages_are_named(value, column, cause, reason):
    with pytest.raises(RowProblem) as caught:
        parse_messages(value, "m", Notes())
    assert (caught.value.column, caught.value.cause) == (column, cause)
    assert reason in caught.value.reason


@pytest.mark.parametrize("value", [[["Q", "A"]], [("Q", "A")], '[["Q", "A"]]', CHAT])
def test_history(value):
    assert parse_history(value, "history", Notes()) == CHAT


def test_bad_history():
    with pytest.raises(RowProblem, match=r"history\[0\] must be a pair"):
        parse_history([["Q"]], "history", Notes())
    with pytest.raises(RowProblem, match="must be a list of pairs"):
        parse_history("text", "history", Notes())


@pytest.mark.parametrize(
    ("text", "kept", "cut"),
    [
        ("Yes.<|endoftext|>", "Yes.", ["<|endoftext|>"]),
        (" Yes. </s>\n", " Yes.", ["</s>"]),
        ("a<|im_end|> <|endoftext|>", "a", ["<|endoftext|>", "<|im_end|>"]),
        ("<s>struck</s>", "<s>struck</s>", []),
        ("the token <|endoftext|> ends", "the token <|endoftext|> ends", []),
    ],
)
def test_another_models_end_token_is_cut_off_and_counted(text, kept, cut):
    notes = Notes()
    assert content_message("assistant", text, "c", notes)["content"] == kept
    assert [note["note"] for note in notes.listed()] == [
        f"end token {token} cut off at the end of a completion" for token in cut
    ]


def test_nothing_but_an_end_token_is_empty():
    with pytest.raises(RowProblem, match="is empty"):
        content_message("assistant", "<|endoftext|>", "c", Notes())
