"""Prompts as tokens: questions as the pairs have them, and what the monitor is given."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.small_tokenizers import GEMMA, byte_level, metaspace
from helpers.tiny_runs import tokenizer
from minordpo.data.make.close_pairs import PAPER_PROMPT, corrupt_file
from minordpo.data.make.problems import generate_problems, write_problems
from minordpo.data.prepare import prepare_examples
from minordpo.data.read.examples import load_examples
from minordpo.data.tokens import TokenOptions
from minordpo.errors import InputError
from minordpo.generate.prompts import monitor_prompts, question_prompts


@pytest.mark.parametrize("make", [byte_level, metaspace])
@pytest.mark.parametrize("plain_text", [False, True])
def test_prompts_are_those_that_the_pairs_are_trained_with(tmp_path, make, plain_text):
    write_problems(tmp_path / "problems.jsonl", n=4, seed=1)
    corrupt_file(tmp_path / "problems.jsonl", tmp_path / "pairs.jsonl", chat=not plain_text)
    tokenizer = make()
    loaded = load_examples(str(tmp_path / "pairs.jsonl"))
    trained = prepare_examples(loaded, tokenizer, TokenOptions(max_length=None), progress=False).examples
    questions = [problem.question for problem in generate_problems(4, seed=1)]
    asked = question_prompts(tokenizer, questions, prompt=PAPER_PROMPT, plain_text=plain_text)
    assert len(asked) == len(trained) == 4
    for ids, pair in zip(asked, trained, strict=True):
        assert ids.tolist() == pair.prompt_ids.tolist()
        assert ids.dtype == np.int32


@pytest.mark.parametrize(
    ("template", "prompt", "said"),
    [
        (None, "{question}", "has no chat template, but questions are asked as chats.* --plain-text"),
        (GEMMA, "Solve it.", r"the prompt is 'Solve it\.', which has no \{question\} in it"),
        ("{{ raise_exception('no users') }}", "{question}", "fails on a question: no users.* --plain-text"),
    ],
)
def test_prompts_that_cannot_be_made_are_refused(template, prompt, said):
    with pytest.raises(InputError, match=said):
        question_prompts(byte_level(template=template), ["Q?"], prompt=prompt)


def test_chats_go_through_the_template_and_texts_do_not():
    chat, text = monitor_prompts(tokenizer(), [[{"role": "user", "content": "hello"}], "hello"])
    assert tokenizer().decode(chat.tolist()).endswith("hello<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer().decode(text.tolist()) == "hello"


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], r"prompts is \[\], but a list of texts or of chats is needed"),
        ("hello", "prompts is 'hello', but a list"),
        ([""], "prompt 1 of the monitor is empty"),
        (["hello", 5], "prompt 2 of the monitor is a int, but text or a list of chat messages is needed"),
    ],
)
def test_prompts_that_cannot_be_answered_are_refused(prompts, said):
    with pytest.raises(InputError, match=said):
        monitor_prompts(tokenizer(), prompts)
