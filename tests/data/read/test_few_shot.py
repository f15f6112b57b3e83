"""Worked examples come out of a prompt whole, and whatever is not surely an example is refused."""

import pytest

from minordpo.data.read.examples import examples_from_rows
from minordpo.data.read.reading import ReadOptions
from minordpo.errors import InputError

LAST = "How many apples are left?"


def strip(*prompts):
    rows = [{"prompt": prompt, "chosen": "3", "rejected": "4"} for prompt in prompts]
    return examples_from_rows(rows, source="pairs", reading=ReadOptions(strip_few_shot=True))


@pytest.mark.parametrize(
    ("examples", "question"),
    [
        ("Question: 1+1?\nAnswer: 2\n\nQuestion: 2+2?\nAnswer: 4\n\n", f"Question: {LAST}\nAnswer:"),
        ("Q: 1+1?\nA: 2\n\n", f"Q: {LAST}\nA:"),
        ("Problem 1: 1+1?\nSolution 1: 2\n", f"Problem 2: {LAST}\nSolution 2:"),
        ("### Instruction:\n1+1?\n\n### Response:\n2\n\n", f"### Instruction:\n{LAST}\n\n### Response:"),
        ("Solve these.\n\nQuestion: 1+1?\nAnswer: 2\n\n", f"Question: {LAST}"),
        (
            "### Instruction:\nQuestion: 1+1?\n### Response:\nAnswer: 2\n",
            f"### Instruction:\nQuestion: {LAST}\n### Response:\nAnswer:",
        ),
        ("1+1?\nIt is 2.\n#### 2\nThe answer is: 2\n\n2+2?\nThe answer is: 4\n\n", LAST),
        ("1+1?\nIt is 2.\n#### 2\n\n", LAST),
        ("Question: 1+1?\nAnswer: 2\n\n", f"Question: {LAST}\nAnswer: Let's think step by step."),
    ],
)
def test_the_last_question_stays_as_it_stands(examples, question):
    loaded = strip(examples + question)
    assert loaded.examples[0].prompt == question
    assert (loaded.examples[0].responses[0], loaded.examples[0].responses[-1], loaded.layout) == (
        "3",
        "4",
        "TRL text",
    )


@pytest.mark.parametrize(
    "prompt",
    [
        LAST,
        f"Question: {LAST}\nAnswer:",
        f"Below is an instruction.\n\n### Instruction:\n{LAST}\n\n### Response:",
        "If the ratio A:B is 2:3 and the answer is 5, what is x?",
    ],
)
def test_a_prompt_without_examples_is_kept_and_counted(prompt):
    loaded = strip(prompt, f"Q: 1+1?\nA: 2\n\nQ: {LAST}\nA:")
    assert loaded.examples[0].prompt == prompt
    assert "out of 1 of 2 prompts; 1 had none" in loaded.notes[0]
    assert "unverified" in loaded.notes[0]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("1+1? Answer: 2 " + LAST, "several paragraphs or an answer label"),
        (f"1+1 is 2.\n\n{LAST}", "several paragraphs or an answer label"),
        ("1+1?\nThe answer is: 2\n", "an end that is an answer"),
        (f"Question: 1+1?\nQuestion: {LAST}\nAnswer:", "do not alternate"),
        (f"Answer: 2\nQuestion: {LAST}", "do not alternate"),
        ("Question: 1+1?\nAnswer: 2\nQuestion:\nAnswer:", "a last question without words"),
        (f"1+1?\nThe answer is: 2\n\nQuestion: {LAST}", "unlabelled examples"),
    ],
)
def test_examples_that_cannot_be_told_apart_are_refused_by_row(prompt, reason):
    with pytest.raises(
        InputError, match=f"row 2 of pairs: the prompt .* has .*{reason}.*turn strip_few_shot off"
    ):
        strip(LAST, prompt)


def test_stripping_needs_text_with_a_prompt_column():
    rows = [{"chosen": "Sky? blue", "rejected": "Sky? green"}]
    with pytest.raises(InputError, match="pairs is TRL implicit text, strip_few_shot needs TRL text"):
        examples_from_rows(rows, source="pairs", reading=ReadOptions(strip_few_shot=True))
