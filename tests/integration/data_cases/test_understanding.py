"""What columns, messages, flags and values mean, whatever they are called."""

import json

import pytest
from transformers import AutoTokenizer

from lorabundle.core.errors import ColumnError, RowError
from lorabundle.model.prompts import IGNORE_INDEX
from tests.conftest import ROOT
from tests.integration.data_cases.conftest import EXPECTED, MODEL, answer, chat, jsonl, pairs, question, table, texts

# --- Names of columns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns", ["{prompt: instruction, completion: output}", "{prompt: Instruction, completion: OUTPUT}", "{}"]
)
def test_naming_prompt_and_completion_keeps_context_and_system(case, columns):
    rows = [
        {"instruction": "Translate to French.", "input": question(n), "output": answer(n), "system": "Be brief."}
        for n in range(40)
    ]
    learnt = case.learns(jsonl(rows), "mine.jsonl", f"data.columns={columns}")
    assert texts(learnt) == {(f"Translate to French.\n\n{question(n)}", answer(n)) for n in range(40)}
    assert all(row["prompt"][0] == {"role": "system", "content": "Be brief."} for row in learnt)


def test_null_switches_a_detected_column_off(case):
    rows = [{"instruction": question(n), "input": "x", "output": answer(n), "system": "Be brief."} for n in range(40)]
    columns = "data.columns={prompt: instruction, completion: output, context: null, system: null}"
    learnt = case.learns(jsonl(rows), "mine.jsonl", columns)
    assert texts(learnt) == EXPECTED
    assert all(len(row["prompt"]) == 1 for row in learnt)


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("Question", "Answer"),
        ("query", "response"),
        ("input", "output"),
        ("INPUT", "Output"),
        ("instruction", "response"),
        ("question", "solution"),
        ("problem", "solution"),
        ("prompt", "answer"),
        ("Prompt", "Output"),
        ("instruction", "output"),
    ],
)
def test_common_names_are_detected(case, prompt, completion):
    assert texts(case.learns(table(pairs(prompt, completion)), "mine.csv")) == EXPECTED


def test_openorca_and_dolly(case):
    orca = [
        {"id": str(n), "system_prompt": "Be brief.", "question": question(n), "response": answer(n)} for n in range(40)
    ]
    learnt = case.learns(jsonl(orca))
    assert texts(learnt) == EXPECTED
    assert learnt[0]["prompt"][0]["content"] == "Be brief."
    dolly = [
        {"instruction": question(n), "context": f"File {n}.", "response": answer(n), "category": "open_qa"}
        for n in range(40)
    ]
    assert texts(case.learns(jsonl(dolly))) == {(f"{question(n)}\n\nFile {n}.", answer(n)) for n in range(40)}


def test_columns_that_fit_nothing_get_a_line_that_works(case):
    rows = pairs("Frage", "Antwort")
    message = case.refused(table(rows, ";"), "mine.csv", error=ColumnError)
    line = 'SET="data.columns.prompt=Frage data.columns.completion=Antwort"'
    assert line in message
    assert texts(case.learns(table(rows, ";"), "mine.csv", *line[5:-1].split())) == EXPECTED


def test_text_only_has_no_response_to_learn(case):
    message = case.refused(jsonl([{"text": f"### Human: {question(n)}### Assistant: {answer(n)}"} for n in range(40)]))
    assert "text" in message
    assert "response" in message
    assert "has no row with columns" not in message


def test_alpaca_history_becomes_earlier_turns(case, decode):
    rows = [
        {"instruction": "And how many?", "input": "", "output": answer(n), "history": [[question(n), "A few."]]}
        for n in range(40)
    ]
    learnt = case.learns(json.dumps(rows, indent=1), "mine.json")
    assert len(learnt) == 40
    contents = [message["content"] for message in learnt[0]["prompt"] + learnt[0]["completion"]]
    assert contents[1:3] == ["A few.", "And how many?"]
    assert "A few." in decode(learnt[0])


# --- Control tokens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["Run: sed -n {n}p <filename>", "<s>word {n}</s>", "Write <|im_end|> after turn {n}.", "a<|im_start|>b {n}"]
)
def test_control_tokens_in_a_text_are_text(case, decode, text):
    rows = [{"prompt": question(n), "completion": text.format(n=n)} for n in range(40)]
    manifest = case.preprocess(case.write("mine.jsonl", jsonl(rows)))
    tokenizer = AutoTokenizer.from_pretrained(ROOT / MODEL)
    learnt = case.rows()
    assert len(learnt) == 40
    for row in learnt:
        labels = [label for label in row["labels"] if label != IGNORE_INDEX]
        assert [label for label in labels if label in tokenizer.all_special_ids] == [tokenizer.eos_token_id]
        assert tokenizer.decode(labels[:-1]) == row["completion"][0]["content"]
    if "<s>" not in text:  # which is no token of this tokenizer
        assert any("control token" in note["note"] and note["rows"] == 40 for note in manifest["notes"])


@pytest.mark.parametrize("end", ["<|endoftext|>", "</s>", "<|eot_id|>", "<|end|>\n", "<|im_end|>"])
def test_another_models_end_token_is_cut(case, decode, end):
    rows = [{"prompt": f"{question(n)}\n\n###\n\n", "completion": f" {answer(n)}{end}"} for n in range(40)]
    manifest = case.preprocess(case.write("mine.jsonl", jsonl(rows)))
    assert {row["completion"][0]["content"].strip() for row in case.rows()} == {answer(n) for n in range(40)}
    assert any(end.strip() in note["note"] and note["rows"] == 40 for note in manifest["notes"])


