"""The chat rendering and the label mask, by exact token ids.

Ids of the word tokenizer: <|im_start|> 0, <|im_end|> 1, newline 3, user 5, assistant 6, hello 7, there 8, general 9.
"""

import pytest

from lorabundle.core.errors import RowTemplateError, TemplateError
from lorabundle.model import prompts
from tests.conftest import ask, word_tokenizer

IGNORED = prompts.IGNORE_INDEX


def encode(tokenizer, question: str, answer: str) -> dict:
    record = ask(question, answer)
    return prompts.encode(tokenizer, record["prompt"], record["completion"])


def test_mask_covers_the_response_and_its_end_of_turn_and_nothing_else(tokenizer):
    encoded = encode(tokenizer, "hello there", "general")
    #                      <start> user \n hello there <end> \n <start> assistant \n general <end>
    assert encoded["input_ids"] == [0, 5, 3, 7, 8, 1, 3, 0, 6, 3, 9, 1]
    assert encoded["labels"] == [IGNORED] * 10 + [9, 1]


def test_end_of_turn_is_supervised_even_though_it_is_the_padding_token(tokenizer):
    """A known mistake: with pad = eos, a mask by token id hides the one token that teaches the model to stop."""
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1
    assert encode(tokenizer, "hello", "there")["labels"][-1] == 1


def test_what_the_template_puts_after_the_end_of_turn_is_cut_off(tokenizer):
    """Phi-3's template ends with a newline and a second end token; neither is part of the answer."""
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{% if add", "{% if not add_generation_prompt %}[UNK]{% endif %}{% if add"
    )
    assert encode(tokenizer, "hello there", "general")["input_ids"][-2:] == [9, 1]


def chat(*contents: str) -> list[dict]:
    """Turns of assistant and user, in turn, as a completion has them."""
    return [{"role": ("assistant", "user")[n % 2], "content": content} for n, content in enumerate(contents)]


def test_every_assistant_turn_is_supervised_and_nothing_else(tokenizer):
    prompt = [{"role": "system", "content": "robe"}, {"role": "user", "content": "hello"}]
    encoded = prompts.encode(tokenizer, prompt, chat("there", "what is", "it a"))
    # fmt: off
    assert encoded["input_ids"] == [
        0, 4, 3, 14, 1, 3, 0, 5, 3, 7, 1, 3, 0, 6, 3,  # <start> system \n robe <end> \n <start> user \n hello <end> \n <start> assistant \n
        8, 1,                                          # there <end>
        3, 0, 5, 3, 10, 11, 1, 3, 0, 6, 3,             # \n <start> user \n what is <end> \n <start> assistant \n
        12, 13, 1,                                     # it a <end>
    ]
    # fmt: on
    assert encoded["labels"] == [IGNORED] * 15 + [8, 1] + [IGNORED] * 11 + [12, 13, 1]


def test_more_turns_change_nothing_before_them(tokenizer):
    prompt = [{"role": "user", "content": "hello"}]
    short, long = (prompts.encode(tokenizer, prompt, chat(*words)) for words in (["there"], ["there", "what", "it"]))
    for key in ("input_ids", "labels"):
        assert long[key][: len(short[key])] == short[key]


def test_template_that_drops_earlier_answers(tokenizer):
    """Templates of reasoning models leave out the thinking of earlier turns."""
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "m['content'] +", "(m['content'] if loop.last or m['role'] == 'user' else '') +"
    )
    with pytest.raises(TemplateError, match="leaves out or changes the assistant message"):
        prompts.encode(tokenizer, [{"role": "user", "content": "hello"}], chat("there", "what", "it"))


