"""The one chat rendering and the one response-only label mask, for training, evaluation and sampling.

A row is rendered with the tokenizer's own chat template. Only each response and the end-of-turn token that closes it are
labels; all other labels are -100. The end-of-turn token must be a label, or the model never learns to stop. Whatever a template
puts after it (a newline, a second end token) is cut off. The mask depends on positions, never on token ids, because some
tokenizers, including the default one, also use the end-of-turn token for padding.

A message is {"role", "content"}, and where it matters also "train": False (its labels are -100), "tool_calls", "name" or
"tool_call_id". In files these others are one JSON text, "extra" (see `packed`).
"""

import json
import re
from reprlib import repr as shortened
from typing import Any

import jinja2

from lorabundle.core.errors import RowTemplateError, TemplateError
from lorabundle.core.files import sha256_bytes

IGNORE_INDEX = -100  # labels that torch's cross-entropy and transformers' collators ignore
# Stands for a content that is encoded by itself; private-use characters, which no template has
MARKER = re.compile("(\ue000content-\\d+\ue001)")


def packed(message: dict) -> dict:
    """A message as it is written to files: {"role", "content", "extra"}, where `extra` is JSON text or None."""
    extra = {key: value for key, value in message.items() if key not in ("role", "content")}
    return {"role": message["role"], "content": message["content"], "extra": json.dumps(extra) if extra else None}


def unpacked(message: dict) -> dict:
    """A message as `packed` had it; others as they are."""
    extra = json.loads(message["extra"]) if message.get("extra") else {}
    return {key: value for key, value in message.items() if key != "extra"} | extra


def tools_of(row: dict) -> list | None:
    """The definitions of tools in a row of a split, which has them as JSON text."""
    return json.loads(row["tools"]) if row.get("tools") else None


def encode_prompt(tokenizer, prompt: list[dict], tools: list | None = None) -> list[int]:
    """Token ids of a prompt, up to and including the template's start of the assistant's turn.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        prompt: messages.
        tools: definitions of the tools that the assistant may call, for templates that show them.
    """
    chat = _Chat(tokenizer, prompt, tools)
    return chat.ids(chat.render(len(prompt), add_generation_prompt=True))


def encode(tokenizer, prompt: list[dict], completion: list[dict], tools: list | None = None) -> dict[str, list[int]]:
    """Token ids and labels of one example: {"input_ids", "labels"}, two lists of equal length.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        prompt: messages before the first response.
        completion: the first response and the turns after it: assistant, user, assistant, ... Each assistant turn, unless it has
            "train": False, and the end-of-turn token that closes it are labels; the user turns between are not.
        tools: as for `encode_prompt`.

    Raises:
        TemplateError: a response cannot be located in what the template renders, or a message is missing there.
        RowTemplateError: the template cannot render the tool calls or tool results, or a control token cannot be read as text.
    """
    chat = _Chat(tokenizer, prompt + completion, tools)
    boundaries = chat.boundaries(len(prompt))
    _check_boundaries(boundaries, [message for message in completion if message["role"] == "assistant"])
    input_ids = boundaries[-1]
    if len(input_ids) > 1 and input_ids[0] == input_ids[1] == tokenizer.bos_token_id:
        raise TemplateError("The chat template renders the beginning-of-sequence token twice. Remove one of the two.")
    labels = [IGNORE_INDEX] * len(input_ids)
    responses = [message for message in chat.messages[len(prompt) :] if message["role"] == "assistant"]
    for response, start, end in zip(responses, map(len, boundaries[::2]), map(len, boundaries[1::2]), strict=True):
        if response.get("train") is not False:
            labels[start:end] = input_ids[start:end]
    return {"input_ids": input_ids, "labels": labels}


def control_tokens(tokenizer, text: str) -> list[str]:
    """The special tokens of the tokenizer that stand in `text`, which it would not read as text by itself."""
    return [token for token in _special_tokens(tokenizer) if token in text]


def end_of_turn_id(tokenizer) -> int:
    """Id of the token that closes an assistant turn, at which generation stops."""
    prompt, completion = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    return encode(tokenizer, prompt, completion)["input_ids"][-1]


def template_sha256(tokenizer) -> str:
    """Hex sha256 of the chat template's text."""
    return sha256_bytes(tokenizer.chat_template.encode())


