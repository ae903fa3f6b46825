"""What columns mean: the table of shapes, what `data.columns` changes, and the messages when nothing fits."""

from typing import Any

import pytest

from lorabundle.core.errors import ColumnError
from lorabundle.data.file_formats import Row
from lorabundle.data.shapes import Detection, detect, suggestion
from tests.unit.data.test_splits import settings

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def found(*rows: dict[str, Any], **changes) -> Detection:
    return detect([Row(f"d:{n}", f"d:{n}", row) for n, row in enumerate(rows)], settings(**changes))


def fields(*rows: dict[str, Any], **changes) -> dict[str, str]:
    return found(*rows, **changes).columns


@pytest.mark.parametrize(
    ("row", "shape", "columns"),
    [
        ({"messages": CHAT}, "messages", {"messages": "messages"}),
        ({"Messages": '[{"role": "user"}]'}, "messages", {"messages": "Messages"}),
        ({"conversations": CHAT, "system": "S"}, "sharegpt", {"messages": "conversations", "system": "system"}),
        ({"conversation": CHAT}, "conversation", {"messages": "conversation"}),
        ({"instruction": "Q", "output": "A"}, "alpaca", {"prompt": "instruction", "completion": "output"}),
        (
            {"Instruction": "Q", "INPUT": "C", "Output": "A", "history": [["q", "a"]], "system": "S"},
            "alpaca",
            {
                "prompt": "Instruction",
                "context": "INPUT",
                "completion": "Output",
                "history": "history",
                "system": "system",
            },
        ),
        (
            {"instruction": "Q", "context": "C", "response": "A", "category": "qa"},
            "dolly",
            {"prompt": "instruction", "context": "context", "completion": "response"},
        ),
        ({"prompt": "Q", "completion": "A"}, "prompt/completion", {"prompt": "prompt", "completion": "completion"}),
        ({"prompt": "Q", "response": "A"}, "prompt/response", {"prompt": "prompt", "completion": "response"}),
        (
            {"question": "Q", "context": "C", "answer": "A"},
            "question/answer",
            {"prompt": "question", "context": "context", "completion": "answer"},
        ),
        (
            {"question": "Q", "answer": "7", "solution": "S"},
            "question/solution",
            {"prompt": "question", "completion": "solution"},
        ),
        ({"problem": "Q", "solution": "S"}, "question/solution", {"prompt": "problem", "completion": "solution"}),
        (
            {"id": 1, "system_prompt": "S", "question": "Q", "response": "A"},
            "pair",
            {"prompt": "question", "completion": "response", "system": "system_prompt", "id": "id"},
        ),
        ({"query": "Q", "response": "A"}, "pair", {"prompt": "query", "completion": "response"}),
        ({"input": "Q", "output": "A"}, "pair", {"prompt": "input", "completion": "output"}),
        ({"prompt": "Q", "answer": "A"}, "pair", {"prompt": "prompt", "completion": "answer"}),
    ],
)
def test_shapes(row, shape, columns):
    detection = found(row)
    assert (detection.shape, detection.columns) == (shape, columns)


def test_a_column_of_texts_is_no_conversation():
    assert fields({"conversation": "small talk", "question": "Q", "answer": "A"})["prompt"] == "question"


def test_columns_that_are_not_used_are_counted():
    rows = [
        {"prompt": "Q", "completion": "A", "url": "u", "empty": None},
        {"prompt": "Q", "completion": "A", "score": 1.5},
    ]
    assert found(*rows).unused == {"url": 1, "score": 1}


def test_how_many_rows_fit():
    detection = found({"prompt": "Q", "completion": "A"}, {"prompt": "Q"}, {"prompt": "Q", "completion": "A"})
    assert (detection.fitting, detection.rows) == (2, 3)


# --- what the config says -----------------------------------------------------------------------------------------------


def test_named_columns_keep_what_the_shape_has_besides():
    row = {"instruction": "Q", "input": "C", "output": "A", "system": "S", "history": [["q", "a"]]}
    named = {"prompt": "instruction", "completion": "output"}
    assert fields(row, columns=named) == named | {"context": "input", "system": "system", "history": "history"}
    assert fields(row, columns=named | {"context": None, "system": None, "history": None}) == named


def test_named_columns_of_no_shape_keep_only_well_known_others():
    row = {"q": "Q", "a": "A", "input": "?", "context": "C", "kind": "k"}
    named = {"prompt": "q", "completion": "a"}
    assert fields(row, columns=named) == named | {"context": "context", "kind": "kind"}


def test_null_switches_off_what_is_detected():
    assert "context" not in fields({"question": "Q", "context": "C", "answer": "A"}, columns={"context": None})
    assert "group" not in fields({"question": "Q", "answer": "A", "group": "g"}, columns={"group": None})


def test_names_may_differ_in_case_and_separators():
    assert fields(
        {"My Question": "Q", "my_answer": "A"}, columns={"prompt": "my_question", "completion": "My-Answer"}
    ) == {
        "prompt": "My Question",
        "completion": "my_answer",
    }


def test_named_labels_go_with_a_detected_shape():
    detection = found({"question": "Q", "answer": "A", "topic": "t"}, columns={"group": "topic"})
    assert (detection.shape, detection.columns["group"]) == ("question/answer", "topic")


def test_named_column_that_is_not_there():
    with pytest.raises(
        ColumnError, match=r"data\.columns names my_colum, but x\.jsonl has the columns my_column, other"
    ):
        found({"my_column": "Q", "other": "A"}, columns={"prompt": "my_colum", "completion": "other"})