def test_template_that_refuses_a_role(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no system message, please') }}"
    with pytest.raises(TemplateError, match=r"refuses messages with the roles user: no system message"):
        encode(tokenizer, "hello", "there")


def test_generation_starts_where_the_labels_start(tokenizer):
    record = ask("hello there", "general")
    opening = prompts.encode_prompt(tokenizer, record["prompt"])
    encoded = prompts.encode(tokenizer, record["prompt"], record["completion"])
    assert encoded["input_ids"][: len(opening)] == opening
    assert encoded["labels"].index(9) == len(opening)


def test_end_of_turn_id(tokenizer):
    assert prompts.end_of_turn_id(tokenizer) == 1


def test_no_chat_template(tokenizer):
    tokenizer.chat_template = None
    with pytest.raises(TemplateError, match="no chat template"):
        encode(tokenizer, "hello", "there")


def test_template_that_changes_the_response(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("m['content']", "m['content'] | upper")
    with pytest.raises(TemplateError, match="leaves out or changes the user message"):
        encode(tokenizer, "hello", "there")


def test_template_without_end_of_turn(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("'<|im_end|>'", "'b'")
    with pytest.raises(TemplateError, match="does not start with a special token"):
        encode(tokenizer, "hello", "there")


def test_doubled_beginning_of_sequence(tokenizer):
    tokenizer.chat_template = "<|im_start|>" + tokenizer.chat_template
    with pytest.raises(TemplateError, match="twice"):
        encode(tokenizer, "hello", "there")


def test_prompt_that_merges_with_the_response():
    tokenizer = word_tokenizer(["hello", "there", "nthere"])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>assistant\n", "<|im_start|>assistant n")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "m['role'] + '\n'", "m['role'] + (' n' if m['role'] == 'assistant' else '\n')"
    )
    with pytest.raises(TemplateError, match="merges the end of the prompt"):
        encode(tokenizer, "hello", "there")


def test_control_token_in_the_data(tokenizer):
    """A row that says <|im_end|> would end its own turn. This tokenizer, of whole words, cannot read it as text; others can."""
    with pytest.raises(RowTemplateError, match="cannot read as text"):
        encode(tokenizer, "hello", "there <|im_end|>")
    encoded = encode(tokenizer, "hello", "there<|im_end|>")
    assert encoded["labels"][-2:] == [tokenizer.unk_token_id, tokenizer.eos_token_id]


def test_a_response_that_starts_with_white_space_is_encoded_by_itself(tokenizer):
    """Else a tokenizer may merge its indent with the line break before it."""
    record = ask("hello", "\n there")
    encoded = prompts.encode(tokenizer, record["prompt"], record["completion"])
    opening = prompts.encode_prompt(tokenizer, record["prompt"])
    assert encoded["input_ids"][: len(opening)] == opening
    assert tokenizer.decode(encoded["input_ids"][len(opening) :]).split() == ["there", "<|im_end|>"]


def test_turns_that_are_not_to_be_learnt_have_no_labels(tokenizer):
    completion = chat("there", "what", "it")
    completion[0]["train"] = False
    encoded = prompts.encode(tokenizer, [{"role": "user", "content": "hello"}], completion)
    assert tokenizer.decode([label for label in encoded["labels"] if label >= 0]) == "it <|im_end|>"


def test_a_message_comes_back_from_a_file_as_it_was():
    message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}], "train": False}
    assert prompts.unpacked(prompts.packed(message)) == message
    assert prompts.packed({"role": "user", "content": "a"}) == {"role": "user", "content": "a", "extra": None}


TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\n' + tools[0]['function']['name'] + '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ 'call ' + c['function']['name'] }}{% endfor %}{% endif %}"
    "{{ m['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_tool_call_is_learnt_as_the_template_renders_it():
    tokenizer = word_tokenizer(["hello", "there", "call", "door", "robe", "tool"])
    tokenizer.chat_template = TOOLS
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "door"}}]}
    completion = [call, {"role": "tool", "content": "robe"}, {"role": "assistant", "content": "there"}]
    tools = [{"type": "function", "function": {"name": "door"}}]
    encoded = prompts.encode(tokenizer, [{"role": "user", "content": "hello"}], completion, tools)
    learnt = tokenizer.decode([label for label in encoded["labels"] if label >= 0])
    assert learnt == "call door <|im_end|> there <|im_end|>"
    assert tokenizer.decode(encoded["input_ids"]).split()[:3] == ["<|im_start|>", "system", "door"]


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_a_template_that_leaves_out_a_role_is_named(tokenizer, role):
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{% for m in messages %}", f"{{% for m in messages if m['role'] != '{role}' %}}"
    )
    record = ask("hello", "there")
    record["prompt"].insert(0, {"role": "system", "content": "general"})
    with pytest.raises(TemplateError, match=f"leaves out or changes the {role} message"):
        prompts.encode(tokenizer, record["prompt"], record["completion"])