class _Chat:
    """The messages of one row, as the template renders them and the tokenizer reads them.

    Two kinds of content are encoded by themselves, with a marker in their place while the template is rendered: texts with a
    control token in them, so that it is read as text, and responses that start with white space, which the tokenizer would merge
    with the end of the generation prompt.
    """

    def __init__(self, tokenizer, messages: list[dict], tools: list | None):
        self.tokenizer, self.tools = tokenizer, tools
        self.messages = [unpacked(message) for message in messages]
        self.contents: dict[str, str] = {}
        self.marked = []
        for number, message in enumerate(self.messages):
            content, shown = message["content"], {key: value for key, value in message.items() if key != "train"}
            starts_blank = message["role"] == "assistant" and content[:1].isspace()
            if starts_blank or control_tokens(tokenizer, content):
                marker = f"\ue000content-{number}\ue001"
                self.contents[marker] = content
                shown["content"] = marker
            self.marked.append(shown)

    def ids(self, text: str) -> list[int]:
        """Token ids of a rendered text."""
        if not self.contents:
            return self.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids: list[int] = []
        for piece in filter(None, MARKER.split(text)):
            is_content = piece in self.contents
            piece = self.contents.get(piece, piece)
            piece_ids = self.tokenizer(piece, add_special_tokens=False, split_special_tokens=is_content)["input_ids"]
            if is_content and (read := _special_ids(self.tokenizer) & set(piece_ids)):
                token = self.tokenizer.convert_ids_to_tokens(min(read))
                raise RowTemplateError(f"has {token!r}, which this tokenizer cannot read as text")
            ids += piece_ids
        return ids

    def render(self, count: int, add_generation_prompt: bool) -> str:
        """The text of the first `count` messages. Raises as `encode` does."""
        messages = self.marked[:count]
        if not self.tokenizer.chat_template:
            raise TemplateError(
                "The tokenizer has no chat template. Use an instruction-tuned model, which has one, or add a chat_template.jinja to "
                "the model."
            )
        options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, "tokenize": False}
        try:
            text = self.tokenizer.apply_chat_template(messages, tools=self.tools, **options)
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
        ) as error:  # for example, a template that knows no system message
            roles = ", ".join(message["role"] for message in messages)
            failure = RowTemplateError if _has_tools(messages) else TemplateError
            raise failure(
                f"The chat template refuses messages with the roles {roles}: {error}. Remove the messages that it does not accept "
                f"(often the system message), or use another template."
            ) from error
        self._check_complete(messages, text)
        return text

    def _check_complete(self, messages: list[dict], text: str) -> None:
        """Raise if a message is not in the rendered text: some templates leave out what they do not know, without an error."""
        for message in messages:
            role, calls = message["role"], message.get("tool_calls") or []
            names = [str(call.get("function", call).get("name", "")) for call in calls]
            if message["content"].strip() in text and all(name in text for name in names):
                continue
            if role == "tool" or calls:
                called = "assistant (a tool call)" if calls else role
                raise RowTemplateError(
                    f"has a message with the role {called}, which the model's chat template does not render"
                )
            remedy = "Put its text into the prompt, or use a model whose template renders it"
            if role == "system":
                remedy = (
                    f"{remedy}. To train without the system messages on purpose, leave their column out: "
                    f'SET="data.columns.system=null"'
                )
            raise TemplateError(
                f"The chat template leaves out or changes the {role} message, without an error, so the model would never see its text: "
                f"{shortened(self.contents.get(message['content'], message['content']))}. {remedy}."
            )

    def boundaries(self, first: int) -> list[list[int]]:
        """Token ids up to the start of the first response, up to its end, up to the start of the second, and so on.

        Args:
            first: place of the first response among the messages.
        """
        text, boundaries = "", []
        for index in range(first, len(self.marked)):
            if self.marked[index]["role"] != "assistant":
                continue
            opening, closed = self._turn(index)
            if not opening.startswith(text):
                raise TemplateError(
                    f"The chat template renders an earlier response differently when more turns follow: {shortened(text)} "
                    f"became {shortened(opening)}. Use a template that keeps what it has rendered and only appends."
                )
            boundaries += [self.ids(opening), self.ids(closed)]
            text = closed
        return boundaries

    def _turn(self, index: int) -> tuple[str, str]:
        """The text up to the start of a response, and up to its end, including the token that closes it."""
        opening = self.render(index, add_generation_prompt=True)
        rendered = self.render(index + 1, add_generation_prompt=False)
        content = self.marked[index]["content"]
        if self.marked[index].get("tool_calls") and rendered.startswith(opening):
            end = rendered.rstrip().rfind(self._end_of_turn())
            content = rendered[len(opening) : end] if end >= len(opening) else content
        if not rendered.startswith(opening + content):
            raise TemplateError(
                "The chat template does not render a prompt and its response as the prompt, the generation prompt and then the "
                f"response unchanged, so the start of the labels cannot be located. It rendered {shortened(rendered)} for the response "
                f"{shortened(content)}. Use a template that inserts the content of a message as it is."
            )
        return opening, opening + content + _closing(self.tokenizer, rendered[len(opening) + len(content) :])

    def _end_of_turn(self) -> str:
        return self.tokenizer.convert_ids_to_tokens(end_of_turn_id(self.tokenizer))


def _has_tools(messages: list[dict]) -> bool:
    return any(message["role"] == "tool" or message.get("tool_calls") for message in messages)


def _check_boundaries(boundaries: list[list[int]], responses: list[dict]) -> None:
    """Raise `TemplateError` if a token crosses a boundary: then the ids up to there are not a prefix of all ids."""
    for number, boundary in enumerate(boundaries):
        if boundaries[-1][: len(boundary)] != boundary:
            place = (
                ("end of the prompt", "start of the response") if number % 2 == 0 else ("end of a turn", "next turn")
            )
            raise TemplateError(
                f"The tokenizer merges the {place[0]} with the {place[1]} {shortened(responses[number // 2]['content'])}, so training "
                f"would see other tokens than generation. End the template's generation prompt, and its turns, with a special "
                f"token or a newline."
            )


def _special_tokens(tokenizer) -> set[str]:
    """Texts that the tokenizer always turns into one control token."""
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}


def _special_ids(tokenizer) -> set[int]:
    unknown = tokenizer.unk_token_id  # what a word-level tokenizer gives for any other word
    return {number for number, token in tokenizer.added_tokens_decoder.items() if token.special and number != unknown}


def _closing(tokenizer, tail: str) -> str:
    """The first special token after the response, with the white space before it."""
    space = len(tail) - len(tail.lstrip())
    matches = [token for token in _special_tokens(tokenizer) if tail.startswith(token, space)]
    if not matches:
        raise TemplateError(
            f"The chat template closes a response with {shortened(tail)}, which does not start with a special token, so the model "
            f"could not learn where to stop. Use a template that closes each turn with a special token."
        )
    return tail[:space] + max(matches, key=len)
