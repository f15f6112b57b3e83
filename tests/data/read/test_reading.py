"""Columns that go by other names, and rows of text that become chats."""

from __future__ import annotations

import json

import pytest

from minordpo.data.read.examples import examples_from_rows, load_examples
from minordpo.data.read.reading import ReadOptions
from minordpo.errors import InputError


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def load(*rows, columns=None, **how):
    reading = ReadOptions.of(columns, **how)
    return examples_from_rows(list(rows), source="memory", reading=reading)


def only(*rows, **how):
    (example,) = load(*rows, **how).examples
    return example


ROW = {"instruction_text": "Sky?", "better": "blue", "worse": "green", "note": "x"}
COLUMNS = {"prompt": "instruction_text", "chosen": "better", "rejected": "worse"}
TEXT = {"prompt": "Sky?", "chosen": "blue", "rejected": "green"}


def test_columns_are_read_under_the_names_that_are_given():
    loaded = load(ROW, columns=COLUMNS)
    assert (loaded.layout, loaded.examples[0].prompt) == ("TRL text", "Sky?")
    assert loaded.examples[0].responses == ("blue", "green")
    assert {each.what for each in loaded.unread} == {"column note"}


def test_a_column_of_the_name_that_another_is_read_as_is_told():
    loaded = load({**TEXT, "short": "Sea?"}, columns={"prompt": "short"})
    assert loaded.examples[0].prompt == "Sea?"
    assert {each.what for each in loaded.unread} == {"column prompt (own)"}


def test_columns_may_be_given_for_any_layout():
    row = {"turns": [{"from": "human", "value": "Sky?"}], "chosen": {"from": "gpt", "value": "blue"}}
    row["rejected"] = {"from": "gpt", "value": "green"}
    assert only(row, columns={"conversations": "turns"}).prompt == [user("Sky?")]
    ranked = {"q": "Sky?", "texts": ["green", "blue"], "marks": [1, 2]}
    loaded = load(ranked, columns={"prompt": "q", "responses": "texts", "scores": "marks"})
    assert (loaded.layout, loaded.examples[0].responses) == ("ranked text", ("blue", "green"))


def test_null_says_that_there_is_no_such_column():
    row = {"ask": "Sky?", "prompt": "p", "chosen": "Sea? It is blue", "rejected": "Sea? It is green"}
    loaded = load(row, columns={"prompt": None})
    assert (loaded.layout, loaded.examples[0].prompt) == ("TRL implicit text", "Sea? It is")
    assert {each.what for each in loaded.unread} == {"column ask", "column prompt (own)"}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"promt": "ask"}, "data.columns names the column 'promt', which no layout has. Did you mean prompt"),
        ({"xyz": "ask"}, "which no layout has. Columns that are read stand in docs/data.md"),
        (
            {"chosen": "a", "rejected": "a"},
            "data.columns reads 'a' as two columns, but a column is one thing",
        ),
    ],
)
def test_columns_that_mean_nothing_are_refused(columns, words):
    with pytest.raises(InputError, match=words):
        ReadOptions.of(columns)


def test_a_row_without_a_column_that_is_named_is_refused(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(
        f"{json.dumps(ROW)}\n{json.dumps({**ROW, 'bettr': 1})}\n".replace('"better"', '"betr"', 1)
    )
    with pytest.raises(
        InputError, match=r"line 1 of .*pairs.jsonl has no column 'better', .* as 'chosen' .*betr"
    ):
        load_examples(str(file), reading=ReadOptions.of(COLUMNS))


@pytest.mark.parametrize("prompt", ["question", "query", "input", "problem"])
def test_a_usual_name_of_the_prompt_is_read_and_told(prompt):
    loaded = load({prompt: "Sky?", "chosen": "It is blue", "rejected": "It is green"})
    assert (loaded.layout, loaded.examples[0].prompt) == ("TRL text", "Sky?")
    assert loaded.notes == [f"the column {prompt} was read as prompt"]


def test_a_later_row_without_that_column_is_refused():
    row = {"question": "Sky?", "chosen": "blue", "rejected": "green"}
    with pytest.raises(
        InputError, match="row 2 of memory has no column 'question', which is to be read as 'prom"
    ):
        load(row, {"chosen": "a b", "rejected": "a c"})


# ---- text as chat ----
def test_text_becomes_turns_with_system_and_tools():
    tools = [{"type": "function", "function": {"name": "look"}}]
    row = {**TEXT, "prompt": "Sky?\n", "system": "Short.", "tools": tools}
    example = only(row, text_as="chat")
    assert example.prompt == [{"role": "system", "content": "Short."}, user("Sky?\n")]
    assert example.responses == ([assistant("blue")], [assistant("green")])
    assert example.tools == tools
    assert load(row, text_as="chat").unread == {}


def test_a_dialogue_becomes_its_turns():
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Sky?\n\nAssistant:"
    example = only({"chosen": f"{start} It is blue", "rejected": f"{start} It is green"}, text_as="chat")
    assert example.prompt == [user("Hi"), assistant("Hello"), user("Sky?")]
    assert example.responses == ([assistant("It is blue")], [assistant("It is green")])


def test_a_prompt_that_only_mentions_a_dialogue_is_one_turn():
    prompt = "Continue:\n\nHuman: Hi\n\nAssistant: Hello"
    assert only({**TEXT, "prompt": prompt}, text_as="chat").prompt == [user(prompt)]


def test_steps_that_are_done_begin_both_answers():
    row = {"prompt": "1+1+1?", "initial_reason_steps": "1+1=2. ", "chosen": "2+1=3", "rejected": "2+1=4"}
    example = only(row, text_as="chat")
    assert example.prompt == [user("1+1+1?")]
    assert example.responses == ([assistant("1+1=2. 2+1=3")], [assistant("1+1=2. 2+1=4")])


def test_labelled_and_ranked_text_become_turns_too():
    assert only({"prompt": "a", "completion": "b", "label": True}, text_as="chat").responses == (
        [assistant("b")],
    )
    ranked = only({"prompt": "a", "responses": ["b", "c"], "ranks": [2, 1]}, text_as="chat")
    assert ranked.responses == ([assistant("c")], [assistant("b")])


def test_few_shot_examples_are_taken_out_before_text_becomes_turns():
    row = {**TEXT, "prompt": "Question: a\nAnswer: b\n\nQuestion: Sky?\nAnswer:"}
    example = only(row, text_as="chat", strip_few_shot=True)
    assert example.prompt == [user("Question: Sky?\nAnswer:")]
