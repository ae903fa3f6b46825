"""The one chat rendering and the one response-only label mask, for training, evaluation and sampling.

A row is rendered with the tokenizer's own chat template. Only each response and the end-of-turn token that closes it are
labels; all other labels are -100. The end-of-turn token must be a label, or the model never learns to stop. Whatever a template
puts after it (a newline, a second end token) is cut off. The mask depends on positions, never on token ids, because some
tokenizers, including the default one, also use the end-of-turn token for padding.
"""

from reprlib import repr as shortened

import jinja2

from lorabundle.core.errors import TemplateError
from lorabundle.core.files import sha256_bytes

IGNORE_INDEX = -100  # labels that torch's cross-entropy and transformers' collators ignore


def encode_prompt(tokenizer, prompt: list[dict]) -> list[int]:
    """Token ids of a prompt, up to and including the template's start of the assistant's turn.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        prompt: messages, each {"role", "content"}.
    """
    return _ids(tokenizer, _render(tokenizer, prompt, add_generation_prompt=True))


def encode(tokenizer, prompt: list[dict], completion: list[dict]) -> dict[str, list[int]]:
    """Token ids and labels of one example: {"input_ids", "labels"}, two lists of equal length.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        prompt: messages before the first response.
        completion: the first response and the turns after it: assistant, user, assistant, ... Each assistant turn and the
            end-of-turn token that closes it are labels; the user turns between are not.

    Raises:
        TemplateError: a response cannot be located in what the template renders.
    """
    for message in prompt + completion:
        if control := control_token(tokenizer, message["content"]):
            raise TemplateError(
                f"The {message['role']}'s text contains {control!r}, which the tokenizer reads as a control token and not as "
                f"text: {shortened(message['content'])}. Remove it from the data."
            )
    boundaries = _boundaries(tokenizer, prompt, completion)
    _check_boundaries(boundaries, completion)
    input_ids = boundaries[-1]
    if len(input_ids) > 1 and input_ids[0] == input_ids[1] == tokenizer.bos_token_id:
        raise TemplateError("The chat template renders the beginning-of-sequence token twice. Remove one of the two.")
    labels = [IGNORE_INDEX] * len(input_ids)
    for start, end in zip(map(len, boundaries[::2]), map(len, boundaries[1::2]), strict=True):
        labels[start:end] = input_ids[start:end]
    return {"input_ids": input_ids, "labels": labels}


def control_token(tokenizer, text: str) -> str | None:
    """A special token of the tokenizer that `text` contains, if any: the tokenizer would not read it as text."""
    return next((token for token in _special_tokens(tokenizer) if token in text), None)


def end_of_turn_id(tokenizer) -> int:
    """Id of the token that closes an assistant turn, at which generation stops."""
    prompt, completion = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    return encode(tokenizer, prompt, completion)["input_ids"][-1]


def template_sha256(tokenizer) -> str:
    """Hex sha256 of the chat template's text."""
    return sha256_bytes(tokenizer.chat_template.encode())


def _boundaries(tokenizer, prompt: list[dict], completion: list[dict]) -> list[list[int]]:
    """Token ids up to the start of the first response, up to its end, up to the start of the second, and so on."""
    text, boundaries = "", []
    for index, message in enumerate(completion):
        if message["role"] == "assistant":
            opening, closed = _turn(tokenizer, prompt + completion[:index], message)
            if not opening.startswith(text):
                raise TemplateError(
                    f"The chat template renders an earlier response differently when more turns follow: {shortened(text)} "
                    f"became {shortened(opening)}. Use a template that keeps what it has rendered and only appends."
                )
            boundaries += [_ids(tokenizer, opening), _ids(tokenizer, closed)]
            text = closed
    return boundaries


def _check_boundaries(boundaries: list[list[int]], completion: list[dict]) -> None:
    """Raise `TemplateError` if a token crosses a boundary: then the ids up to there are not a prefix of all ids."""
    for number, boundary in enumerate(boundaries):
        if boundaries[-1][: len(boundary)] != boundary:
            place = (
                ("end of the prompt", "start of the response") if number % 2 == 0 else ("end of a turn", "next turn")
            )
            raise TemplateError(
                f"The tokenizer merges the {place[0]} with the {place[1]} {shortened(completion[number]['content'])}, so training "
                f"would see other tokens than generation. End the template's generation prompt, and its turns, with a special "
                f"token or a newline."
            )


def _turn(tokenizer, before: list[dict], response: dict) -> tuple[str, str]:
    """The text up to the start of a response, and up to its end, including the token that closes it."""
    opening = _render(tokenizer, before, add_generation_prompt=True)
    rendered = _render(tokenizer, [*before, response], add_generation_prompt=False)
    content = response["content"]
    if not rendered.startswith(opening + content):
        raise TemplateError(
            "The chat template does not render a prompt and its response as the prompt, the generation prompt and then the "
            f"response unchanged, so the start of the labels cannot be located. It rendered {shortened(rendered)} for the response "
            f"{shortened(content)}. Use a template that inserts the content of a message as it is."
        )
    return opening, opening + content + _closing(tokenizer, rendered[len(opening) + len(content) :])


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _render(tokenizer, messages: list[dict], add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise TemplateError(
            "The tokenizer has no chat template. Use an instruction-tuned model, which has one, or add a chat_template.jinja to "
            "the model."
        )
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    except jinja2.TemplateError as error:  # for example, a template that knows no system message
        roles = ", ".join(message["role"] for message in messages)
        raise TemplateError(
            f"The chat template refuses messages with the roles {roles}: {error}. Remove the messages that it does not accept "
            f"(often the system message), or use another template."
        ) from error


def _special_tokens(tokenizer) -> set[str]:
    """Texts that the tokenizer always turns into one control token."""
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}


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
