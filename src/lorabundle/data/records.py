"""A user's rows as records of one schema, and which rows can be used.

A record is {"id", "group", "kind", "split", "prompt", "completion"}. The last two are lists of messages (see messages.py): `prompt` is
everything before the first assistant turn, `completion` is that turn and everything after it, up to the last assistant turn. `split` is
what the user's data says, or "". A record with tools also has "tools", their definitions.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from lorabundle.core.config import SPLIT_NAMES
from lorabundle.core.files import sha256_bytes
from lorabundle.data.file_formats import Row
from lorabundle.data.messages import content_message, parse_history, parse_messages
from lorabundle.data.notes import Notes
from lorabundle.data.quarantine import Quarantine, RowProblem
from lorabundle.data.shapes import LABELS, OPTIONAL
from lorabundle.data.texts import clean, is_absent

MAY_FOLLOW = {  # role -> the roles that may come next
    "system": {"user"},
    "user": {"assistant"},
    "assistant": {"user", "tool"},
    "tool": {"tool", "assistant"},
}


def build(
    rows: Iterable[Row], columns: dict[str, str], quarantine: Quarantine, notes: Notes
) -> Iterator[tuple[Row, dict]]:
    """Each row that can be used, with its record. Faulty rows go to `quarantine`; those that the data excludes are counted in `notes`.

    Args:
        rows: as `file_formats.read_rows` gives them.
        columns: {field: column}, as `shapes.detect` found them.
        quarantine: collects the rows that cannot be used.
        notes: counts what is changed or left out.
    """
    seen: set[str] = set()
    for row in rows:
        try:
            if row.problem:
                raise row.problem
            if _is_excluded(row, columns):
                notes.left_out["label_false"] += 1
                continue
            record = _record(row, columns, notes)
        except RowProblem as problem:
            quarantine.add(row.where, problem, row.values)
            continue
        if all(message.get("train") is False for message in record["completion"] if message["role"] == "assistant"):
            notes.left_out["no_turn_to_learn"] += 1
            continue
        yield row, record | {"id": _unique_id(record["id"], seen)}


def check_built(built: Iterable[dict], quarantine: Quarantine) -> Iterator[tuple[Row, dict]]:
    """As `build`, for records built by this package, which are named by their ids."""
    for record in built:
        row = Row(record["id"], record["id"], record)
        try:
            for message in record["prompt"] + record["completion"]:
                clean(message["content"], message["role"])
            check_roles(record["prompt"] + record["completion"])
            yield row, record | {"split": ""}
        except RowProblem as problem:
            quarantine.add(row.where, problem, record)


def check_roles(messages: list[dict]) -> None:
    """Check the order of roles: an optional system message, then user and assistant in turn; tools answer the assistant.

    Raises:
        RowProblem: it is another order, or the assistant has not the last word.
    """
    roles = [message["role"] for message in messages]
    pairs = zip(["start", *roles], roles, strict=False)
    in_order = all(role in MAY_FOLLOW.get(before, {"system", "user"}) for before, role in pairs)
    if not in_order or not roles or roles[-1] != "assistant":
        shown = ", ".join(roles[:10]) + (", …" if len(roles) > 10 else "")
        raise RowProblem(
            "roles",
            "must have the roles user and assistant in turn, with assistant last, after an optional system message; "
            f"it has {shown or 'no message'}",
        )


def _is_excluded(row: Row, columns: dict[str, str]) -> bool:
    """Whether the row's label says that its answer is a bad one (KTO's form)."""
    if "label" not in columns or not isinstance(row.values, dict):
        return False
    label = row.values.get(columns["label"])
    if label is None or label in (0, 1):
        return label is not None and not label
    text = str(label).strip().lower()
    if text in ("true", "false"):
        return text == "false"
    raise RowProblem("wrong_type", f"is {label!r}; it must be true (learn this answer) or false", columns["label"])


def _record(row: Row, columns: dict[str, str], notes: Notes) -> dict:
    optional = OPTIONAL if is_absent(row.values.get(columns.get("context"))) else {*OPTIONAL, "prompt"}
    missing = [column for name, column in columns.items() if name not in optional and column not in row.values]
    if missing:
        raise RowProblem("missing", "is missing", missing[0])
    values = {name: row.values.get(column) for name, column in columns.items()}
    values = {name: value for name, value in values.items() if name not in OPTIONAL or not is_absent(value)}
    turns = _turns(values, columns, notes)
    if "system" in values:
        turns = [{"role": "system", "content": clean(values["system"], columns["system"])}, *turns]
    try:
        check_roles(turns)
    except RowProblem as problem:
        raise RowProblem(problem.cause, problem.reason, columns.get("messages") or columns["completion"]) from problem
    first = next(index for index, turn in enumerate(turns) if turn["role"] == "assistant")
    # Rows with one prompt are one group. Conversations may open alike (a greeting), so all their turns count
    is_single = len(turns) == first + 1
    content = repr(turns[:first]) if is_single else repr([(turn["role"], turn["content"]) for turn in turns])
    labels = {"id": row.key, "group": sha256_bytes(content.encode())[:16], "kind": "all"}
    labels |= {name: clean(values[name], columns[name]) for name in LABELS if name in values}
    record = labels | {"split": _split(row, values, columns), "prompt": turns[:first], "completion": turns[first:]}
    if "tools" in values and (tools := _tools(values["tools"], columns["tools"])):
        record["tools"] = tools
    return record


def _turns(values: dict, columns: dict[str, str], notes: Notes) -> list[dict]:
    """The messages of a row. Of one with a prompt and a completion, each of the two may be text or a list of messages."""
    if "messages" in columns:
        return parse_messages(values["messages"], columns["messages"], notes)
    turns = parse_history(values["history"], columns["history"], notes) if "history" in values else []
    prompt, context = values["prompt"], values.get("context")
    if isinstance(prompt, list | dict):
        turns += parse_messages(prompt, columns["prompt"], notes)
        if context is not None:
            raise RowProblem(
                "wrong_type", "is a list of messages, to which the context cannot be added", columns["prompt"]
            )
    elif is_absent(prompt) and context is not None:
        turns.append({"role": "user", "content": clean(context, columns["context"])})
    else:
        text = clean(prompt, columns["prompt"])
        if context is not None:
            text = f"{text}\n\n{clean(context, columns['context'])}"
        turns.append({"role": "user", "content": text})
    completion = values["completion"]
    is_messages = isinstance(completion, dict) and {"content", "value"} & set(completion)
    if is_messages or (isinstance(completion, list) and completion and isinstance(completion[0], dict)):
        return turns + parse_messages(completion, columns["completion"], notes)
    return [*turns, content_message("assistant", completion, columns["completion"], notes)]


def _split(row: Row, values: dict, columns: dict[str, str]) -> str:
    if row.split or "split" not in columns:
        return row.split
    stated = str(values.get("split", "")).strip().lower()
    if stated not in SPLIT_NAMES:
        known = ", ".join(SPLIT_NAMES)
        raise RowProblem("split", f"is {values.get('split')!r}, but must be one of {known}", columns["split"])
    return SPLIT_NAMES[stated]


def _tools(value: Any, column: str) -> list:
    """The definitions of a row's tools, which may be stored as JSON text."""
    try:
        tools = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise RowProblem("not_json", f"must be a list of tools, but is not JSON ({error})", column) from error
    if not isinstance(tools, list):
        raise RowProblem("wrong_type", f"must be a list of tools, but is a {type(tools).__name__}", column)
    return tools


def _unique_id(record_id: str, seen: set[str]) -> str:
    """An id that no earlier row has: repeated ids get a number."""
    unique, number = record_id, 1
    while unique in seen:
        number += 1
        unique = f"{record_id}#{number}"
    seen.add(unique)
    return unique
