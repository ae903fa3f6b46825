"""What the columns of a user's dataset mean: the table of known shapes, how one is detected, and what is said if none fits.

Case, spaces, `_`, `-` and `.` in the names of columns do not matter.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from lorabundle.core.config import SPLIT_NAMES, Data
from lorabundle.core.errors import ColumnError
from lorabundle.data.file_formats import Row
from lorabundle.data.messages import is_turn

SYSTEM = ("system", "system_prompt", "system_message", "sys_prompt")
TOOLS = ("tools", "functions")
HISTORY = ("history",)
CONTEXT = ("context", "passage")
PROMPTS = ("prompt", "question", "query", "instruction", "input", "problem", "user", "human", "request", "user_input")
COMPLETIONS = (
    "completion",
    "response",
    "output",
    "answer",
    "solution",
    "target",
    "reply",
    "assistant",
    "chosen_response",
    "gpt",
    "bot",
    "model_output",
)
# Shape -> {field: names of the columns that can hold it, the first that is there counts}. The first shape that fits is used. Where
# a dataset has both a worked solution and a short answer (MATH), the solution is the text to learn.
SHAPES: dict[str, dict[str, tuple[str, ...]]] = {
    "messages": {"system": SYSTEM, "tools": TOOLS, "messages": ("messages",)},
    "sharegpt": {"system": SYSTEM, "tools": TOOLS, "messages": ("conversations",)},
    "conversation": {
        "system": SYSTEM,
        "tools": TOOLS,
        "messages": ("conversation", "dialogue", "dialog", "chat", "turns", "conversational"),
    },
    "alpaca": {
        "system": SYSTEM,
        "history": HISTORY,
        "prompt": ("instruction",),
        "context": ("input", *CONTEXT),
        "completion": ("output",),
    },
    "dolly": {
        "system": SYSTEM,
        "history": HISTORY,
        "prompt": ("instruction",),
        "context": (*CONTEXT, "input"),
        "completion": ("response",),
    },
    "prompt/completion": {
        "system": SYSTEM,
        "history": HISTORY,
        "prompt": ("prompt",),
        "context": CONTEXT,
        "completion": ("completion",),
    },
    "prompt/response": {
        "system": SYSTEM,
        "history": HISTORY,
        "prompt": ("prompt",),
        "context": CONTEXT,
        "completion": ("response",),
    },
    "question/solution": {
        "system": SYSTEM,
        "prompt": ("question", "problem"),
        "context": CONTEXT,
        "completion": ("solution",),
    },
    "question/answer": {"system": SYSTEM, "prompt": ("question",), "context": CONTEXT, "completion": ("answer",)},
    "pair": {"system": SYSTEM, "history": HISTORY, "prompt": PROMPTS, "context": CONTEXT, "completion": COMPLETIONS},
}
LABELS = ("id", "group", "kind")  # in any shape, under these names
OPTIONAL = {"system", "context", "history", "tools", "label", "split", *LABELS}  # a row may lack them
# Words in names of columns that suggest a meaning: for the message only, never to decide
HINTS = {
    name: tuple(words.split())
    for name, words in {
        "prompt": "prompt question frage pregunta domanda vraag pergunta fråga pytanie вопрос 问题 問題 질문 instruction query input "
        "anweisung source text title request user 指令 message",
        "completion": "answer antwort respuesta risposta antwoord resposta réponse reponse svar odpowied solution ответ 回答 答案 답변 response "
        "output completion target label summary translation reply ausgabe",
        "context": "context kontext contexte contexto passage document article paragraph background",
        "system": "system persona",
    }.items()
}
NAMES_A_ROW = re.compile(r"id$|^(?:name|url|link|date|index|category|language|lang)$")  # what no one wants to learn
PLAIN_NAME = re.compile(r"[\w.-]+")
MOST_VALUES = 20  # distinct values of a column that are remembered


@dataclass
class Column:
    """What the rows have in one column: the number of values by Python type, and the first few distinct ones."""

    kinds: Counter = field(default_factory=Counter)
    values: set = field(default_factory=set)
    example: Any = None

    def add(self, value: Any) -> None:
        """Count a cell; one without a value counts for nothing."""
        if value is None or value != value or value in ("", [], {}):
            return
        self.example = value if self.example is None else self.example
        self.kinds[type(value).__name__] += 1
        if isinstance(value, str | int | float) and len(self.values) <= MOST_VALUES:
            self.values.add(value if not isinstance(value, str) else value[:200])

    @property
    def rows(self) -> int:
        """Number of rows with a value."""
        return sum(self.kinds.values())

    @property
    def is_text(self) -> bool:
        """Whether most values are texts that are not JSON lists."""
        return self.kinds["str"] * 2 > self.rows and not self.is_json

    @property
    def is_json(self) -> bool:
        """Whether the values are JSON lists or objects, as text."""
        return isinstance(self.example, str) and self.example.lstrip().startswith(("[{", "[ {", '{"', "[\n"))

    @property
    def holds_messages(self) -> bool:
        """Whether the values are lists, or such lists as JSON text."""
        return self.kinds["list"] * 2 > self.rows or self.is_json


@dataclass(frozen=True)
class Detection:
    """What the columns mean.

    Attributes:
        shape: name of the shape; "data.columns" if the config says where prompt and completion are.
        columns: {field: column}.
        rows: number of rows that could be read.
        fitting: how many of these have a value in every column that the shape needs.
        unused: {column: number of rows with a value} of the columns that no field reads.
    """

    shape: str
    columns: dict[str, str]
    rows: int
    fitting: int
    unused: dict[str, int]


def detect(rows: Iterable[Row], settings: Data, names: Iterable[str] = ()) -> Detection:
    """What the columns of a dataset mean, with `data.columns` applied.

    Args:
        rows: all rows.
        settings: names the dataset, and columns.
        names: columns that the files name before their first row, for the message about files without rows.

    Raises:
        ColumnError: they fit no known shape, `data.columns` names one that no row has, or a group column puts all rows in one group.
    """
    found: dict[str, Column] = {}  # in order of appearance
    num_rows = num_read = 0
    required_sets: Counter[frozenset] = Counter()
    for row in rows:
        num_read += 1
        if isinstance(row.values, dict) and row.problem is None:
            num_rows += 1
            for name, value in row.values.items():
                found.setdefault(name, Column()).add(value)
            required_sets[frozenset(name for name, value in row.values.items() if value is not None)] += 1
    if not found:
        if num_read:
            return Detection("unreadable", {}, 0, 0, {})  # every row has a problem, which the quarantine reports
        but = f", only the names of columns: {', '.join(names)}" if names else ""
        raise ColumnError(f"{settings.source_name} has no rows{but}. Add rows, or name another file.")
    shape, fields = _explicit(found, settings) if settings.names_content else _shape(found, settings)
    fields |= _labels(found, fields, settings)
    fields = {name: column for name, column in fields.items() if column is not None}
    _check_groups(found, fields, num_rows, settings)
    needed = {column for name, column in fields.items() if name not in OPTIONAL}
    fitting = sum(count for names, count in required_sets.items() if needed <= names)
    used = set(fields.values())
    unused = {name: column.rows for name, column in found.items() if name not in used and column.rows}
    return Detection(shape, fields, num_rows, fitting, unused)


def normal(name: str) -> str:
    """A column's name without case, spaces and separators: "System Prompt" and "system_prompt" are one."""
    return re.sub(r"[\s_.-]+", "", str(name)).casefold()