# --- labels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "is_split"),
    [(["train", "test"], True), (["Train", "dev"], True), (["a", "b"], False), ([2020, 2021], False)],
)
def test_a_split_column_is_one_that_names_splits(values, is_split):
    rows = [{"prompt": "Q", "completion": "A", "split": value} for value in values]
    detection = found(*rows)
    assert ("split" in detection.columns) == is_split
    assert ("split" in detection.unused) != is_split


@pytest.mark.parametrize(("values", "is_flag"), [([True, False], True), ([0, 1], False), (["good", "bad"], False)])
def test_a_label_column_is_a_flag_only_if_it_holds_booleans(values, is_flag):
    assert ("label" in fields(*({"prompt": "Q", "completion": "A", "label": value} for value in values))) == is_flag


def test_a_flag_goes_with_messages_too():
    assert fields({"messages": CHAT, "label": True}, {"messages": CHAT, "label": False})["label"] == "label"


def test_a_group_column_with_one_value_is_refused_by_name():
    rows = [{"prompt": f"Q{n}", "completion": "A", "Group": "all"} for n in range(3)]
    with pytest.raises(ColumnError, match=r'column Group has the same value.*SET="data\.columns\.group=null"'):
        found(*rows)
    assert "group" in fields(rows[0] | {"Group": "other"}, *rows)
    with pytest.raises(ColumnError, match="column topic has the same value"):
        found(*(row | {"topic": "t"} for row in rows), columns={"group": "topic"})


# --- what fits nothing --------------------------------------------------------------------------------------------------


def rows_of(**columns: str) -> list[dict]:
    return [{name: f"{text} {n}" for name, text in columns.items()} for n in range(3)]


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (rows_of(Frage="Q", Antwort="A"), 'SET="data.columns.prompt=Frage data.columns.completion=Antwort"'),
        (rows_of(pregunta="Q", respuesta="A"), "data.columns.prompt=pregunta data.columns.completion=respuesta"),
        (rows_of(问题="Q", 回答="A"), "data.columns.prompt=问题 data.columns.completion=回答"),
        (rows_of(left="Q", right="A"), "data.columns.prompt=left data.columns.completion=right"),
        (
            rows_of(task_id="H", prompt="Q", canonical_solution="A"),
            "data.columns.prompt=prompt data.columns.completion=canonical_solution",
        ),
        (rows_of(id="1", document="D", summary="A"), "data.columns.prompt=document data.columns.completion=summary"),
        (rows_of(article="Q", my_summary="A"), "data.columns.prompt=article data.columns.completion=my_summary"),
        (
            rows_of(user_question="Q", kontext="C", bot_answer="A", system_persona="S"),
            "data.columns.prompt=user_question data.columns.completion=bot_answer data.columns.context=kontext "
            "data.columns.system=system_persona",
        ),
        ([{"id": "1", "data": ["What is it?", "It is this."]}], 'SET="data.columns.messages=data"'),
        ([{"thread": CHAT, "tags": ["a"], "title": "T"}], 'SET="data.columns.messages=thread"'),
        (rows_of(**{"The question": "Q", "Yes/No": "A"}), '`columns: {prompt: "The question", completion: "Yes/No"}`'),
    ],
)
def test_the_message_has_the_line_for_these_columns(rows, line):
    with pytest.raises(ColumnError) as caught:
        found(*rows)
    assert line in str(caught.value)


@pytest.mark.parametrize("name", ["no", "12", "null", "a b", "a=b"])
def test_names_that_are_no_plain_text_in_yaml_go_into_a_config(name):
    assert suggestion({"prompt": name}).startswith("in a config, below data: `columns: {prompt: ")


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, "data.columns.prompt=prompt data.columns.completion=chosen"),
        (
            {"question": "Q", "chosen": CHAT[1:], "rejected": CHAT[1:]},
            "data.columns.prompt=question data.columns.completion=chosen",
        ),
        ({"prompt": "Q", "chosen": CHAT, "rejected": CHAT}, "data.columns.messages=chosen"),
        (
            {"conversations": CHAT[:1], "chosen": CHAT[1], "rejected": CHAT[1]},
            "data.columns.prompt=conversations data.columns.completion=chosen",
        ),
        ({"chosen": "Human: Q Assistant: A", "rejected": "Human: Q Assistant: B"}, "cannot be told apart"),
    ],
)
def test_preference_pairs(row, line):
    with pytest.raises(ColumnError, match="preference pairs") as caught:
        found(row)
    assert line in str(caught.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "### Human: Q ### Assistant: A"}, "nothing says which part of that text is the response"),
        ({"message_id": "1", "parent_id": None, "text": "Q", "role": "prompter"}, "trees of messages"),
        ({"prompt": {"text": "Q", "replies": []}}, "trees of messages"),
        (
            {"title": "T", "paragraphs": [{"context": "C", "qas": []}]},
            r"lies further inside \(paragraphs has the keys context, qas\)\. Rows must have both at the top",
        ),
        ({"translation": {"en": "Q", "de": "A"}}, r"inside \(translation has the keys en, de\)"),
        ({"a": 1, "b": 2}, r"a \(number\), b \(number\), and none of them can be a response"),
    ],
)
def test_rows_without_a_response(row, says):
    with pytest.raises(ColumnError, match=says):
        found(row, row)


def test_a_file_without_rows():
    with pytest.raises(ColumnError, match=r"x\.jsonl has no rows\. Add rows"):
        found()
    with pytest.raises(ColumnError, match=r"x\.jsonl has no rows, only the names of columns: a, b"):
        detect([], settings(), ["a", "b"])
