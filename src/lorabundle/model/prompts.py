"""The one chat rendering and the one response-only label mask, used by training, evaluation and sampling alike.

A row is rendered with the tokenizer's own chat template. Labels are -100 everywhere but on each response and the
end-of-turn token that closes it: that token is supervised (else the model never learns to stop), and what a template puts
after it (a newline, a second end token) is cut off. The mask goes by position, never by token id, because some
tokenizers, the default one among them, use the end-of-turn token for padding too.
"""

from reprlib import repr as shortened

import jinja2

from lorabundle.core.errors import TemplateError
from lorabundle.core.files import sha256_bytes

IGNORE_INDEX = -100  # what torch's cross-entropy and transformers' collators leave out of the loss


def encode_prompt(tokenizer, prompt: list[dict]) -> list[int]:
    """Token ids of a prompt, ending with the template's opening of the assistant's turn.

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
        completion: the first response and what follows: assistant, user, assistant, ... Each assistant turn and the
            end-of-turn token that closes it are labels; the user turns between are not.

    Raises:
        TemplateError: a response cannot be located in what the template renders.
    """
    for message in prompt + completion:
        if control := control_token(tokenizer, message["content"]):
            raise TemplateError(
                f"The {message['role']}'s text contains {control!r}, which the tokenizer would read as a control token "
                f"(and so as the end of a turn, say): {shortened(message['content'])}. Remove it from the data."
            )
    text, boundaries = "", []  # a boundary: token ids up to where a response starts, and up to where it ends
    for index, message in enumerate(completion):
        if message["role"] == "assistant":
            opening, closed = _turn(tokenizer, prompt + completion[:index], message)
            if not opening.startswith(text):
                raise TemplateError(
                    f"The chat template renders an earlier response differently once more turns follow: "
                    f"{shortened(text)} became {shortened(opening)}. Use a template that only adds to what it rendered."
                )
            boundaries += [_ids(tokenizer, opening), _ids(tokenizer, closed)]
            text = closed
    input_ids = boundaries[-1]
    for number, boundary in enumerate(boundaries):
        if input_ids[: len(boundary)] != boundary:
            raise TemplateError(
                f"The tokenizer merges the {'end of a turn' if number % 2 else 'end of the prompt'} with the start of the "
                f"{'next' if number % 2 else 'response'} {shortened(completion[number]['content'])}, so the tokens "
                f"seen in training would not be those seen in generation. End the template's generation prompt, and its "
                f"turns, with a special token or a newline."
            )
    if len(input_ids) > 1 and input_ids[0] == input_ids[1] == tokenizer.bos_token_id:
        raise TemplateError("The chat template renders the beginning-of-sequence token twice. Remove one of the two.")
    labels = [IGNORE_INDEX] * len(input_ids)
    for start, end in zip(map(len, boundaries[::2]), map(len, boundaries[1::2]), strict=True):
        labels[start:end] = input_ids[start:end]
    return {"input_ids": input_ids, "labels": labels}


def control_token(tokenizer, text: str) -> str | None:
    """The first special token of the tokenizer that stands in `text`: it would be read as the token, not as text."""
    return next((token for token in _special_tokens(tokenizer) if token in text), None)


def end_of_turn_id(tokenizer) -> int:
    """Id of the token that closes an assistant turn: the stop token of generation."""
    probe = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    return encode(tokenizer, *probe)["input_ids"][-1]


def template_sha256(tokenizer) -> str:
    """Hex sha256 of the chat template's text."""
    return sha256_bytes(tokenizer.chat_template.encode())


def _turn(tokenizer, before: list[dict], response: dict) -> tuple[str, str]:
    """The text up to where a response starts, and up to its end, the token that closes it included."""
    opening = _render(tokenizer, before, add_generation_prompt=True)
    whole = _render(tokenizer, [*before, response], add_generation_prompt=False)
    content = response["content"]
    if not whole.startswith(opening + content):
        raise TemplateError(
            "The chat template does not render prompt + response as the prompt, its generation prompt and then the "
            f"response unchanged, so the label mask has no place to start. It gave {shortened(whole)} for the response "
            f"{shortened(content)}. Use a template that inserts the message content as it is."
        )
    return opening, opening + content + _closing(tokenizer, whole[len(opening) + len(content) :])


def _ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _render(tokenizer, messages: list[dict], add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise TemplateError(
            "The tokenizer has no chat template. Add a chat_template.jinja to the model's folder, or use an "
            "instruction-tuned model, which carries one."
        )
    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    except jinja2.TemplateError as error:  # templates refuse what they do not know: a system message, an odd order
        roles = ", ".join(message["role"] for message in messages)
        raise TemplateError(
            f"The chat template refuses messages with the roles {roles}: {error}. Leave out what it names (a system "
            f"message, say), or use another template."
        ) from error


def _special_tokens(tokenizer) -> set[str]:
    """Texts that the tokenizer turns into one control token wherever they stand."""
    return {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}


def _closing(tokenizer, tail: str) -> str:
    """The first special token after the response, with any white space before it."""
    space = len(tail) - len(tail.lstrip())
    matches = [token for token in _special_tokens(tokenizer) if tail.startswith(token, space)]
    if not matches:
        raise TemplateError(
            f"The chat template puts {shortened(tail)} after a response, which starts with no special token, so the model could "
            f"not learn where to stop. Use a template that closes each turn with a special token."
        )
    return tail[:space] + max(matches, key=len)