def _column(names: Iterable[str], found: dict[str, Column], taken: Iterable[str] = ()) -> str | None:
    """The column of the rows that has the first of these names."""
    by_name = {normal(name): name for name in reversed(found) if name not in set(taken)}
    return next((by_name[normal(name)] for name in names if normal(name) in by_name), None)


def _named(column: str, found: dict[str, Column], settings: Data) -> str:
    """The column that `data.columns` means: this very name, or one that differs in case and separators."""
    if column in found:
        return column
    if (same := _column([column], found)) is not None:
        return same
    raise ColumnError(f"data.columns names {column}, but {settings.source_name} has the columns {', '.join(found)}.")


def _explicit(found: dict[str, Column], settings: Data) -> tuple[str, dict[str, str | None]]:
    """The fields that `data.columns` names, and the optional ones that the shape of these columns has besides."""
    fields = {name: column and _named(column, found, settings) for name, column in settings.columns.items()}
    optional = {"system": SYSTEM, "tools": TOOLS}
    if "messages" not in fields:
        optional |= {"history": HISTORY, "context": CONTEXT}
        for shape in SHAPES.values():
            prompt = _column(shape.get("prompt", ()), found)
            if prompt and prompt == fields.get("prompt") and _fits(shape, found):
                optional["context"] = shape["context"]
                break
    for name, names in optional.items():
        if name not in fields:
            fields[name] = _column(names, found, [column for column in fields.values() if column])
    return "data.columns", fields


