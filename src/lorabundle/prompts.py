"""The one chat rendering and the one response-only label mask, used by training, evaluation and sampling alike.

A row is rendered with the tokenizer's own chat template. Labels are -100 everywhere but on the response and the
end-of-turn token that closes it: that token is supervised (else the model never learns to stop), and what a template puts
after it (a newline, a second end token) is cut off. The mask goes by position, never by token id, because some
tokenizers, the default one among them, use the end-of-turn token for padding too.
"""

from reprlib import repr as shortened

from lorabundle.artifacts import sha256_bytes
from lorabundle.errors import TemplateError

IGNORE_INDEX = -100  # what torch's cross-entropy and transformers' collators leave out of the loss


def encode_prompt(tokenizer, prompt: list[dict]) -> list[int]:
    """Token ids of a prompt, ending with the template's opening of the assistant's turn.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        prompt: messages, each {"role", "content"}.
    """
    return tokenizer(_render(tokenizer, prompt, add_generation_prompt=True), add_special_tokens=False)["input_ids"]


def encode(tokenizer, prompt: list[dict], completion: list[dict]) -> dict[str, list[int]]:
    """Token ids and labels of one example: {"input_ids", "labels"}, two lists of equal length.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        prompt: messages before the response.
        completion: the one assistant message that is the response.

    Raises:
        TemplateError: the response cannot be located in what the template renders.
    """
    for message in prompt + completion:
        control = [token for token in _special_tokens(tokenizer) if token in message["content"]]
        if control:
            raise TemplateError(
                f"The {message['role']}'s text contains {control[0]!r}, which the tokenizer would read as a control token "
                f"(and so as the end of a turn, say): {shortened(message['content'])}. Remove it from the data."
            )
    opening = _render(tokenizer, prompt, add_generation_prompt=True)
    whole = _render(tokenizer, prompt + completion, add_generation_prompt=False)
    response = completion[0]["content"]
    if not whole.startswith(opening + response):
        raise TemplateError(
            "The chat template does not render prompt + response as the prompt, its generation prompt and then the "
            f"response unchanged, so the label mask has no place to start. It gave {shortened(whole)} for the response "
            f"{shortened(response)}. Use a template that inserts the message content as it is."
        )
    text = opening + response + _closing(tokenizer, whole[len(opening) + len(response) :])
    prompt_ids = tokenizer(opening, add_special_tokens=False)["input_ids"]
    input_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if input_ids[: len(prompt_ids)] != prompt_ids:
        raise TemplateError(
            f"The tokenizer merges the end of the prompt with the start of the response {shortened(response)}, so the tokens "
            f"seen in training would not be those seen in generation. End the template's generation prompt with a "
            f"special token or a newline."
        )
    if len(input_ids) > 1 and input_ids[0] == input_ids[1] == tokenizer.bos_token_id:
        raise TemplateError("The chat template renders the beginning-of-sequence token twice. Remove one of the two.")
    return {"input_ids": input_ids, "labels": [IGNORE_INDEX] * len(prompt_ids) + input_ids[len(prompt_ids) :]}


def end_of_turn_id(tokenizer) -> int:
    """Id of the token that closes an assistant turn: the stop token of generation."""
    probe = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}]
    return encode(tokenizer, *probe)["input_ids"][-1]


def template_sha256(tokenizer) -> str:
    """Hex sha256 of the chat template's text."""
    return sha256_bytes(tokenizer.chat_template.encode())


def _render(tokenizer, messages: list[dict], add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise TemplateError(
            "The tokenizer has no chat template. Add a chat_template.jinja to the model's folder, or use an "
            "instruction-tuned model, which carries one."
        )
    return tokenizer.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)


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
