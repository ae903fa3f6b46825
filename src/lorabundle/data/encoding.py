"""Records as tokens: `input_ids` and `labels` of each, or why it cannot be trained on."""

from collections.abc import Iterable, Iterator

from lorabundle.core.errors import RowTemplateError
from lorabundle.data.file_formats import Row
from lorabundle.data.notes import Notes
from lorabundle.data.quarantine import Quarantine, RowProblem
from lorabundle.model import prompts


def encode_rows(
    records: Iterable[tuple[Row, dict]],
    tokenizer,
    max_length: int,
    quarantine: Quarantine,
    columns: dict[str, str],
    notes: Notes,
) -> Iterator[dict]:
    """Records with `input_ids` and `labels`, not yet cut; those that cannot be trained on go to `quarantine`.

    Args:
        records: as `records.build` gives them.
        tokenizer: of the base model.
        max_length: to which the rows will be cut, in tokens.
        quarantine: collects the rows that cannot be used.
        columns: {field: column} of the user's file, for the messages.
        notes: counts control tokens that are encoded as text, and tools that the template does not show.

    Raises:
        TemplateError: the chat template does not allow a response mask, or leaves a message out.
    """
    for row, record in records:
        try:
            encoded = _encode(record, tokenizer, max_length, columns, notes)
        except RowProblem as problem:
            quarantine.add(row.where, problem, row.values)
        else:
            yield record | encoded


def _encode(record: dict, tokenizer, max_length: int, columns: dict[str, str], notes: Notes) -> dict[str, list[int]]:
    """A record's `input_ids` and `labels`.

    Raises:
        RowProblem: the template cannot render its tools, or no label is left after cutting.
    """
    messages = record["prompt"] + record["completion"]
    found = {token for message in messages for token in prompts.control_tokens(tokenizer, message["content"])}
    for token in sorted(found):
        notes.add(f"control token {token} in a text, encoded as plain text")
    tools = record.get("tools")
    try:
        encoded = prompts.encode(tokenizer, record["prompt"], record["completion"], tools)
        if tools and prompts.encode_prompt(tokenizer, record["prompt"]) == prompts.encode_prompt(
            tokenizer, record["prompt"], tools
        ):
            notes.add("definitions of tools not used, because the model's chat template does not show them")
    except RowTemplateError as error:
        raise RowProblem("template", str(error).rstrip("."), _column(columns, "completion")) from error
    is_label = [label != prompts.IGNORE_INDEX for label in encoded["labels"]]
    if not any(is_label[:max_length]):
        num_prompt_tokens = is_label.index(True)
        reason = f"leaves no room for an answer: it has {num_prompt_tokens} tokens and data.max_length is {max_length}"
        raise RowProblem("prompt_too_long", reason, _column(columns, "prompt"))
    return encoded


def _column(columns: dict[str, str], part: str) -> str:
    """The column of the user's file that holds a part of a record."""
    return columns.get("messages") or columns.get(part, part)