def _fits(shape: dict[str, tuple[str, ...]], found: dict[str, Column]) -> bool:
    return all(_column(names, found) for name, names in shape.items() if name not in OPTIONAL)


def _shape(found: dict[str, Column], settings: Data) -> tuple[str, dict[str, str | None]]:
    """(name, fields) of the first shape that fits, with what `data.columns` says of the optional ones."""
    _refuse_preferences(found, settings)
    _refuse_trees(found, settings)
    for shape, names in SHAPES.items():
        fields: dict[str, str | None] = {}
        for name, accepted in names.items():
            if name not in OPTIONAL:
                fields[name] = _column(accepted, found, [column for column in fields.values() if column])
        if None in fields.values() or ("messages" in fields and not found[fields["messages"]].holds_messages):
            continue
        for name, accepted in names.items():
            if name in OPTIONAL:
                fields[name] = _column(accepted, found, [column for column in fields.values() if column])
        return shape, fields | {
            name: column and _named(column, found, settings) for name, column in settings.columns.items()
        }
    raise _no_shape(found, settings)


def _labels(found: dict[str, Column], fields: dict, settings: Data) -> dict[str, str | None]:
    """The label columns, which any shape can have, unless `data.columns` says otherwise."""
    used = [column for column in fields.values() if column]
    labels = {name: _column([name], found, used) for name in LABELS}
    split = _column(["split"], found, used)
    if split and any(str(value).strip().lower() in SPLIT_NAMES for value in found[split].values):
        labels["split"] = split
    label = _column(["label"], found, used)
    if label and set(found[label].kinds) == {"bool"}:  # KTO's form
        labels["label"] = label
    stated = {name: column for name, column in settings.columns.items() if name in {*LABELS, "split", "label"}}
    return labels | {name: column and _named(column, found, settings) for name, column in stated.items()}


def _check_groups(found: dict[str, Column], fields: dict, num_rows: int, settings: Data) -> None:
    group = fields.get("group")
    if group and num_rows > 1 and found[group].rows == num_rows and len(found[group].values) == 1:
        raise ColumnError(
            f"{settings.source_name}: column {group} has the same value, {str(min(found[group].values))!r}, in all {num_rows} rows. Rows of "
            f"one group stay in one split, so there would be only one. If this column does not say which rows belong together, leave it "
            f'out with SET="data.columns.group=null".'
        )


def _refuse_preferences(found: dict[str, Column], settings: Data) -> None:
    """Preference pairs need another way of training; what can be learnt here is the better answer."""
    chosen = _column(["chosen", "accepted", "preferred"], found)
    if not chosen or not _column(["rejected", "dispreferred"], found):
        return
    prompt = _column((*PROMPTS, "messages", "conversations"), found, [chosen])
    if found[chosen].kinds["list"] and _opens_with_user(found[chosen].example):
        line = suggestion({"messages": chosen})
    elif prompt:
        line = suggestion({"prompt": prompt, "completion": chosen})
    else:
        raise ColumnError(
            f"{settings.source_name} has preference pairs ({chosen} and a rejected answer) in which prompt and answer are one text. They "
            f"cannot be told apart safely: write them into two columns, prompt and completion."
        )
    raise ColumnError(
        f"{settings.source_name} has preference pairs, which supervised fine-tuning cannot learn from as pairs. To train on the chosen "
        f"answers: {line}."
    )


