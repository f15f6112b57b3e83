"""A row that is no pair is refused by its place, what is wrong with it and the remedy."""

import pytest

from minordpo.data.formats import describe_layouts, examples_from_rows
from minordpo.errors import InputError


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def load(*rows):
    return examples_from_rows(list(rows), source="memory")


TEXT = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
CHAT = {"prompt": [user("Sky?")], "chosen": [assistant("blue")], "rejected": [assistant("green")]}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "Sky?"}],
    "chosen": {"from": "gpt", "value": "blue"},
    "rejected": {"from": "gpt", "value": "green"},
}
ALPACA = {"instruction": "Translate", "chosen": "chat", "rejected": "chien"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {**TEXT, "chosen": None},
            "row 1 of memory: chosen is null, but text or a list of messages is needed",
        ),
        ({**TEXT, "rejected": 3.5}, "rejected is the number 3.5, but"),
        ({**TEXT, "rejected": True}, "rejected is true, but"),
        ({**TEXT, "prompt": b"x"}, "prompt is a value of type bytes, but"),
        ({**TEXT, "prompt": {"a": 1}}, "prompt is an object with the keys a, but"),
        (
            {**TEXT, "chosen": "\ud800"},
            r"chosen is text with half a character \(\\ud800\) at position 0, but whole",
        ),
        (
            {**TEXT, "chosen": [assistant("4")]},
            "prompt is text, chosen is messages, rejected is text, but they must",
        ),
        ({**TEXT, "chosen": "[{'role': 'a'}]", "rejected": '[{"role": "b"}]'}, "written out as text"),
        (
            {**CHAT, "chosen": ["blue"]},
            'message 1 of chosen is the text \'blue\', but {"role", "content"} is needed',
        ),
        ({**CHAT, "chosen": [{"role": "assistant"}]}, "the content of message 1 of chosen is null"),
        ({**CHAT, "chosen": [assistant(7)]}, "the content of message 1 of chosen is the number 7"),
        ({**CHAT, "chosen": [assistant([{"type": "image"}])]}, "a list with parts of type image, but text"),
        ({**CHAT, "chosen": [SHAREGPT["chosen"]]}, "from/value turns have their own layout"),
        ({**CHAT, "tools": "{oops"}, "tools is the text '{oops', but JSON text"),
        ({**CHAT, "tools": ["weather"]}, "tools is a list of 1, but a list of objects"),
        ({**CHAT, "chat_template_kwargs": "[1]"}, "chat_template_kwargs is a list of 1, but an object"),
        ({**SHAREGPT, "conversations": []}, "conversations is an empty list, but a list of"),
        (
            {**SHAREGPT, "conversations": [user("x")]},
            "turn 1 of conversations is an object with the keys role, con",
        ),
        (
            {**SHAREGPT, "conversations": [{"from": "bot", "value": ""}]},
            '"from" of turn 1 of conversations is the te',
        ),
        (
            {**SHAREGPT, "conversations": [{"from": "gpt", "value": None}]},
            "the value of turn 1 of conversations is n",
        ),
        ({**SHAREGPT, "chosen": "blue"}, 'chosen is the text \'blue\', but {"from", "value"} is needed'),
        (
            {**SHAREGPT, "chosen": {"from": "human", "value": "x"}},
            "\"from\" of chosen is the text 'human', but gpt",
        ),
        ({**SHAREGPT, "chosen": {"from": "function_call", "value": "x"}}, "but JSON text"),
        ({**SHAREGPT, "chosen": {"from": "function_call", "value": "[1]"}}, "the function_call of chosen is"),
        ({**ALPACA, "instruction": None}, "instruction is null, but text is needed"),
        ({**ALPACA, "chosen": ["chat"]}, "chosen is a list of 1, but text is needed"),
        ({**ALPACA, "history": [["Hi"]]}, r"history is a list of 1, but a list of \[user, assistant\] texts"),
        (
            {"instruction": "x", "output": ["chat"]},
            r"output is a list of 1, but \[chosen, rejected\] is needed",
        ),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_by_row_and_name(row, message):
    with pytest.raises(InputError, match=message):
        load(row)


@pytest.mark.parametrize(
    ("columns", "remedy"),
    [
        (("promt", "chosen", "rejected"), "TRL text, .*: rename 'promt' to 'prompt'"),
        (("question", "chosen", "rejected"), "TRL text, .*: rename 'question' to 'prompt'"),
        (
            ("prompt", "chosen_response", "rejected_response"),
            "rename 'chosen_response' to 'chosen', rename 'rejected_",
        ),
        (("prompt", "chosen"), "TRL text, .*: add rejected"),
        (("instruction", "output"), r"LLaMA-Factory Alpaca, older, .*make output a list of two"),
        (
            ("Prompt", "Chosen", "Rejected"),
            "rename 'Prompt' to 'prompt', rename 'Chosen' to 'chosen', rename 'R",
        ),
        (("text",), "has the columns text, which are no known layout"),
    ],
)
def test_an_unknown_layout_is_refused_with_the_nearest_and_all_layouts(columns, remedy):
    with pytest.raises(InputError, match=remedy) as refused:
        load(dict.fromkeys(columns, "The same words"))
    assert describe_layouts() in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (CHAT, r"row 2 of memory is laid out as TRL chat, but row 1 of memory is TRL text"),
        ({"prompt": "x", "chosen": "y"}, "row 2 of memory lacks rejected, but row 1 of memory is TRL text"),
        ({"chosen": "a b", "rejected": "a c"}, "row 2 of memory is laid out as TRL implicit text, but row 1"),
    ],
)
def test_a_row_laid_out_unlike_the_first_is_refused(row, message):
    with pytest.raises(InputError, match=message):
        load(TEXT, row)
