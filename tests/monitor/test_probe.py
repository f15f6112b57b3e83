"""What is measured on the monitor's answers, when they are given, and to which prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.tiny_runs import tiny_model, token_pairs, tokenizer
from minordpo.data.tokens import TokenExample, TokenResponse
from minordpo.generate.generation import Answer
from minordpo.generate.prompts import monitor_prompts
from minordpo.generate.text_measures import means
from minordpo.monitor.probe import (
    Probe,
    Prompt,
    distance,
    is_due,
    is_right,
    probe_tokens,
    prompts_of,
)


def steps_due(total, every="auto"):
    return [step for step in range(1, total + 1) if is_due(step, total, every)]


@pytest.mark.parametrize(
    ("total", "steps"),
    [
        (3, [1, 2, 3]),
        (6, [1, 2, 3, 4, 5, 6]),
        (7, [2, 3, 4, 5, 6, 7]),
        (12, [2, 4, 6, 8, 10, 12]),
        (64, [11, 22, 32, 43, 54, 64]),
        (750, [100, 200, 300, 400, 500, 600, 700, 750]),
    ],
)
def test_by_themselves_probes_come_six_times_a_run_and_each_hundred_steps_of_a_long_one(total, steps):
    assert steps_due(total) == steps


def test_every_run_of_six_steps_or_more_has_six_probes_or_more():
    assert all(len(steps_due(total)) >= 6 for total in (*range(6, 120), 599, 600, 601, 1499))


def test_probes_every_so_many_steps_end_with_the_last():
    assert steps_due(10, 4) == [4, 8, 10]


@pytest.mark.parametrize(
    ("launched", "total", "tokens"),
    [
        *((False, total, tokens) for total, tokens in ((1, 24), (48, 24), (60, 32), (84, 48), (5000, 48))),
        *((True, total, tokens) for total, tokens in ((1, 24), (144, 24), (192, 32), (288, 48), (5000, 48))),
    ],
)
def test_answers_are_short_in_short_runs(launched, total, tokens):
    assert probe_tokens(total, launched=launched) == tokens


# Seconds of a look of four answers of so many tokens, and of a step of eight pairs: on a processor as measured in
# docs/monitor.md, on a GPU as reckoned there.
@pytest.mark.parametrize(
    ("launched", "from_steps", "look", "step"),
    [
        (False, 48, lambda tokens: 1.4 + 0.15 * (tokens - 1), 12.0),
        (True, 144, lambda tokens: 0.02 * tokens, 0.4),
    ],
)
def test_looks_are_at_most_about_a_twentieth_of_all_but_the_shortest_runs(launched, from_steps, look, step):
    for total in (*range(from_steps, 640, 7), 1501):
        seconds = len(steps_due(total)) * look(probe_tokens(total, launched=launched))
        assert seconds <= 0.051 * total * step


def test_in_the_shortest_look_a_short_cycle_is_still_a_loop():
    tokens = probe_tokens(1, launched=False)
    probe = Probe(tokenizer(), [Prompt(np.array([1]))], max_new_tokens=tokens)
    rounds = [7, 8, 9, 5, 4, 3] * 9
    for length, loops in ((tokens, True), (tokens - 1, False)):
        (measured,) = probe.measures([an_answer(ids=rounds[:length], stopped=False)], None)
        assert measured["looping"] == loops


def test_the_distance_is_the_share_of_tokens_outside_the_longest_common_subsequence():
    assert distance([1, 2, 3], [1, 2, 3]) == 0.0
    assert distance([1, 2], [3, 4, 5]) == 1.0
    # Longest common subsequence 1 3 4 of lengths 4 and 5.
    assert distance([1, 2, 3, 4], [1, 3, 9, 9, 4]) == pytest.approx(1 - 6 / 9)
    assert distance([], []) == 0.0
    assert distance([], [7]) == 1.0


def an_answer(text="some text", ids=(5, 6, 7), stopped=True):
    return Answer(text, tuple(ids), stopped, len(ids) + stopped)


def test_a_row_holds_means_over_the_answers():
    probe = Probe(tokenizer(), [Prompt(np.array([1])), Prompt(np.array([2]), "7")], max_new_tokens=30)
    answers = [an_answer("So the answer is: 8"), an_answer("", [9] * 30, stopped=False)]
    measures = probe.measures(answers, [[5, 6, 7], [1, 2]])
    # 27 4-grams of which one is new: 26/27 repeat. The right number of the second is 7, its text is empty.
    assert means(measures) == {
        "repeated_4grams": pytest.approx(13 / 27),
        "looping": 0.5,
        "stopped": 0.5,
        "empty": 0.5,
        "tokens": 17.0,
        "correct": 0.0,
        "distance": 0.5,
    }
    assert [text["measures"]["looping"] for text in probe.texts(4, answers, measures)] == [0.0, 1.0]
    assert "distance" not in means(probe.measures(answers, None))


def test_answers_to_prompts_without_a_known_number_are_not_checked():
    probe = Probe(tokenizer(), [Prompt(np.array([1]))], max_new_tokens=4)
    assert "correct" not in means(probe.measures([an_answer()], None))


def test_a_number_is_right_in_the_asked_line_or_last_in_an_answer_that_ended():
    assert is_right(an_answer("So the answer is: 7\nand 9", stopped=False), "7")
    assert is_right(an_answer("3 + 4 = 7"), "7")
    assert not is_right(an_answer("3 + 4 = 7", stopped=False), "7")
    assert not is_right(an_answer("3 + 4 = 8"), "7")


def test_answering_leaves_modes_attention_and_random_states_alone():
    model = tiny_model().train()
    probe = Probe(
        tokenizer(), [Prompt(ids) for ids in monitor_prompts(tokenizer(), ["hello", "you"])], max_new_tokens=5
    )
    before = (
        torch.get_rng_state().clone(),
        model.config._attn_implementation,
        np.random.get_state()[1].tolist(),
    )
    assert len(probe.answer(model)) == 2
    after = torch.get_rng_state(), model.config._attn_implementation, np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert all(module.training for module in model.modules())


def test_prompts_are_the_first_distinct_ones_that_leave_room():
    pairs = token_pairs(4)
    lengths = [len(pair.prompt_ids) for pair in pairs]
    twice = [pairs[0], pairs[0], *pairs[1:]]
    assert [len(p.ids) for p in prompts_of(twice, tokenizer(), 3, most_tokens=None)] == lengths[:3]
    short = prompts_of(pairs, tokenizer(), 3, most_tokens=min(lengths))
    assert [len(p.ids) for p in short] == [n for n in lengths if n == min(lengths)]


def test_the_number_of_a_prompt_is_that_of_the_best_answers_last_line_and_of_none_that_is_undesirable():
    ids = tokenizer()("3 + 4 = 7\nSo the answer is: 7</s>", add_special_tokens=False)["input_ids"]
    response = TokenResponse(np.array(ids, np.int32), np.ones(len(ids), bool))
    for grade, number in ((1.0, "7"), (0.0, None)):
        example = TokenExample(np.array([5, 6], np.int32), (response,), (grade,), 1)
        (prompt,) = prompts_of([example], tokenizer(), 4, most_tokens=None)
        assert prompt.number == number
