"""This project's objectives: hand numbers, what tokens get, and the objectives that they are in their limits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minordpo.objectives import Gradient, gradient, resolve
from minordpo.objectives.ours import OURS
from objective_cases import answer, cases, responses
from oracle import Answer

# σ(ln 3) = 3/4: −log σ(ln 3) = log(4/3), and β σ(−ln 3) = 1/8 at β = 1/2.
LN3, RIGHT = math.log(3), math.log(4 / 3)
QUICK = settings(max_examples=25, deadline=None)


def found(name: str, prompts: list[list[Answer]], **hyper: Any) -> Gradient:
    return gradient(resolve(name, hyper), responses(prompts))


def of(ratios: list[float], *, shared: int = 0, grade: float = 1.0) -> Answer:
    """A response of tokens at these log-ratios over −8 nats each."""
    return answer([each - 8 for each in ratios], [-8.0] * len(ratios), grade=grade, shared=shared)


def pair(chosen: list[float], rejected: list[float], *, shared: int = 0) -> list[Answer]:
    return [of(chosen, shared=shared), of(rejected, shared=shared, grade=0.0)]


def near(values: list[float]) -> Any:
    return pytest.approx(values, abs=1e-12, rel=1e-12)


# Two common tokens, one above the reference and one below, then own tokens of either sign. Chosen: 1 in all.
COMMON = [2.0, -1.0]
CHOSEN, REJECTED = [*COMMON, -3.0, 3.0], [*COMMON, 4.0, -6.0, 1.0]
PAIR = pair(CHOSEN, REJECTED, shared=2)


def at_ln3(name: str, penalty: float, **hyper: Any) -> Gradient:
    """The pair with a chosen token added that brings the margin, if the penalty is this, to 2 ln 3 nats."""
    chosen = [*CHOSEN, 2 * LN3 - 1 + penalty]
    result = found(name, [pair(chosen, REJECTED, shared=2)], beta=0.5, **hyper)
    assert result.losses.tolist() == near([RIGHT])
    return result


def members(result: Gradient) -> list[list[float]]:
    """Coefficients in units of β σ(−β margin) = 1/8: of five chosen and five rejected tokens."""
    assert result.members is not None
    return (8 * result.members).view(2, 5).tolist()


def test_a_clamp_for_each_token_takes_off_what_single_tokens_rose():
    chosen, rejected = members(at_ln3("minordpo_token", 2.0 + 4 + 1))
    assert chosen == near([-1] * 5)
    assert rejected == near([1, 0, 1, 0, 1])


def test_a_clamp_of_the_tail_takes_off_what_the_own_tokens_rose_in_sum():
    # 4 − 6 + 1 is below 0: closed, though with the common tokens it would be 0
    chosen, rejected = members(at_ln3("minordpo_tail", 0.0))
    assert (chosen, rejected) == (near([-1] * 5), near([0] * 5))
    risen = pair([*COMMON, 2 * LN3 - 1 + 5], [*COMMON, 6.0, -1.0], shared=2)
    result = found("minordpo_tail", [risen], beta=0.5)
    assert result.losses.tolist() == near([RIGHT])
    assert (8 * result.members).tolist() == near([-1, -1, -1, 0, 0, 1, 1])


def test_a_clamp_for_each_token_of_the_tail_leaves_the_common_beginning_out():
    chosen, rejected = members(at_ln3("minordpo_token_tail", 4.0 + 1))
    assert (chosen, rejected) == (near([-1] * 5), near([0, 0, 1, 0, 1]))


def test_a_guard_raises_chosen_tokens_below_the_reference_harder():
    # 1 + 3 nats below it in the chosen response, each paid twice
    chosen, rejected = members(at_ln3("minordpo_guarded", 7.0 + 2 * 4, guard=2.0))
    assert chosen == near([-1, -3, -3, -1, -1])
    assert rejected == near([1, 0, 1, 0, 1])


def test_a_fork_sets_the_two_first_own_tokens_against_each_other():
    # −3 against 4, a lead of −7 that weighs thrice
    chosen, rejected = members(at_ln3("minordpo_fork", 3.0 * 7, fork_weight=3.0))
    assert chosen == near([-1, -1, -4, -1, -1])
    assert rejected == near([0, 0, 3, 0, 0])


def test_a_fork_alone_moves_its_two_tokens_and_no_other():
    apart = pair([*COMMON, 1.0, 9.0], [*COMMON, 1 - 2 * LN3, 8.0, 7.0], shared=2)
    result = found("dpo_fork", [apart], beta=0.5)
    assert result.losses.tolist() == near([RIGHT])
    assert (8 * result.members).tolist() == near([0, 0, -1, 0, 0, 0, 1, 0, 0])


def test_a_response_that_is_the_others_beginning_has_no_fork():
    begins = pair([1.0, 2.0], [1.0, 2.0, 4.0, -1.0], shared=2)
    result = found("minordpo_fork", [begins], beta=0.5, fork_weight=1.0)
    margin = 3.0 - 4.0
    push = 0.5 / (1 + math.exp(0.5 * margin))
    assert result.members.tolist() == near([-push, -push, 0, 0, push, 0])
    same = pair([1.0, 2.0], [1.0, 2.0], shared=2)
    alone = found("minor_sft", [same], beta=0.5, per_token=False)
    assert found("minordpo_fork", [same], beta=0.5).losses.tolist() == near(alone.losses.tolist())
    nothing = found("dpo_fork", [same], beta=0.5)
    assert nothing.losses.tolist() == near([math.log(2)])
    assert nothing.members.tolist() == [0] * 4


# ---- the common beginning ----
BEGUN = st.lists(st.integers(-640, 640).map(lambda x: x / 64), min_size=1, max_size=4)


def on_common_tokens(name: str, prompt: list[Answer], **hyper: Any) -> list[float]:
    """What both responses together ask of each token that they begin with."""
    result = found(name, [prompt], **hyper)
    both = result.sequences.repeat_interleave(responses([prompt]).tokens)
    chosen, rejected = (both if result.members is None else result.members).split(
        [len(each.logps) for each in prompt]
    )
    return (chosen[: prompt[0].shared] + rejected[: prompt[1].shared]).tolist()


@QUICK
@given(BEGUN, BEGUN, BEGUN)
def test_what_common_tokens_are_asked_depends_on_the_clamp(common, chosen, rejected):
    prompt = pair(common + chosen, common + rejected, shared=len(common))
    assert on_common_tokens("dpo", prompt) == near([0] * len(common))
    whole_rose, tail_rose = sum(common) + sum(rejected) > 0, sum(rejected) > 0
    minor = on_common_tokens("minordpo", prompt)
    assert all(each == near(0) if whole_rose else each < 0 for each in minor)
    by_token = on_common_tokens("minordpo_token", prompt)
    assert all(each == 0 if ratio > 0 else each < 0 for each, ratio in zip(by_token, common, strict=True))
    assert on_common_tokens("dpo_fork", prompt) == [0] * len(common)
    for name in ("minordpo_tail", "minordpo_token_tail", "minordpo_fork"):
        assert all(each < 0 for each in on_common_tokens(name, prompt))
    # The gate on the rejected tail is the tail's own, whatever stands before it.
    tail = found("minordpo_tail", [prompt]).members[-len(rejected) :]
    assert ((tail > 0) == tail_rose).all()


# ---- limits ----
PAIRS = cases("dpo").map(lambda case: case[0])


def same(one: Gradient, other: Gradient, logps: Any) -> None:
    torch.testing.assert_close(one.losses, other.losses, rtol=1e-12, atol=1e-14)
    members = [
        each.sequences.repeat_interleave(logps.tokens) if each.members is None else each.members
        for each in (one, other)
    ]
    torch.testing.assert_close(*members, rtol=1e-12, atol=1e-14)


def limits(prompts: list[list[Answer]]) -> tuple[Any, Any]:
    logps = responses(prompts)
    return logps, lambda name, **hyper: gradient(resolve(name, hyper), logps)


@QUICK
@given(PAIRS)
def test_with_nothing_in_common_a_clamp_of_the_tail_is_minordpo_and_one_for_each_token_is_that_of_the_tail(
    prompts,
):
    apart = [[each._replace(shared=0) for each in prompt] for prompt in prompts]
    logps, get = limits(apart)
    same(get("minordpo_tail"), get("minordpo"), logps)
    same(get("minordpo_token_tail"), get("minordpo_token"), logps)


@QUICK
@given(PAIRS)
def test_for_rejected_responses_of_one_token_a_clamp_for_each_token_is_minordpo(prompts):
    short = [
        [
            chosen._replace(shared=0),
            Answer(rejected.logps[:1], rejected.ref_logps[:1], 0.0),
        ]
        for chosen, rejected in prompts
    ]
    logps, get = limits(short)
    same(get("minordpo_token"), get("minordpo"), logps)


@QUICK
@given(PAIRS)
def test_without_guard_and_weight_they_are_minordpo_token_and_minor_sft_in_sums(prompts):
    logps, get = limits(prompts)
    same(get("minordpo_guarded", guard=0.0), get("minordpo_token"), logps)
    same(get("minordpo_fork", fork_weight=0.0), get("minor_sft", per_token=False), logps)


@QUICK
@given(PAIRS)
def test_for_responses_of_one_token_a_fork_alone_is_dpo(prompts):
    short = [
        [Answer(each.logps[:1], each.ref_logps[:1], each.grade) for each in prompt] for prompt in prompts
    ]
    logps, get = limits(short)
    same(get("dpo_fork"), get("dpo"), logps)


@QUICK
@given(PAIRS)
def test_where_no_rejected_token_rose_the_clamped_ones_are_minordpo(prompts):
    fallen = [
        [
            chosen._replace(shared=0),
            rejected._replace(ref_logps=torch.maximum(rejected.logps, rejected.ref_logps), shared=0),
        ]
        for chosen, rejected in prompts
    ]
    logps, get = limits(fallen)
    for name in ("minordpo_token", "minordpo_tail", "minordpo_token_tail"):
        same(get(name), get("minordpo"), logps)


@QUICK
@given(PAIRS)
def test_where_every_rejected_token_rose_a_clamp_for_each_token_is_dpo(prompts):
    risen = [
        [chosen, rejected._replace(ref_logps=torch.minimum(rejected.logps - 1 / 64, rejected.ref_logps))]
        for chosen, rejected in prompts
    ]
    logps, get = limits(risen)
    same(get("minordpo_token"), get("dpo"), logps)


@pytest.mark.parametrize("name", sorted(set(OURS) - {"dpo_fork"}))
def test_where_policy_is_reference_the_loss_is_log_two_and_every_chosen_token_is_raised(name):
    start = pair([0.0] * 3, [0.0] * 4, shared=1)
    result = found(name, [start])
    assert result.losses.tolist() == near([math.log(2)])
    chosen, rejected = result.members.split([3, 4])
    assert (chosen < 0).all()
    # At the tie nothing is taken off: only an unclamped fork pushes.
    assert rejected.tolist() == near([0, 0.25, 0, 0] if name == "minordpo_fork" else [0] * 4)


# ---- what is needed ----
@pytest.mark.parametrize("name", ["dpo_fork", "minordpo_fork", "minordpo_tail", "minordpo_token_tail"])
def test_without_word_of_what_is_shared_own_tokens_are_not_guessed(name):
    logps = responses([PAIR])
    unknown = replace(logps, by_token=replace(logps.by_token, shared=None))
    with pytest.raises(
        ValueError, match="own tokens need to be told from shared ones, and nothing tells them"
    ):
        resolve(name, {})(unknown)


def test_log_ratios_of_tokens_need_a_reference():
    tokens = responses([PAIR]).by_token
    assert tokens.logratios.tolist() == near(CHOSEN + REJECTED)
    with pytest.raises(ValueError, match="a log-ratio needs reference log-probs, and there are none"):
        _ = replace(tokens, ref_logps=None).logratios


def test_forks_are_the_first_tokens_that_are_a_responses_own():
    prompts = [PAIR, pair([1.0], [1.0, 2.0], shared=1), pair([1.0, 2.0], [3.0])]
    forks = responses(prompts).by_token.forks
    assert forks.nonzero().flatten().tolist() == [2, 6, 11, 12, 14]