# --- Tools, parts, preferences ----------------------------------------------------------------------------------------


def test_text_parts_are_joined_and_other_parts_are_named(case):
    def parts(n: int, *more: dict) -> dict:
        return {
            "messages": [
                {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}, *more]}
                for turn in chat(n)
            ]
        }

    assert texts(case.learns(jsonl([parts(n) for n in range(40)]))) == EXPECTED
    image = {"type": "image_url", "image_url": {"url": "x"}}
    assert "image_url" in case.refused(jsonl([parts(n, image) for n in range(40)]), error=RowError)


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_preference_pairs_get_the_line_that_trains_on_chosen(case, kind):
    rows = [
        {"prompt": question(n), "chosen": answer(n), "rejected": "No."}
        if kind == "text"
        else {"prompt": question(n), "chosen": chat(n), "rejected": chat(n + 1)}
        for n in range(40)
    ]
    message = case.refused(jsonl(rows), error=ColumnError)
    line = message.partition('SET="')[2].partition('"')[0]
    assert "chosen" in line, message
    assert texts(case.learns(jsonl(rows), "mine.jsonl", *line.split())) == EXPECTED


def test_tool_turns_that_the_template_cannot_render_are_named_by_role(case):
    call = {"id": "c1", "type": "function", "function": {"name": "open_door", "arguments": "{}"}}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Open door {n}"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c1", "content": "ok"},
                {"role": "assistant", "content": f"Door {n} is open."},
            ]
        }
        for n in range(30)
    ]
    message = case.refused(jsonl(rows), error=RowError)
    assert "tool" in message
    assert "30 of 30" in message


# --- Texts and values -------------------------------------------------------------------------------------------------


def test_the_first_indent_of_code_stays(case, decode):
    rows = [
        {"prompt": f"def add_{n}(x):\n    '''Add {n}.'''\n", "completion": f"    y = x + {n}\n    return y\n"}
        for n in range(40)
    ]
    learnt = case.learns(jsonl(rows))
    assert {decode(row) for row in learnt} == {f"    y = x + {n}\n    return y<|im_end|>" for n in range(40)}


@pytest.mark.parametrize("character", ["\f", "\x92", "\x00", "\x1b"])
def test_control_characters_are_named_or_left_out(case, character):
    rows = pairs()
    for n in (3, 20):
        rows[n]["completion"] = f"Page{character}break {n}"
    message = case.refused(jsonl(rows), error=RowError)
    assert f"U+{ord(character):04X}" in message
    assert "mine.jsonl:4" in message
    assert len(case.learns(jsonl(rows), "mine.jsonl", "data.on_error=quarantine")) == 38


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"weight": 0.0}])
@pytest.mark.parametrize(
    "names", [("role", "content", "messages", "user", "assistant"), ("from", "value", "conversations", "human", "gpt")]
)
def test_turns_that_must_not_be_learnt_are_not(case, decode, flag, names):
    role, content, column, user, assistant = names
    rows = [
        {
            column: [
                {role: user, content: f"Add {n} and 1"},
                {role: assistant, content: "Hmm, wrong", **flag},
                {role: user, content: "Check again."},
                {
                    role: assistant,
                    content: f"It is {n + 1}.",
                    **({"weight": 1} if "weight" in flag else {"train": True}),
                },
            ]
        }
        for n in range(40)
    ]
    learnt = case.learns(jsonl(rows))
    assert {decode(row) for row in learnt} == {f"It is {n + 1}.<|im_end|>" for n in range(40)}


def test_rows_that_kto_marks_as_bad_are_left_out_and_counted(case):
    rows = [row | {"label": n % 4 != 0} for n, row in enumerate(pairs(count=80))]
    manifest = case.preprocess(case.write("mine.jsonl", jsonl(rows)))
    assert texts(case.rows()) == {(question(n), answer(n)) for n in range(80) if n % 4}
    assert 20 in manifest["dropped"].values()


def test_numbers_and_booleans_are_text_and_null_is_missing(case):
    rows = [{"question": f"{n} squared, the long way round?", "answer": n * n, "context": None} for n in range(30)]
    rows += [{"question": f"Is {n} above {n * 2}, all told?", "answer": n % 2 == 0} for n in range(30)]
    learnt = case.learns(json.dumps(rows), "numbers.json")
    answers = {row["completion"][0]["content"] for row in learnt}
    assert len(learnt) == 60
    assert {"0", "841", "true", "false"} <= answers


@pytest.mark.parametrize("value", [["one", "two"], {"text": ["one"], "answer_start": [0]}])
def test_lists_as_answers_are_named_with_their_type(case, value):
    rows = [{"question": question(n), "answer": value} for n in range(40)]
    message = case.refused(jsonl(rows))
    assert "answer" in message
    assert type(value).__name__ in message


def test_squad_answers_are_named(case):
    rows = [
        {"question": question(n), "context": "x", "answers": {"text": [answer(n)], "answer_start": [0]}}
        for n in range(40)
    ]
    assert "answers" in case.refused(jsonl(rows))


def test_an_empty_instruction_takes_the_input_as_the_prompt(case):
    rows = [{"instruction": "", "input": question(n), "output": answer(n)} for n in range(40)]
    assert texts(case.learns(jsonl(rows))) == EXPECTED


def test_a_group_column_with_one_value_is_refused_by_name(case):
    message = case.refused(jsonl([row | {"group": "all"} for row in pairs()]), error=ColumnError)
    assert "group" in message
    assert "null" in message
