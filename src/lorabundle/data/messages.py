"""Conversations as people write them, as one list of messages: keys, roles, parts, pairs, tool calls, and flags of what not to learn.

A message is {"role", "content"}; only where it matters it also has "train": False (not to be learnt), "tool_calls", "name" or
"tool_call_id".
"""

import json
from typing import Any

from lorabundle.data.notes import Notes
from lorabundle.data.quarantine import RowProblem
from lorabundle.data.texts import clean, is_absent

ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "text")
ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "model", "ai", "chatbot"),
    "tool": ("tool", "function", "observation", "function_response", "tool_response", "ipython"),
}
BY_NAME = {name: role for role, names in ROLES.items() for name in names}
# Turns of a list of pairs: {"human": ..., "assistant": ...}
PAIRS = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("user", "bot"),
    ("human", "bot"),
    ("prompt", "response"),
    ("question", "answer"),
    ("query", "response"),
    ("instruction", "output"),
    ("input", "output"),
)
FLAGS = ("weight", "train", "training", "loss")  # OpenAI's, axolotl's and others' ways to say whether a turn is learnt
TOOL_KEYS = ("tool_calls", "name", "tool_call_id")
# Another model's end of a text or turn. At the end of a completion it is a trace of an older format.
END_TOKENS = (
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
    "<|END_OF_TURN_TOKEN|>",
)


def parse_messages(value: Any, column: str, notes: Notes) -> list[dict]:
    """A cell as a list of messages: a list of messages, of pairs or of texts, one message, or one of these as JSON text.

    Raises:
        RowProblem: it is something else, or a message cannot be used.
    """
    value = _from_json(value, column)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise RowProblem("wrong_type", f"must be a list of messages, but is a {type(value).__name__}", column)
    if value and isinstance(value[0], list | tuple):
        return _text_pairs(value, column, notes)
    if value and all(isinstance(turn, str) for turn in value):
        return _bare_texts(value, column, notes)
    messages: list[dict] = []
    for index, item in enumerate(value):
        place = f"{column}[{index}]"
        if pair := _pair(item):
            messages += [_message(turn, place, notes) for turn in pair]
        elif isinstance(item, dict):
            messages.append(_message(item, place, notes))
        else:
            kind = type(item).__name__
            raise RowProblem("wrong_type", f"must be a message with role and content, but is a {kind}", place)
    return messages


def parse_history(value: Any, column: str, notes: Notes) -> list[dict]:
    """Earlier turns: pairs of texts, first the user's, as Alpaca's `history` has them, or messages.

    Raises:
        RowProblem: it is something else.
    """
    value = _from_json(value, column)
    if not isinstance(value, list):
        raise RowProblem("wrong_type", f"must be a list of pairs of texts, but is a {type(value).__name__}", column)
    if value and isinstance(value[0], dict):
        return parse_messages(value, column, notes)
    return _text_pairs(value, column, notes)


def _bare_texts(texts: list[str], column: str, notes: Notes) -> list[dict]:
    """A conversation without roles, as LIMA and UltraChat have it: the user's turn and the assistant's, one after the other."""
    notes.add("conversation without roles: its texts taken as user and assistant in turn")
    return [
        content_message(("user", "assistant")[index % 2], text, f"{column}[{index}]", notes)
        for index, text in enumerate(texts)
    ]


def _text_pairs(pairs: list, column: str, notes: Notes) -> list[dict]:
    """Turns as pairs of texts, first the user's."""
    messages = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowProblem(
                "wrong_type", "must be a pair of texts, the user's and the assistant's", f"{column}[{index}]"
            )
        for place, (role, text) in enumerate(zip(("user", "assistant"), pair, strict=True)):
            messages.append(content_message(role, text, f"{column}[{index}][{place}]", notes))
    return messages


def content_message(role: str, value: Any, column: str, notes: Notes) -> dict:
    """A message with this role and text. A completion keeps its first indent, and loses another model's end token."""
    if role != "assistant":
        return {"role": role, "content": clean(value, column)}
    text = clean(value, column, keep_indent=True)
    kept = without_end_token(text, notes)
    if not kept:
        raise RowProblem("empty", "is empty", column)
    return {"role": role, "content": kept}


def without_end_token(text: str, notes: Notes) -> str:
    """A completion without the end token that it closes with; `</s>` stays if it closes an HTML tag."""
    cut: set[str] = set()
    while token := next((token for token in END_TOKENS if text.endswith(token)), None):
        if token == "</s>" and ("<s>" in text or "<s " in text):
            break
        text = text.removesuffix(token).rstrip()
        cut.add(token)
    for token in sorted(cut):
        notes.add(f"end token {token} cut off at the end of a completion")
    return text


