"""Tokens of labelled and ranked responses: each is tokenised as a pair's is, and named by what it is."""

from __future__ import annotations

import pytest

from helpers.example_pairs import text_pair
from helpers.small_tokenizers import byte_level, smollm2, tokenize_example
from minordpo.data.read.accounting import RowProblem
from minordpo.data.read.examples import Example
from minordpo.data.tokens import TokenOptions, TokenResponse

NO_LIMIT = TokenOptions(max_length=None)


@pytest.fixture(scope="module")
def smol():
    return smollm2()


def user(content: str) -> dict:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict:
    return {"role": "assistant", "content": content}


def labelled(prompt="Answer:", completion=" Yes", label=True) -> Example:
    return Example(prompt, (completion,), (float(label),), row=7)


def ranked(*responses, prompt="Answer:") -> Example:
    return Example(prompt, responses, tuple(float(i) for i in reversed(range(len(responses)))), row=7)


def scored_text(tokenizer, response: TokenResponse) -> str:
    return tokenizer.decode(response.ids[response.scored].tolist(), clean_up_tokenization_spaces=False)


def test_a_labelled_completion_is_tokenised_as_the_same_response_of_a_pair_is(smol):
    single = tokenize_example(labelled(label=False), smol, options=NO_LIMIT)
    pair = tokenize_example(text_pair("Answer:", " Yes", " No", row=7), smol, options=NO_LIMIT)
    assert single.prompt_ids.tolist() == pair.prompt_ids.tolist()
    assert [response.ids.tolist() for response in single.responses] == [pair.responses[0].ids.tolist()]
    assert single.grades == (0.0,)


def test_ranked_responses_are_tokenised_one_by_one_and_keep_their_order_and_grades(smol):
    example = tokenize_example(ranked(" three", " one two", " two", " one"), smol, options=NO_LIMIT)
    texts = [scored_text(smol, response) for response in example.responses]
    assert texts == [text + "<|im_end|>" for text in (" three", " one two", " two", " one")]
    assert example.grades == (3.0, 2.0, 1.0, 0.0)


def test_only_the_ranked_responses_that_are_too_long_are_cut(smol):
    example = ranked(" one", " one two three four", " one two", " four three two one")
    cut = tokenize_example(example, smol, options=TokenOptions(max_length=5, overlong="truncate"))
    assert [scored_text(smol, response) for response in cut.responses] == [
        " one<|im_end|>",
        " one two three",
        " one two<|im_end|>",
        " four three two",
    ]
    assert cut.notes == {
        "cut": "response of rank 2 from 5 tokens to 3, response of rank 4 from 5 tokens to 3"
    }


def test_an_overlong_completion_is_a_problem_with_its_length(smol):
    example = labelled(completion=" one two three four")
    with pytest.raises(RowProblem, match=r"^2 of prompt \+ 5 of response = 7$"):
        tokenize_example(example, smol, options=TokenOptions(max_length=5))


@pytest.mark.parametrize(
    ("example", "kind", "message"),
    [
        (labelled(completion=" "), "empty_response", "^the completion is empty$"),
        (
            ranked(" Yes", " No", ""),
            "empty_response",
            "the response of rank 3 is empty",
        ),
        (
            ranked(" Yes", " No", " Yes"),
            "identical",
            "^response of rank 1 and response of rank 3 are the same",
        ),
        (
            ranked([assistant("a")], [user("b")], [assistant("c")], prompt=[user("?")]),
            "empty_response",
            "the response of rank 2 is empty",
        ),
    ],
)
def test_a_graded_row_that_cannot_be_used_says_why(example, kind, message):
    with pytest.raises(RowProblem, match=message) as raised:
        tokenize_example(example, byte_level(), options=NO_LIMIT)
    assert raised.value.kind == kind
