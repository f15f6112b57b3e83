"""Files of prompts: what is asked, what is the right answer, and what is refused by row."""

from __future__ import annotations

import json

import numpy as np
import pytest

from helpers.tiny_runs import tokenizer, write_rows
from minordpo.data.read.examples import Example
from minordpo.data.tokens import TokenOptions, tokenize_examples
from minordpo.errors import InputError
from minordpo.verify.prompts import prompt_texts, read_prompts

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Two and two?"}]


def read(tmp_path, *rows, **options):
    return read_prompts(str(write_rows(tmp_path / "prompts.jsonl", rows)), **options)


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"prompt": "Two and two?\n", "answer": "4"}, "Two and two?\n", "4"),
        ({"prompt": CHAT, "answer": 4}, CHAT, "4"),
        ({"prompt": CHAT}, CHAT, None),
        ({"messages": [*CHAT, {"role": "assistant", "content": "4"}]}, CHAT, "4"),
        ({"messages": CHAT}, CHAT, None),
        ({"messages": [*CHAT, {"role": "assistant", "content": "no"}], "answer": "4"}, CHAT, "4"),
        ({"question": " Q ", "answer": "work\n#### 4"}, [{"role": "user", "content": " Q "}], "work\n#### 4"),
        ({"problem": "Q", "solution": "s", "answer": "4"}, [{"role": "user", "content": "Q"}], "4"),
        ({"instruction": "Q", "input": "more", "output": "4"}, [{"role": "user", "content": "Q\nmore"}], "4"),
        ({"prompt": "P", "chosen": "c", "rejected": "r"}, "P", None),
    ],
)
def test_layouts(tmp_path, row, prompt, answer):
    found = read(tmp_path, row).prompts
    assert [(each.asked.prompt, each.asked.answer) for each in found] == [(prompt, answer)]


def test_a_question_is_asked_by_the_template_as_chat_or_as_text(tmp_path):
    row = {"question": "Q"}
    assert read(tmp_path, row, template="{question} Why?").prompts[0].asked.prompt == [
        {"role": "user", "content": "Q Why?"}
    ]
    assert read(tmp_path, row, template="{question}\n", plain_text=True).prompts[0].asked.prompt == "Q\n"
    with pytest.raises(InputError, match=r"no \{question\}"):
        read(tmp_path, row, template="Why?")


def test_every_column_that_nobody_reads_is_named_with_its_rows(tmp_path):
    found = read(
        tmp_path, {"prompt": "a", "level": 3, "empty": ""}, {"prompt": "b", "level": 4, "source": "x"}
    )
    assert found.unread == {"level": 2, "source": 1}
    assert found.prompts[0].asked.facts == {"level": 3, "empty": ""}


def test_a_prompt_that_stands_twice_is_asked_once(tmp_path):
    found = read(tmp_path, {"prompt": "a"}, {"prompt": "b"}, {"prompt": "a", "answer": "4"})
    assert [each.asked.row for each in found.prompts] == [1, 2]
    assert found.repeated == 1


def test_tools_and_template_variables_go_into_the_pairs(tmp_path):
    tool = {"type": "function", "function": {"name": "add"}}
    row = {"prompt": CHAT, "tools": [tool], "chat_template_kwargs": {"enable_thinking": False}}
    assert read(tmp_path, row).prompts[0].columns() == row


def test_tokens_are_those_that_training_reads(tmp_path):
    rows = [{"prompt": "A text"}, {"prompt": CHAT}]
    found = read(tmp_path, *rows).tokens(tokenizer())
    for row, ids in zip(rows, found, strict=True):
        is_text = isinstance(row["prompt"], str)
        answer = "yes" if is_text else [{"role": "assistant", "content": "yes"}]
        (example,) = tokenize_examples(
            [Example(row["prompt"], (answer,), (1.0,), 1)], tokenizer(), options=TokenOptions()
        )
        assert np.array_equal(ids, example.prompt_ids)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a"}, "line 1 of .* has no prompt"),
        ({"prompt": ""}, "line 1 of .*prompt is the text ''"),
        ({"prompt": []}, "line 1 of .*prompt is an empty list"),
        ({"prompt": 3}, "line 1 of .*the number 3"),
        ({"prompt": "a", "answer": ["4"]}, "line 1 of .*answer is a list of 1"),
        ({"prompt": "a", "answer": True}, "line 1 of .*answer is true"),
        ({"messages": "a"}, "line 1 of .*messages is the text"),
        ({"prompt": [{"from": "human", "value": "a"}]}, "message 1 of prompt"),
        ({"prompt": "a", "tools": [{"name": "add"}]}, "tools is a list of 1"),
    ],
)
def test_what_is_no_prompt_is_refused_by_row(tmp_path, row, said):
    with pytest.raises(InputError, match=said):
        read(tmp_path, row)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no rows"):
        read(tmp_path)


def test_a_template_that_fails_on_a_prompt_names_its_row(tmp_path):
    found = read(tmp_path, {"prompt": CHAT}, {"prompt": [*CHAT, {"role": "assistant", "content": "4"}]})
    with pytest.raises(InputError, match=r"row 2 of .*ends with an assistant message"):
        found.tokens(tokenizer())


def test_csv_with_questions(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("question,answer\nTwo and two?,4\n", encoding="utf-8")
    (found,) = read_prompts(str(path)).prompts
    assert (found.asked.answer, found.asked.prompt[0]["content"]) == ("4", "Two and two?")


def test_the_digest_is_of_prompts_and_answers(tmp_path):
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}]
    first = read(tmp_path, *rows)
    assert first.first(1).digest == first.digest == read(tmp_path, *rows).digest
    assert first.digest != read(tmp_path, rows[0], {**rows[1], "answer": "3"}).digest
    assert first.digest != read(tmp_path, *rows[::-1]).digest


def test_texts_of_prompts_are_compared_without_their_spaces(tmp_path):
    found = read(tmp_path, {"prompt": " Two  and\ntwo? "}, {"prompt": CHAT})
    assert prompt_texts(found.prompts) == {"Two and two?", "Be brief."}


def test_rows_are_json(tmp_path):
    assert json.dumps(read(tmp_path, {"prompt": CHAT}).prompts[0].columns())


def test_a_right_answer_that_is_not_a_number_is_refused(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one", "answer": NaN}\n', encoding="utf-8")
    with pytest.raises(InputError, match="a right answer, text or a number,"):
        read_prompts(str(file))


def test_a_prompt_that_stands_there_again_is_asked_once_or_as_often_as_told(tmp_path):
    rows = [{"question": "Q", "answer": "1"}, {"question": "R"}, {"question": "Q", "answer": "2"}]
    once, often = read(tmp_path, *rows), read(tmp_path, *rows, once=False)
    assert [each.asked.row for each in once.prompts] == [1, 2]
    assert [(each.asked.row, each.question) for each in often.prompts] == [(1, "Q"), (2, "R"), (3, "Q")]
    assert (once.repeated, once.contradicted) == (often.repeated, often.contradicted) == (1, 1)
    assert once.digest != often.digest
    assert often.taken([1, 2]).prompts == often.prompts[1:]
    assert often.taken([1, 2]).digest != often.digest == often.taken([0, 1, 2]).digest


def test_a_refused_row_is_named_with_its_file(tmp_path):
    found = read(tmp_path, {"prompt": "P"}).prompts
    assert found[0].asked.where == f"row 1 of {tmp_path / 'prompts.jsonl'}"
    assert found[0].question is None