def _from_json(value: Any, column: str) -> Any:
    """A list or object that is stored as text, as what it is."""
    if isinstance(value, RowProblem):
        raise value
    if isinstance(value, bytes | str) and value.strip()[:1] in ("[", "{", b"[", b"{"):
        try:
            return json.loads(value)
        except (RecursionError, ValueError) as error:
            raise RowProblem("not_json", f"starts like JSON, but is not ({error})", column) from error
    if is_absent(value):
        raise RowProblem("null", "is null, missing or empty", column)
    return value


def is_turn(item: Any) -> bool:
    """Whether an item of a list looks like a message, or like a pair of them."""
    return isinstance(item, dict) and (any(key in item for key in ROLE_KEYS) or _pair(item) is not None)


def _pair(item: Any) -> list[dict] | None:
    """The two messages of an object such as {"human": ..., "assistant": ...}, after its system message if it has one."""
    if not isinstance(item, dict) or any(key in item for key in ROLE_KEYS):
        return None
    keys = {key.lower(): key for key in item if isinstance(key, str)}
    for user, assistant in PAIRS:
        if user in keys and assistant in keys:
            roles = {"user": keys[user], "assistant": keys[assistant]}
            if "system" in keys and not is_absent(item[keys["system"]]):
                roles = {"system": keys["system"], **roles}
            return [{"role": role, "content": item[key]} for role, key in roles.items()]
    return None


def _message(item: dict, place: str, notes: Notes) -> dict:
    role_key = next((key for key in ROLE_KEYS if key in item), None)
    content_key = next((key for key in CONTENT_KEYS if key in item), None)
    if role_key is None:
        raise RowProblem(
            "missing", f"is missing; the message has the keys {', '.join(map(str, item))}", f"{place}.role"
        )
    stated = item[role_key]
    role = BY_NAME.get(stated.strip().lower()) if isinstance(stated, str) else None
    call = _function_call(item, stated, content_key)
    if role is None and call is None:
        raise RowProblem("roles", f"is {stated!r}, but must be one of {', '.join(BY_NAME)}", f"{place}.{role_key}")
    extra = {key: item[key] for key in TOOL_KEYS if not is_absent(item.get(key)) and (key != "name" or role == "tool")}
    if call is not None:
        role, extra = "assistant", extra | {"tool_calls": [call]}
    used = {role_key, content_key, *FLAGS, *extra, "function_call"}
    for key in item:
        if key not in used and not is_absent(item[key]):
            notes.add(f"message key {key} not used")
    if content_key is None and "tool_calls" not in extra:
        raise RowProblem("missing", "is missing", f"{place}.content")
    value = _joined(item.get(content_key), f"{place}.{content_key}")
    if "tool_calls" in extra and (stated == "function_call" or is_absent(value)):
        message = {"role": role, "content": ""}
    else:
        message = content_message(role, value, f"{place}.{content_key}", notes)
    message |= extra
    if not _is_learnt(item, place) and role == "assistant":
        message["train"] = False
        notes.add("assistant turn not learnt, as its flag says")
    return message


def _joined(value: Any, place: str) -> Any:
    """The text of a content that is a list of parts; other contents as they are."""
    if not isinstance(value, list) or not value:
        return value
    texts = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if isinstance(part, str):
            texts.append(part)
        elif (
            isinstance(part, dict)
            and isinstance(part.get("text"), str)
            and kind in (None, "text", "input_text", "output_text")
        ):
            texts.append(part["text"])
        else:
            raise RowProblem("not_text", f"has a part of type {kind}, and only text can be learnt here", place)
    return "\n".join(texts)


def _function_call(item: dict, stated: Any, content_key: str | None) -> dict | None:
    """A call in an older form, as the newer one has it: ShareGPT's role `function_call`, OpenAI's key `function_call`."""
    call = item.get("function_call")
    if stated in ("function_call", "tool_call") and content_key:
        call = item[content_key]
        if isinstance(call, str):
            try:
                call = json.loads(call)
            except ValueError:
                call = {"name": call, "arguments": ""}
    if isinstance(call, list) and len(call) == 1:
        call = call[0]
    return {"type": "function", "function": call} if isinstance(call, dict) and "name" in call else None


def _is_learnt(item: dict, place: str) -> bool:
    learnt = True
    for key in FLAGS:
        flag = item.get(key)
        if flag is None or flag in (0, 1):  # False and True too
            learnt = learnt and flag != 0
        else:
            raise RowProblem(
                "wrong_type", f"is {flag!r}; a turn is learnt (1, true) or not (0, false)", f"{place}.{key}"
            )
    return learnt
