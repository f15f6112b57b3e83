"""What a pair looks like in the terminal."""

from __future__ import annotations

import numpy as np
import pytest

from minordpo.data.formats import Example
from minordpo.data.show import common_beginning, show_example
from minordpo.data.tokens import TokenExample, TokenOptions, TokenResponse, tokenize_example
from small_tokenizers import byte_level, metaspace, smollm2


def shown(tokenizer, prompt, chosen, rejected, *, color=False) -> list[str]:
    pair = tokenize_example(Example.pair(prompt, chosen, rejected, row=1), tokenizer, options=TokenOptions())
    return show_example(pair, tokenizer, color=color).split("\n")


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
    pair = TokenExample.pair(
        np.array([1], np.int32),
        TokenResponse(np.array([40, 41], np.int32), np.ones(2, np.bool_)),
        TokenResponse(np.array([40, 41, 42], np.int32), np.ones(3, np.bool_)),
        row=1,
    )
    assert common_beginning(pair) == 2
    lines = show_example(pair, byte_level(), color=False).split("\n")
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
