"""Read a user's dataset file into the one record schema.

Reads a JSONL file whose rows have one of the shapes in `SHAPES`; gives rows
{"id", "group", "prompt": [messages], "completion": [one assistant message], "kind"}.
"""

from collections.abc import Callable
from pathlib import Path
from reprlib import repr as shortened

from lorabundle import artifacts
from lorabundle.artifacts import sha256_bytes
from lorabundle.errors import ColumnError

Messages = list[dict]


def _text(row: dict, column: str) -> str:
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"column {column} must be a text that is not empty, got {shortened(value)}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"column {column} has half a surrogate pair, which is no character: {shortened(value)}")
    return value.strip()


def _turn(role: str, content: str) -> Messages:
    return [{"role": role, "content": content}]


def _from_prompt_completion(row: dict) -> tuple[Messages, Messages]:
    return _turn("user", _text(row, "prompt")), _turn("assistant", _text(row, "completion"))


def _from_alpaca(row: dict) -> tuple[Messages, Messages]:
    context = _text(row, "input") if str(row.get("input") or "").strip() else ""
    instruction = _text(row, "instruction")
    question = f"{instruction}\n\n{context}" if context else instruction
    return _turn("user", question), _turn("assistant", _text(row, "output"))


def _from_messages(row: dict) -> tuple[Messages, Messages]:
    messages = row["messages"]
    if not isinstance(messages, list) or len(messages) < 2 or not all(isinstance(item, dict) for item in messages):
        raise ValueError("column messages must be a list of at least two {role, content} objects")
    turns = [
        {"role": item.get("role"), "content": _text({"content": item.get("content")}, "content")} for item in messages
    ]
    roles = [turn["role"] for turn in turns]
    if any(role not in ("system", "user", "assistant") for role in roles) or roles[-2:] != ["user", "assistant"]:
        raise ValueError(f"messages must have roles system, user or assistant and end user, assistant; got {roles}")
    return turns[:-1], turns[-1:]


# Required columns -> how to read the row. The first shape whose columns the first row has is the file's shape.
SHAPES: dict[tuple[str, ...], Callable[[dict], tuple[Messages, Messages]]] = {
    ("messages",): _from_messages,
    ("prompt", "completion"): _from_prompt_completion,
    ("instruction", "output"): _from_alpaca,
}


def read_records(path: Path) -> list[dict]:
    """Read and validate a JSONL dataset.

    A row may name its own `id`, `group` (rows of one group share a split; by default rows with the same prompt) and `kind`.

    Raises:
        MissingInputError, MalformedInputError: from reading the file.
        ColumnError: no known shape, or rows that do not fit it; up to five are named as file:line.
    """
    rows = artifacts.numbered_jsonl(path, "Each line must be one JSON object; see 'Your own data' in README.md.")
    known = "; ".join(", ".join(columns) for columns in SHAPES)
    if not rows:
        raise ColumnError(f"{path} has no rows. Give one JSON object a line with the columns of one of: {known}.")
    shape = next((columns for columns in SHAPES if set(columns) <= set(rows[0][1])), None)
    if shape is None:
        raise ColumnError(
            f"{path}:{rows[0][0]} has the columns {sorted(rows[0][1])}, which are none of the known shapes: {known}. Rename the columns."
        )
    records, problems = [], []
    for number, row in rows:
        missing = [column for column in shape if column not in row]
        try:
            if missing:
                raise ValueError(f"column {missing[0]} is missing")
            prompt, completion = SHAPES[shape](row)
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
            continue
        own = {key: str(row[key]) for key in ("id", "group", "kind") if row.get(key) is not None}
        defaults = {"id": f"{path.name}:{number}", "group": sha256_bytes(repr(prompt).encode())[:16], "kind": "all"}
        records.append(defaults | own | {"prompt": prompt, "completion": completion})
    if problems:
        raise ColumnError(
            f"{len(problems)} of {len(rows)} rows cannot be used: {'; '.join(problems[:5])}"
            f"{'; …' if len(problems) > 5 else ''}. Mend or remove these rows."
        )
    return records