def _opens_with_user(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else {}
    return isinstance(first, dict) and first.get("role", first.get("from")) not in ("assistant", "gpt")


def _refuse_trees(found: dict[str, Column], settings: Data) -> None:
    prompt = _column(["prompt"], found)
    is_tree = prompt and isinstance(found[prompt].example, dict) and "replies" in found[prompt].example
    if is_tree or {"parentid", "messageid"} <= set(map(normal, found)):
        raise ColumnError(
            f"{settings.source_name} holds trees of messages, in which a message has several replies, so there is no one response to "
            f"learn. Choose a path through each tree, and write it as a list of messages in a column called messages."
        )


def _no_shape(found: dict[str, Column], settings: Data) -> ColumnError:
    """The error about columns that fit nothing, with the line that would say what they mean."""
    described = ", ".join(f"{name} ({_most_frequent(column)})" for name, column in found.items())
    guess = guess_fields(found)
    if {"prompt", "completion"} <= set(guess) or "messages" in guess:
        return ColumnError(
            f"{settings.source_name} has the columns {described}, and their names do not say what to learn from them. "
            f"If this is right, add it to the command: {suggestion(guess)}."
        )
    nested = {name: keys for name, column in found.items() if (keys := _keys_inside(column.example))}
    if nested:
        inside = "; ".join(f"{name} has the keys {', '.join(keys)}" for name, keys in nested.items())
        return ColumnError(
            f"{settings.source_name} has the columns {described}, and what could be a prompt and a response lies further inside ({inside}). "
            f"Rows must have both at the top: write them into two columns, prompt and completion, or into a list of messages."
        )
    texts = [name for name, column in found.items() if column.is_text]
    if len(texts) == 1:
        return ColumnError(
            f"{settings.source_name} has only the text column {texts[0]} ({described}). Only responses are learnt here, and nothing says "
            f"which part of that text is the response. Write the prompt and the response into two columns, prompt and completion."
        )
    return ColumnError(
        f"{settings.source_name} has the columns {described}, and none of them can be a response. Rows need a prompt and a response as "
        f"text (columns prompt and completion), or a list of messages (column messages)."
    )


def _keys_inside(value: Any) -> list[str]:
    """The keys of an object, or of the first object of a list."""
    first = value[0] if isinstance(value, list) and value else value
    return list(map(str, first)) if isinstance(first, dict) else []


def _most_frequent(column: Column) -> str:
    words = {"str": "text", "dict": "object", "int": "number", "float": "number", "bool": "boolean", "bytes": "bytes"}
    kind = column.kinds.most_common(1)[0][0] if column.kinds else "empty"
    return words.get(kind, kind)


def guess_fields(found: dict[str, Column]) -> dict[str, str]:
    """A guess of what columns mean that have unusual names: by words in their names, then by their order. For messages only."""
    texts = [name for name, column in found.items() if column.is_text]
    guess: dict[str, str] = {}
    for name in ("completion", "prompt", "context", "system"):
        hits = (column for word in HINTS[name] for column in texts if word in normal(column))
        free = [column for column in hits if column not in guess.values()]
        if free:
            guess[name] = free[0]
    if "prompt" not in guess and "context" in guess:  # an article and its summary
        guess["prompt"] = guess.pop("context")
    left = [name for name in texts if name not in guess.values() and not NAMES_A_ROW.search(normal(name))]
    for name in ("prompt", "completion"):
        if name not in guess and left:
            guess[name] = left.pop(0)
    lists = [name for name, column in found.items() if column.holds_messages and _holds_turns(column.example)]
    if not guess.keys() - {"prompt"} and len(lists) == 1:
        return {"messages": lists[0]}
    order = ("prompt", "completion", "context", "system")
    return {name: guess[name] for name in order if name in guess}


def _holds_turns(value: Any) -> bool:
    """Whether a cell looks like a conversation: a list of messages, of pairs, or of sentences, or such a list as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return False
    first = value[0] if isinstance(value, list) and value else None
    return is_turn(first) or (isinstance(first, list) and len(first) == 2) or (isinstance(first, str) and " " in first)


def suggestion(fields: dict[str, str]) -> str:
    """What sets `data.columns` to these: words for the command line, or a line for a config if a name does not go there."""
    if all(PLAIN_NAME.fullmatch(column) and yaml.safe_load(column) == column for column in fields.values()):
        return f'SET="{" ".join(f"data.columns.{name}={column}" for name, column in fields.items())}"'
    inside = ", ".join(f"{name}: {json.dumps(column, ensure_ascii=False)}" for name, column in fields.items())
    return f"in a config, below data: `columns: {{{inside}}}`"
