"""What an example looks like in the terminal."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.example_pairs import text_pair, token_pair
from helpers.small_tokenizers import byte_level, metaspace, smollm2, tokenize_example
from minordpo.data.read.examples import Example
from minordpo.data.show import common_beginning, show_example
from minordpo.data.tokens import TokenExample, TokenOptions, TokenResponse


def shown(tokenizer, prompt, chosen, rejected, *, color=False) -> list[str]:
    pair = tokenize_example(text_pair(prompt, chosen, rejected, row=1), tokenizer, options=TokenOptions())
    return show_example(pair, tokenizer, kind="pairs", color=color).split("\n")


def messages(role: str, *contents: str) -> list[dict]:
    return [{"role": role, "content": content} for content in contents]


def test_a_pair_is_shown_as_prompt_common_beginning_and_tails():
    tokenizer = smollm2()
    assert shown(tokenizer, "Capital of\nFrance:", " I think Paris", " I think Lyon\n") == [
        "prompt (5 tokens, none scored)",
        "  ⟦Capital│ of│⏎│France│:⟧",
        "both begin (2 tokens, all scored)",
        "   I│ think",
        "chosen (2 tokens, all scored)",
        "   Paris│<|im_end|>",
        "rejected (3 tokens, all scored)",
        "   Lyon│⏎│<|im_end|>",
    ]


def test_turns_that_are_not_scored_stand_in_brackets():
    response = [*messages("assistant", "Yes"), *messages("user", "hello"), *messages("assistant", "No")]
    lines = shown(smollm2(), messages("user", "Sky blue?"), response, messages("assistant", "..."))
    assert lines[2:4] == [
        "chosen (16 tokens, 6 scored)",
        "  Yes│<|im_end|>│⏎⟦<|im_start|>│user│⏎│hello│<|im_end|>│⏎│<|im_start|>│ass│istant│⏎⟧No│<|im_end|>│⏎",
    ]


def test_a_response_that_the_other_continues_ends_at_once():
    pair = token_pair(
        np.array([1], np.int32),
        TokenResponse(np.array([40, 41], np.int32), np.ones(2, np.bool_)),
        TokenResponse(np.array([40, 41, 42], np.int32), np.ones(3, np.bool_)),
        row=1,
    )
    assert common_beginning(pair) == 2
    lines = show_example(pair, byte_level(), kind="pairs", color=False).split("\n")
    assert lines[4] == "chosen (no more tokens)"


def test_characters_of_several_tokens_are_whole():
    tokenizer = byte_level()
    lines = shown(tokenizer, "Answer:", " 🙂é", " No")
    assert len(tokenizer("🙂")["input_ids"]) == 4
    assert lines[3] == "   │🙂│é│</s>"


def test_tokens_keep_the_spaces_that_they_lose_when_decoded_alone():
    assert shown(metaspace(), "Answer:", " Yes", " No")[3] == "   Yes│</s>"


def test_characters_that_steer_the_terminal_are_escaped():
    line = shown(byte_level(), "Answer:", "\x1b[31m\tred\u202e\r", "No")[3]
    assert line.startswith("  \\x1b│[│3│1│m│⇥│")
    assert "\\u202e" in line
    assert "␍" in line


def test_long_stretches_are_shortened_in_the_middle_and_the_rest_counted():
    lines = shown(smollm2(), " one" * 100 + " two", " Yes", " No")
    assert lines[0] == "prompt (101 tokens, none scored)"
    assert lines[1].count("one") == 59
    assert "⟧ … 41 more … ⟦" in lines[1]
    assert lines[1].endswith("│ two⟧")


@pytest.mark.parametrize("color", [True, False])
def test_color_dims_the_prompt_and_only_if_asked_for(color):
    lines = shown(smollm2(), "Capital:", " Paris", " Lyon", color=color)
    assert (lines[1], lines[3], lines[5]) == (
        (
            "  \x1b[2m⟦Capital│:⟧\x1b[0m",
            "  \x1b[32m Paris│<|im_end|>\x1b[0m",
            "  \x1b[31m Lyon│<|im_end|>\x1b[0m",
        )
        if color
        else ("  ⟦Capital│:⟧", "   Paris│<|im_end|>", "   Lyon│<|im_end|>")
    )


def shown_graded(tokenizer, kind, prompt, *responses: str, grades, color=False) -> list[str]:
    example = Example(prompt, responses, grades, row=1)
    tokens = tokenize_example(example, tokenizer, options=TokenOptions())
    return show_example(tokens, tokenizer, kind=kind, color=color).split("\n")


@pytest.mark.parametrize(("grade", "label", "hue"), [(1.0, "true", 32), (0.0, "false", 31)])
def test_a_labelled_response_is_shown_whole_with_its_label(grade, label, hue):
    tokenizer = smollm2()
    lines = shown_graded(tokenizer, "labelled", "Capital:", " I think Paris", grades=(grade,))
    assert lines == [
        "prompt (2 tokens, none scored)",
        "  ⟦Capital│:⟧",
        f"completion, labelled {label} (4 tokens, all scored)",
        "   I│ think│ Paris│<|im_end|>",
    ]
    lines = shown_graded(tokenizer, "labelled", "Capital:", " Paris", grades=(grade,), color=True)
    assert lines[3] == f"  \x1b[{hue}m Paris│<|im_end|>\x1b[0m"


def test_ranked_responses_are_shown_by_rank_behind_what_all_of_them_begin_with():
    responses = (" I think Paris", " I think Lyon", " I do")
    assert shown_graded(smollm2(), "ranked", "Capital:", *responses, grades=(2.0, 1.0, 0.0)) == [
        "prompt (2 tokens, none scored)",
        "  ⟦Capital│:⟧",
        "all begin (1 token, all scored)",
        "   I",
        "rank 1 of 3 (3 tokens, all scored)",
        "   think│ Paris│<|im_end|>",
        "rank 2 of 3 (3 tokens, all scored)",
        "   think│ Lyon│<|im_end|>",
        "rank 3 of 3 (2 tokens, all scored)",
        "   do│<|im_end|>",
    ]


def test_two_ranked_responses_are_no_chosen_and_rejected():
    lines = shown_graded(smollm2(), "ranked", "Capital:", " Paris", " Lyon", grades=(1.0, 0.0), color=True)
    assert lines[2:] == [
        "rank 1 of 2 (2 tokens, all scored)",
        "  \x1b[32m Paris│<|im_end|>\x1b[0m",
        "rank 2 of 2 (2 tokens, all scored)",
        "  \x1b[31m Lyon│<|im_end|>\x1b[0m",
    ]


@pytest.mark.parametrize(
    ("responses", "count"),
    [([[5, 6, 7]], 0), ([[5, 6, 7], [5, 6, 8], [5, 9]], 1), ([[5, 6], [5, 6, 7], [5, 6, 8]], 2)],
)
def test_the_common_beginning_is_what_all_responses_begin_with(responses, count):
    tokens = tuple(TokenResponse(np.array(ids, np.int32), np.ones(len(ids), np.bool_)) for ids in responses)
    grades = tuple(float(i) for i in reversed(range(len(tokens))))
    assert common_beginning(TokenExample(np.array([1], np.int32), tokens, grades, row=1)) == count
