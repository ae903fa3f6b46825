"""A user's rows as records of one schema: what each column means, and which rows can be used.

A record is {"id", "group", "kind", "prompt", "completion"}. The last two are lists of messages: `prompt` is everything before
the first assistant turn, `completion` is that turn and everything after it, up to the last assistant turn.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from lorabundle.core.config import Data
from lorabundle.core.errors import ColumnError
from lorabundle.core.files import sha256_bytes
from lorabundle.data.file_formats import Row
from lorabundle.data.quarantine import Quarantine, RowProblem

SHAPES = {
    "messages": {"messages": "messages"},
    "sharegpt": {"system": "system", "messages": "conversations"},
    "alpaca": {"system": "system", "prompt": "instruction", "context": "input", "completion": "output"},
    "prompt/completion": {"system": "system", "prompt": "prompt", "completion": "completion"},
    "prompt/response": {"system": "system", "prompt": "prompt", "completion": "response"},
    "question/answer": {"system": "system", "prompt": "question", "context": "context", "completion": "answer"},
}
LABELS = {"id": "id", "group": "group", "kind": "kind"}  # in any shape
OPTIONAL = {"system", "context", *LABELS}  # a row may lack them
MESSAGE_KEYS = {"from": "role", "value": "content"}  # ShareGPT's names -> ours
ROLES = {"human": "user", "gpt": "assistant"}
LONGEST = 100_000  # characters of a text: a longer cell is a complete document, or several rows read as one
FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # Unicode's control characters, except tab and newline
SURROGATE = re.compile("[\ud800-\udfff]")


def _clean(value: Any) -> str:
    """A text with line feeds as line endings and without white space around it."""
    if not isinstance(value, str):
        raise PydanticCustomError(*_not_text(value))
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    if found := SURROGATE.search(text):
        raise PydanticCustomError(
            "surrogate", f"has half a surrogate pair, U+{ord(found[0]):04X}, which is not a character"
        )
    if found := FORBIDDEN.search(text):
        reason = f"has the control character U+{ord(found[0]):04X} at position {found.start()}"
        raise PydanticCustomError("control_character", reason)
    text = text.strip()
    if not text:
        raise PydanticCustomError("empty", "is empty")
    if len(text) > LONGEST:
        raise PydanticCustomError("too_long", f"has {len(text)} characters, more than {LONGEST}")
    return text


def _not_text(value: Any) -> tuple[str, str]:
    """(cause, reason) for a value that is not text."""
    if value is None:
        return "null", "is null or missing"
    if isinstance(value, float) and math.isnan(value):
        return "nan", "is NaN (not a number), as missing values are often stored"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "wrong_type", f"must be text, but is the number {value}"
    return "wrong_type", f"must be text, but is a {type(value).__name__}"


def _label(value: Any) -> Any:
    """An id, group or kind as text, if it is a number."""
    return str(value) if isinstance(value, int | float) and not math.isnan(value) else value


def _renamed(value: Any) -> Any:
    """A message with ShareGPT's keys and roles renamed."""
    if not isinstance(value, dict):
        raise PydanticCustomError(
            "wrong_type", f"must be a message with role and content, but is a {type(value).__name__}"
        )
    message = {MESSAGE_KEYS.get(key, key): item for key, item in value.items()}
    role = message.get("role")
    return message | {"role": ROLES.get(role, role) if isinstance(role, str) else role}


def _listed(value: Any) -> Any:
    if not isinstance(value, list):
        raise PydanticCustomError("wrong_type", f"must be a list of messages, but is a {type(value).__name__}")
    return value


Text = Annotated[str, BeforeValidator(_clean)]
Label = Annotated[Text, BeforeValidator(_label)]


class Message(BaseModel):
    """One turn."""

    model_config = ConfigDict(frozen=True)  # other keys, such as a name or a weight, are left out

    role: Literal["system", "user", "assistant"]
    content: Text


Messages = Annotated[list[Annotated[Message, BeforeValidator(_renamed)]], BeforeValidator(_listed)]


class Record(BaseModel):
    """A row of the dataset as every later stage reads it."""

    model_config = ConfigDict(extra="forbid")

    id: Label
    group: Label
    kind: Label
    prompt: Messages
    completion: Messages

    @model_validator(mode="after")
    def _roles_in_order(self) -> "Record":
        roles = [message.role for message in self.prompt + self.completion]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
            shown = ", ".join(roles[:10]) + (", …" if len(roles) > 10 else "")
            raise PydanticCustomError(
                "roles",
                "must have the roles user and assistant in turn, with assistant last, after an optional system message; "
                f"it has {shown or 'no message'}",
            )
        return self


TEXT, MESSAGES = TypeAdapter(Text), TypeAdapter(Messages)


