"""A row that is no example is refused by its place, what is wrong with it and the remedy."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minordpo.data.read.examples import examples_from_rows, load_examples
from minordpo.data.read.recognise import LAYOUTS
from minordpo.errors import InputError


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def turn(role, value):
    return {"from": role, "value": value}


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
LABELLED = {"prompt": "2+2=", "completion": "4", "label": True}
LABELLED_CHAT = {"prompt": [user("Sky?")], "completion": [assistant("green")], "label": False}
LABELLED_TURNS = {"messages": [user("Sky?"), assistant("blue")], "label": True}
LABELLED_ALPACA = {"instruction": "Translate", "input": "cat", "output": "chat", "kto_tag": True}
RANKED = {"prompt": "2+2=", "responses": ["5", "4", "four"], "scores": [-3, 0.5, 0.25]}
RANKED_CHAT = {
    "prompt": [user("Sky?")],
    "responses": [[assistant("green")], [assistant("blue")]],
    "ranks": [2, 1],
}


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
        (
            ("Prompt", "chosen_response", "rejectd"),
            r"TRL text, .*: rename .* \(or say data.columns.prompt=Prompt data.columns.chosen=chosen_response data",
        ),
        (("prompt", "chosen"), "TRL text, .*: add rejected"),
        (("instruction", "output"), "LLaMA-Factory Alpaca for KTO, .*: add kto_tag or label"),
        (
            ("Prompt", "Chosen", "Rejected"),
            "rename 'Prompt' to 'prompt', rename 'Chosen' to 'chosen', rename 'R",
        ),
    ],
)
def test_an_unknown_layout_is_refused_with_the_nearest_and_no_other(columns, remedy):
    with pytest.raises(InputError, match=remedy) as refused:
        load(dict.fromkeys(columns, "The same words"))
    others = [layout.shape for layout in LAYOUTS if layout.shape in str(refused.value)]
    assert len(others) == 1
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "row",
    [
        {"text": "Sky? blue"},
        {"prompt": "Sky?", "responses": "blue", "scores": 1, "ranks": 2},
        {"chosen_text": 1, "rejected_text": 2},
        {},
    ],
)
def test_a_row_that_no_remedy_leads_on_from_gets_no_nearest_layout(row):
    with pytest.raises(InputError) as refused:
        load(row)
    assert "The nearest" not in str(refused.value)
    assert "\n" not in str(refused.value)


NAMES = (
    *(
        "promt",
        "prompt",
        "question",
        "query",
        "chosen",
        "choosen",
        "accepted",
        "rejected",
        "reject",
        "responses",
    ),
    *(
        "scores",
        "score",
        "rank",
        "completion",
        "response",
        "label",
        "kto_tag",
        "instruction",
        "output",
        "messages",
    ),
    *("conversations", "answers", "generations", "ratings", "input", "context", "winner"),
)


@given(
    st.lists(
        st.sampled_from(NAMES),
        unique=True,
    ),
    st.sampled_from(["Sky?", ["blue", "green"], [3, 1], True, [user("Sky?"), assistant("blue")]]),
)
def test_what_a_hint_proposes_is_accepted(columns, value):
    row = dict.fromkeys(columns, value)
    try:
        load(row)
    except InputError as error:
        hint = str(error).partition("The nearest is ")[2]
    else:
        return
    if not hint:
        return
    layout = next(each for each in LAYOUTS if hint.startswith(f"{each.name}, {each.shape}"))
    renames = re.findall(r"rename '(\w+)' to '(\w+)'", hint)
    assert renames or ": add " in hint
    for old, new in renames:
        row[new] = row.pop(old)
    added = re.search(r": (?:rename.*, )?add (.*)\.$", hint)
    for column in re.split(" and ", added[1]) if added else ():
        name = next(each for each in column.split(" or ") if each in layout.example)
        row[name] = layout.example[name]
    assert load(row).layout == layout.name


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


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "2+2=", "completion": "4"},
            r"row 1 of memory has a completion without label, but a label .* is needed by all that learns from "
            r"single responses\. Add label; for pairs, name the responses chosen and rejected\.",
        ),
        ({"prompt": "2+2=", "completion": "4", "kto_tag": True}, r"Rename 'kto_tag' to 'label'; for pairs"),
        (
            {**LABELLED, "label": None},
            r"label is null, but true \(desirable\) or false is needed\. Fix the row",
        ),
        ({**LABELLED, "label": "true"}, r"label is the text 'true', but true .* or false without quotes is"),
        ({**LABELLED, "label": 2}, "label is the number 2, but true"),
        ({**LABELLED, "label": 0.5}, "label is the number 0.5, but true"),
        ({**LABELLED, "label": float("nan")}, "label is the number nan, but true"),
        ({**LABELLED, "label": [True]}, "label is a list of 1, but true"),
        ({**LABELLED, "completion": None}, "completion is null, but text or a list of messages"),
        (
            {**LABELLED, "completion": [assistant("4")]},
            "prompt is text, completion is messages, but they must",
        ),
        (
            {**LABELLED, "completion": '[{"role": "a"}]'},
            "completion is a list of messages written out as text",
        ),
        ({**LABELLED_CHAT, "completion": ["green"]}, "message 1 of completion is the text 'green', but"),
        ({**LABELLED_TURNS, "label": None}, "label is null, but true"),
        ({**LABELLED_TURNS, "kto_tag": None, "label": "no"}, "label is the text 'no', but true"),
        ({"messages": None, "label": True}, "messages is null, but"),
        ({**LABELLED_TURNS, "messages": []}, "messages is an empty list, but a list of"),
        ({**LABELLED_TURNS, "messages": "Sky?"}, "messages is the text 'Sky\\?', but a list of"),
        (
            {**LABELLED_TURNS, "messages": [assistant("blue")]},
            "messages is a list of 1 whose last turn is of the role 'assistant', but a prompt and, last, the assist",
        ),
        (
            {"conversations": [turn("gpt", "Hi"), turn("human", "Sky?")], "kto_tag": True},
            "conversations is a list of 2 whose last turn is of the role 'user', but a prompt and, last, the assist",
        ),
        ({**LABELLED_ALPACA, "kto_tag": "yes"}, "kto_tag is the text 'yes', but true"),
    ],
)
def test_a_labelled_row_that_is_none_is_refused_by_row_and_remedy(row, message):
    with pytest.raises(InputError, match=message) as refused:
        load(row)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scores": [0.5, 1, 2, 0.5], "responses": ["a", "b", "c", "d"]},
            r"row 1 of memory: responses 1 and 4 both have the score 0\.5, but ranked responses need an order\. "
            r"Break the tie or drop one of them\.",
        ),
        ({"scores": None, "ranks": [1, 2, 2.0]}, "responses 2 and 3 both have the rank 2, but ranked"),
        (
            {"scores": None},
            r"responses come with neither ranks nor scores, but one of the two .* Add it or drop",
        ),
        (
            {"ranks": [1, 2, 3]},
            r"responses come with both ranks and scores, but one of the two .* Take one out",
        ),
        ({"scores": 3}, "scores is the number 3, but a list of numbers is needed"),
        ({"scores": [1, 2]}, "scores is a list of 2, but a number for each of the 3 responses is needed"),
        ({"scores": [1, None, 2]}, "score 2 is null, but a finite number is needed"),
        ({"scores": [1, "2", 3]}, "score 2 is the text '2', but a finite number"),
        ({"scores": [True, False, 3]}, "score 1 is true, but a finite number"),
        ({"scores": [1, 2, float("nan")]}, "score 3 is the number nan, but a finite number"),
        ({"scores": [1, float("-inf"), 3]}, "score 2 is the number -inf, but a finite number"),
        (
            {"scores": None, "ranks": [0.9, 0.5, 0.1]},
            r"rank 1 is the number 0\.9, but whole numbers from 1 \(the best\) on are needed\. Count so, or name "
            r"the column scores if higher is better\.",
        ),
        ({"scores": None, "ranks": [0, 1, 2]}, "rank 1 is the number 0, but whole numbers from 1"),
        (
            {"responses": ["4"], "scores": [1]},
            r"responses is a list of 1, but two or more are needed to rank them",
        ),
        ({"responses": []}, "responses is an empty list, but two or more are needed"),
        ({"responses": None}, "responses is null, but a list of texts, or of lists of messages, is needed"),
        ({"responses": '["4", "5"]'}, r"lists of messages, \(a \.csv file cannot hold one: save the rows as"),
        ({"responses": ["4", None, "5"]}, "response 2 is null, but text or a list of messages"),
        (
            {"responses": ["4", "5", [assistant("6")]]},
            "prompt is text, response 3 is messages, but they must",
        ),
        ({"responses": [[assistant("4")]] * 3}, "prompt is text, response 1 is messages, but they must"),
        (
            {"responses": [assistant("4")] * 3},
            "response 1 is an object with the keys role, content, but text or",
        ),
        ({"responses": ["[{'role': 'a'}]"] * 3}, "the responses are lists of messages written out as text"),
        ({"responses": ["4", "\ud800", "5"]}, r"response 2 is text with half a character"),
        ({"prompt": None}, "prompt is null, but text or a list of messages"),
    ],
)
def test_a_ranked_row_that_is_none_is_refused_by_row_and_remedy(changes, message):
    with pytest.raises(InputError, match=message) as refused:
        load({**RANKED, **changes})
    assert "\n" not in str(refused.value)


def test_the_row_of_a_tie_is_named_as_its_owner_counts_it(tmp_path):
    source = tmp_path / "f.jsonl"
    source.write_text(
        f"{json.dumps(RANKED)}\n\n{json.dumps({**RANKED, 'scores': [1, 1, 0]})}\n", encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"line 3 of .*f\.jsonl: responses 1 and 2 both have the score 1"):
        load_examples(str(source))


@pytest.mark.parametrize(
    ("row", "remedy"),
    [
        (
            {"question": "Sky?", "completion": "blue", "label": True},
            "TRL unpaired text, .*: rename 'question' to 'prompt'",
        ),
        (
            {"prompt": "Sky?", "response": "blue", "label": True},
            "TRL unpaired text, .*: rename 'response' to 'completion'",
        ),
        ({"completion": "blue", "label": True}, "TRL unpaired text, .*: add prompt"),
        (
            {"question": "Sky?", "responses": ["blue", "red"], "scores": [2, 1]},
            "ranked text, .*: rename 'question' to 'prompt'",
        ),
        (
            {"prompt": "Sky?", "answers": ["blue", "red"], "rewards": [2, 1]},
            "ranked text, .*: rename 'answers' to 'responses', rename 'rewards' to",
        ),
        (
            {"instruction": "Sky?", "response": "blue", "kto_tag": True},
            "TRL unpaired text, .*: rename 'instruction' to 'prompt', rename 'response' to 'completion', rename",
        ),
        ({"instruction": "Sky?", "kto_tag": True}, "Alpaca for KTO, .*: add output"),
    ],
)
def test_unknown_graded_columns_are_refused_with_the_nearest_layout(row, remedy):
    with pytest.raises(InputError, match=rf"The nearest is (LLaMA-Factory )?{remedy}"):
        load(row)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (TEXT, LABELLED, "row 2 of memory is laid out as TRL unpaired text, but row 1 of memory is TRL text"),
        (LABELLED, TEXT, "row 2 of memory is laid out as TRL text, but row 1 of memory is TRL unpaired text"),
        (LABELLED, RANKED, "is laid out as ranked text, but row 1 of memory is TRL unpaired text"),
        (
            LABELLED,
            LABELLED_CHAT,
            "is laid out as TRL unpaired chat, but row 1 of memory is TRL unpaired text",
        ),
        (RANKED, RANKED_CHAT, "is laid out as ranked chat, but row 1 of memory is ranked text"),
        (
            RANKED,
            {"query": "2+2="},
            "row 2 of memory lacks responses and ranks or scores, but row 1 of memory",
        ),
        (
            LABELLED_TURNS,
            {"messages": []},
            "row 2 of memory lacks kto_tag or label, but row 1 of memory is LLaMA",
        ),
    ],
)
def test_a_graded_row_laid_out_unlike_the_first_is_refused(first, second, message):
    with pytest.raises(InputError, match=message):
        load(first, second)