def columns_of(rows: Iterable[Row], settings: Data) -> tuple[str, dict[str, str]]:
    """(name of the shape, {field: column}) of a dataset, with `data.columns` applied.

    Raises:
        ColumnError: no row has the columns of a known shape, or `data.columns` names one that no row has.
    """
    present: dict[str, None] = {}  # in order of appearance
    shape, fields = ("data.columns", {}) if settings.names_content else (None, {})
    for row in rows:
        if isinstance(row.values, dict):
            present |= dict.fromkeys(row.values)
            if shape is None:
                shape, fields = _shape_of(row.values)
    absent = [column for column in settings.columns.values() if column and column not in present]
    if absent:
        found = f"has the columns {', '.join(present)}" if present else "has no row with columns"
        raise ColumnError(f"data.columns names {absent[0]}, but {settings.source} {found}.")
    if not present:
        raise ColumnError(f"{settings.source} has no row with columns. Add rows, or name another file in data.source.")
    if shape is None:
        known = "; ".join(", ".join(_required(fields).values()) for fields in SHAPES.values())
        raise ColumnError(
            f"{settings.source} has the columns {', '.join(present)}, which fit none of the known shapes: {known}. "
            f"Rename the columns, or say in data.columns what they mean, in the config or with "
            f'SET="data.columns.prompt=my_column data.columns.completion=my_other_column".'
        )
    fields = LABELS | fields | settings.columns
    return shape, {field: column for field, column in fields.items() if column in present}


def _shape_of(values: dict) -> tuple[str | None, dict[str, str]]:
    """(name, {field: column}) of the first shape whose required columns a row has; (None, {}) if there is none."""
    for name, fields in SHAPES.items():
        if set(_required(fields).values()) <= set(values):
            return name, fields
    return None, {}


def _required(fields: dict[str, str]) -> dict[str, str]:
    return {field: column for field, column in fields.items() if field not in OPTIONAL}


def build(rows: Iterable[Row], fields: dict[str, str], quarantine: Quarantine) -> Iterator[tuple[Row, dict]]:
    """Each row that can be used, with its record; the others go to `quarantine`."""
    seen: set[str] = set()
    for row in rows:
        try:
            if row.problem:
                raise row.problem
            record = _record(row, fields)
        except RowProblem as problem:
            quarantine.add(row.where, problem, row.values)
            continue
        yield row, record | {"id": _unique_id(record["id"], seen)}


def check_built(built: Iterable[dict], quarantine: Quarantine) -> Iterator[tuple[Row, dict]]:
    """As `build`, for records built by this package, which are named by their ids."""
    for record in built:
        row = Row(record["id"], record["id"], record)
        try:
            yield row, _checked(record)
        except RowProblem as problem:
            quarantine.add(row.where, problem, record)


def _checked(record: dict) -> dict:
    try:
        return Record.model_validate(record).model_dump()
    except ValidationError as error:
        raise _problem(error) from error


def _record(row: Row, fields: dict[str, str]) -> dict:
    values = {field: row.values.get(column) for field, column in fields.items()}
    missing = [column for column in _required(fields).values() if column not in row.values]
    if missing:
        raise RowProblem("missing", "is missing", missing[0])
    values = {field: value for field, value in values.items() if field not in OPTIONAL or not _is_absent(value)}
    if "messages" in values:
        turns = _validated(MESSAGES, values["messages"], fields["messages"])
    else:
        turns = _turns(values, fields)
    if "system" in values:
        turns = [Message(role="system", content=_validated(TEXT, values["system"], fields["system"])), *turns]
    num_prompt_turns = next((index for index, turn in enumerate(turns) if turn.role == "assistant"), len(turns))
    messages = [turn.model_dump() for turn in turns]
    prompt, completion = messages[:num_prompt_turns], messages[num_prompt_turns:]
    labels = {"id": row.key, "group": sha256_bytes(repr(prompt).encode())[:16], "kind": "all"}
    labels |= {field: value for field, value in values.items() if field in LABELS}
    try:
        return _checked(labels | {"prompt": prompt, "completion": completion})
    except RowProblem as problem:  # with a label, or with the order of the roles
        column = fields.get(problem.column) or fields.get("messages") or fields["completion"]
        raise RowProblem(problem.cause, problem.reason, column) from problem


def _turns(values: dict, fields: dict[str, str]) -> list[Message]:
    """The messages of a row with a prompt and a completion. Each of the two may be text or a list of messages."""
    turns = []
    for field, role in (("prompt", "user"), ("completion", "assistant")):
        if isinstance(values[field], list):
            turns += _validated(MESSAGES, values[field], fields[field])
            continue
        text = _validated(TEXT, values[field], fields[field])
        if field == "prompt" and "context" in values:
            text = f"{text}\n\n{_validated(TEXT, values['context'], fields['context'])}"
        turns.append(Message(role=role, content=text))
    return turns


def _is_absent(value: Any) -> bool:
    """Whether an optional cell is empty: blank, null or NaN."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _validated(adapter: TypeAdapter, value: Any, column: str) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise _problem(error, column) from error


def _problem(error: ValidationError, column: str = "") -> RowProblem:
    """The first problem that pydantic found, with the place within the column: messages[2].content."""
    first = error.errors(include_url=False)[0]
    for part in first["loc"]:
        column += f"[{part}]" if isinstance(part, int) else f".{part}" if column else part
    if first["type"] == "literal_error":
        return RowProblem("roles", f"must be one of {first['ctx']['expected']}", column)
    if first["type"] == "missing":
        return RowProblem("missing", "is missing", column)
    return RowProblem(first["type"], first["msg"], column or None)


def _unique_id(record_id: str, seen: set[str]) -> str:
    """An id that no earlier row has: repeated ids get a number."""
    unique, number = record_id, 1
    while unique in seen:
        number += 1
        unique = f"{record_id}#{number}"
    seen.add(unique)
    return unique
