"""Objectives against formulas typed from the papers in float64, finite differences, and the signs they must have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers import oracle
from helpers.objective_cases import TOKENS, answer, cases, pairs, responses, two
from minordpo.objectives import (
    OBJECTIVES,
    Gradient,
    PairLogps,
    ResponseLogps,
    gradient,
    resolve,
)

NAMES = sorted(OBJECTIVES)
QUICK = settings(max_examples=60, deadline=None)  # the first call imports and compiles


def loss(name: str, logps: PairLogps | ResponseLogps, **hyper: Any) -> Tensor:
    return OBJECTIVES[name].function(logps, **hyper)


def found(name: str, logps: ResponseLogps, **hyper: Any) -> Gradient:
    return gradient(resolve(name, hyper), logps)


def test_the_oracle_has_a_formula_for_every_objective_and_no_other():
    assert sorted(oracle.FORMULAS) == NAMES


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(st.data())
def test_losses_and_coefficients_are_those_of_the_papers_formulas(name, data):
    prompts, mismatched, hyper = data.draw(cases(name))
    logps = responses(prompts, mismatched)
    result = found(name, logps, **hyper)
    leaves = [
        [
            each._replace(
                logps=each.logps.clone().requires_grad_(),
                other_logps=None if each.other_logps is None else each.other_logps.clone().requires_grad_(),
            )
            for each in prompt
        ]
        for prompt in prompts
    ]
    more = {"mismatched": mismatched} if OBJECTIVES[name].mismatched else {}
    expected = torch.stack([oracle.FORMULAS[name](prompt, **hyper, **more) for prompt in leaves])
    torch.testing.assert_close(result.losses, expected.detach(), rtol=1e-9, atol=1e-9)
    expected.sum().backward()
    every = [each for prompt in leaves for each in prompt]
    by_token = torch.cat([zeros_or(each.logps) for each in every])
    if result.members is None:
        members = result.sequences.repeat_interleave(logps.tokens)
    else:
        members = result.members
        if result.alternatives is not None:
            others = torch.cat([zeros_or(each.other_logps) for each in every if each.other_logps is not None])
            torch.testing.assert_close(result.alternatives, others, rtol=1e-9, atol=1e-9)
        means = torch.stack([zeros_or(each.logps).mean() for each in every])
        torch.testing.assert_close(result.sequences, means, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(members, by_token, rtol=1e-9, atol=1e-9)


def zeros_or(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


PAIRWISE = sorted(name for name, spec in OBJECTIVES.items() if spec.takes_pairs)


@pytest.mark.parametrize("name", PAIRWISE)
def test_gradients_of_pairs_are_those_of_finite_differences(name):
    # away from kinks; log-ratios of both signs, leads of both signs
    logps = pairs([3.0, -2.0, 0.5, -0.4], [1.5, -4.0, -0.2, 0.7])

    def losses(chosen: Tensor, rejected: Tensor) -> Tensor:
        return loss(
            name,
            PairLogps(chosen, rejected, *(getattr(logps, each) for each in list(vars(logps))[2:6])),
        )

    assert torch.autograd.gradcheck(
        losses, (logps.chosen_logps.requires_grad_(), logps.rejected_logps.requires_grad_())
    )


PROMPTS = [
    [answer([-1.0, -0.5], [-1.5, -0.25]), answer([-0.625], [-1.0], grade=0, others=[-1.25])],
    [
        answer([-3.0], [-2.0]),
        answer([-3.0, -1.5, -1.0], [-2.0, -1.0, -1.25], grade=0, others=[-2, -0.5, -1]),
    ],
]


@pytest.mark.parametrize("mismatched", [None, 0.5])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in PAIRWISE])
def test_gradients_of_responses_are_those_of_finite_differences(name, mismatched):
    logps = responses(PROMPTS, mismatched)
    tokens = logps.by_token
    assert tokens is not None

    def losses(members: Tensor, others: Tensor) -> Tensor:
        sums = torch.zeros(4, dtype=torch.float64).index_add(0, tokens.sequences, members)
        by_token = replace(tokens, logps=members, alternative_logps=others)
        given = {**vars(logps), "logps": sums, "by_token": by_token}
        hyper = {"gate_gradient": True} if name == "pairwise_cringe" else {}
        return loss(name, ResponseLogps(**{key: given[key] for key in logps.__dataclass_fields__}), **hyper)

    leaves = (tokens.logps.clone().requires_grad_(), tokens.alternative_logps.clone().requires_grad_())
    assert torch.autograd.gradcheck(losses, leaves)


# ---- the sign of each coefficient over the plane of log-ratios (c chosen, r rejected), kinks included ----
# All at beta 0.1 and label_smoothing 0.1: a margin of 10 nats ends hinge's push, one of 5 nats is ipo's target (in
# sums), and one of log(9)/0.1 = 21.97 is the least of cdpo.
RATIOS = [-30.0, -12.0, -5.0, -1.0, -0.25, 0.0, 0.25, 1.0, 5.0, 12.0, 30.0]
TUG = (-1, 1)  # the chosen response is raised, the rejected one lowered


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def towards(target: float) -> Callable[[float, float], tuple[int, int]]:
    return lambda c, r: (sign(c - r - target), -sign(c - r - target))


SIGNS: dict[str, tuple[dict[str, Any], Callable[[float, float], tuple[int, int]]]] = {
    "dpo": ({}, lambda c, r: TUG),
    "minordpo": ({}, lambda c, r: TUG if r > 0 else (-1, 0)),
    "dpop": ({}, lambda c, r: TUG),
    "bdpo": ({}, lambda c, r: TUG),
    # At alpha 0.25; what is behind is pushed, both where they are level.
    "bpo": (
        {"bpo_alpha": 0.25},
        lambda c, r: (-int(c <= -0.25 * r), int(-0.25 * r <= c)),
    ),
    "ipo": ({"per_token": False}, towards(5)),
    "hinge": ({}, lambda c, r: TUG if c - r < 10 else (0, 0)),
    "cdpo": ({}, towards(math.log(9) / 0.1)),
    "robust": ({}, lambda c, r: TUG),
    "dpo_nll": ({}, lambda c, r: TUG),
    # Of tokens alike, none of them common to both.
    "minor_sft": ({}, lambda c, r: (-1, 0)),
    "kto": ({}, lambda c, r: TUG),
}


@pytest.mark.parametrize("name", sorted(SIGNS))
def test_the_sign_of_each_coefficient_over_the_plane_of_log_ratios(name):
    hyper, expected = SIGNS[name]
    grid = list(itertools.product(RATIOS, RATIOS))
    logps = responses([two(c, r) for c, r in grid], 2.0 if name == "kto" else None)
    result = found(name, logps, beta=0.1, **hyper)
    signs = [(sign(c), sign(r)) for c, r in result.sequences.view(-1, 2).tolist()]
    assert dict(zip(grid, signs, strict=True)) == {point: expected(*point) for point in grid}


# ---- … and over the plane of log-probs a token, for objectives without a reference ----
MEANS = [-8.0, -3.0, -1.5, -1.25, -1.0, -0.5, -0.125]
MEAN_SIGNS: dict[str, tuple[dict[str, Any], Callable[[float, float], tuple[int, int]]]] = {
    "simpo": ({}, lambda c, r: TUG),
    "orpo": ({}, lambda c, r: TUG),
    "rrhf": ({}, lambda c, r: TUG if r > c else (-1, 0)),
    "slic": ({"delta": 1.0}, lambda c, r: TUG if 4 * c - 4 * r < 1 else (0, 0)),  # of sums over four tokens
    "sft": ({}, lambda c, r: (-1, 0)),
    "pairwise_cringe": ({"gate_gradient": False}, lambda c, r: TUG),
}


@pytest.mark.parametrize("name", sorted(MEAN_SIGNS))
def test_the_sign_of_each_coefficient_over_the_plane_of_log_probs_a_token(name):
    hyper, expected = MEAN_SIGNS[name]
    grid = list(itertools.product(MEANS, MEANS))
    prompts = [[answer([c] * 4), answer([r] * 4, grade=0, others=[-1.0] * 4)] for c, r in grid]
    result = found(name, responses(prompts), **hyper)
    signs = [(sign(c), sign(r)) for c, r in result.sequences.view(-1, 2).tolist()]
    assert dict(zip(grid, signs, strict=True)) == {point: expected(*point) for point in grid}


def test_every_objective_has_its_signs_in_one_of_the_two_tables():
    assert sorted([*SIGNS, *MEAN_SIGNS]) == NAMES


@pytest.mark.parametrize("gate_gradient", [False, True])
def test_pairwise_cringe_raises_the_alternatives(gate_gradient):
    result = found("pairwise_cringe", responses(PROMPTS), gate_gradient=gate_gradient)
    assert result.members is not None
    assert result.alternatives is not None
    assert (result.alternatives < 0).all()
    chosen = responses(PROMPTS).by_token.sequences % 2 == 0
    assert (result.members[chosen] < 0).all()
    assert (result.members[~chosen] > 0).all()


# ---- relations between objectives ----
EIGHTHS = st.integers(-640, 640).map(lambda x: x / 8)
BETAS = st.floats(0.005, 1)


def same(one: Gradient, other: Gradient, **tolerance: Any) -> None:
    torch.testing.assert_close(one.losses, other.losses, **tolerance)
    torch.testing.assert_close(one.sequences, other.sequences, **tolerance)


@QUICK
@given(EIGHTHS, st.integers(1, 640).map(lambda x: x / 8), BETAS)
def test_minordpo_is_dpo_where_the_rejected_response_is_above_the_reference(chosen, rejected, beta):
    logps = responses([two(chosen, rejected)])
    same(found("minordpo", logps, beta=beta), found("dpo", logps, beta=beta), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rejected", [0.0, -0.0, -1e-3, -40.0])
def test_minordpo_gives_a_rejected_response_at_or_below_the_reference_exactly_no_gradient(rejected, dtype):
    logps = pairs([0.25], [rejected], dtype=dtype)
    leaves = logps.chosen_logps.requires_grad_(), logps.rejected_logps.requires_grad_()
    c_chosen, c_rejected = torch.autograd.grad(loss("minordpo", logps, beta=0.1).sum(), leaves)
    assert c_rejected.item() == 0
    assert c_chosen.item() == pytest.approx(-0.1 / (1 + math.exp(0.1 * 0.25)), rel=1e-6)


@QUICK
@given(EIGHTHS, EIGHTHS, BETAS)
def test_bdpo_lies_between_dpo_and_dpo_with_the_rejected_response_left_at_the_reference(
    chosen, rejected, beta
):
    logps = responses([two(chosen, rejected)])
    mixed, dpo = found("bdpo", logps, beta=beta), found("dpo", logps, beta=beta)
    still = found("dpo", responses([two(chosen, 0.0)]), beta=beta)
    least, most = sorted([dpo.losses.item(), still.losses.item()])
    assert least - 1e-12 <= mixed.losses.item() <= most + 1e-12
    assert mixed.sequences[1] <= mixed.sequences.abs()[0]  # the rejected response is never pushed the harder


@QUICK
@given(EIGHTHS, EIGHTHS, BETAS)
def test_bdpo_is_nearly_dpo_where_hardly_any_reference_is_mixed_in(chosen, rejected, beta):
    logps = responses([two(chosen, rejected / 10)])
    nearly = found("bdpo", logps, beta=beta, bdpo_lambda=1 - 1e-9)
    same(nearly, found("dpo", logps, beta=beta), rtol=1e-4, atol=1e-6)


def test_bdpos_push_on_a_rejected_response_fades_below_the_reference():
    pushes = [
        found("bdpo", responses([two(1.0, r)]), beta=0.1).sequences[1].item() for r in (5.0, 0.0, -5.0, -50.0)
    ]
    assert pushes == sorted(pushes, reverse=True)
    assert 0 < pushes[-1] < 1e-20


def test_bpo_pushes_both_at_half_strength_before_training():
    result = found("bpo", responses([two(0.0, 0.0)]), beta=0.5, bpo_alpha=0.25)
    assert result.sequences.tolist() == [-0.5 * 0.5 / 2, 0.5 * 0.5 * 0.25 / 2]


@QUICK
@given(EIGHTHS, EIGHTHS, st.integers(0, 80).map(lambda x: x / 8), BETAS)
def test_a_gate_margin_moves_the_gate_and_takes_itself_off_the_penalty(chosen, rejected, margin, beta):
    moved = found("minordpo", responses([two(chosen, rejected)]), beta=beta, gate_margin=margin)
    same(
        moved,
        found("minordpo", responses([two(chosen, rejected - margin)]), beta=beta),
        rtol=1e-9,
        atol=1e-15,
    )


@pytest.mark.parametrize(
    ("name", "hyper", "ratios", "gates"),
    [
        ("minordpo", {}, [(5.0, 0.25), (5.0, 0.0), (5.0, -3.0)], [0.25, 0, 0]),
        ("minordpo", {"gate_margin": 0.5}, [(5.0, 0.75), (5.0, 0.5), (5.0, 0.25)], [0.75, 0, 0]),
        ("dpop", {}, [(-0.25, 5.0), (0.0, 5.0), (3.0, 5.0)], [0.25, 0, 0]),
        ("minordpo + 0.1*dpop", {}, [(-1.0, 2.0), (1.0, -2.0)], [2, 0, 1, 0]),
    ],
)
def test_a_gate_has_the_log_ratio_that_opened_it(name, hyper, ratios, gates):
    logps = responses([two(*each) for each in ratios])
    assert resolve(name, hyper).gates(logps).tolist() == gates


@pytest.mark.parametrize("name", ["dpo", "sft", "dpo_nll"])
def test_an_objective_without_a_gate_has_none(name):
    assert resolve(name, {}).gates(responses([two(1.0, 2.0)])) is None


@QUICK
@given(EIGHTHS, st.integers(-640, 0).map(lambda x: x / 8), BETAS)
def test_minor_sft_in_sums_is_minordpo_where_the_rejected_response_is_not_above_the_reference(c, r, beta):
    logps = responses([two(c, r)])
    one = found("minor_sft", logps, beta=beta, per_token=False)
    same(one, found("minordpo", logps, beta=beta), rtol=1e-9, atol=1e-15)


@QUICK
@given(EIGHTHS, EIGHTHS, BETAS)
def test_dpop_without_its_lambda_and_cdpo_and_robust_without_noise_are_dpo(c, r, beta):
    logps = responses([two(c, r)])
    plain = found("dpo", logps, beta=beta)
    same(found("dpop", logps, beta=beta, dpop_lambda=0.0), plain, rtol=0, atol=0)
    same(found("cdpo", logps, beta=beta, label_smoothing=0), plain, rtol=0, atol=0)
    same(found("robust", logps, beta=beta, label_smoothing=0), plain, rtol=0, atol=0)


def test_dpo_nll_without_its_alpha_is_dpo_and_rrhf_without_its_rank_weight_is_sft():
    logps = responses([two(1.0, -2.0)])
    same(found("dpo_nll", logps, alpha=0.0), found("dpo", logps), rtol=0, atol=0)
    same(found("rrhf", logps, rank_weight=0.0), found("sft", logps, per_token=False), rtol=0, atol=0)


# ---- kinks: the constant is taken ----
def coefficients(name: str, chosen: float, rejected: float, **hyper: Any) -> list[float]:
    return found(name, responses([two(chosen, rejected)]), **hyper).sequences.tolist()


def test_dpop_at_the_reference_has_dpos_gradient():
    assert coefficients("dpop", 0.0, -1.0, beta=0.5) == coefficients("dpo", 0.0, -1.0, beta=0.5)
    below = coefficients("dpop", -0.125, -1.0, beta=0.5, dpop_lambda=50.0)
    assert -below[0] / below[1] == pytest.approx(51, rel=1e-9)


def test_hinge_and_slic_at_the_margin_have_no_gradient():
    assert coefficients("hinge", 1.0, -1.0, beta=0.5) == [0, 0]
    assert coefficients("hinge", 0.875, -1.0, beta=0.5) == [-0.5, 0.5]
    at = [answer([-3.0]), answer([-2.0, -2.0], grade=0)]
    assert found("slic", responses([at]), delta=1.0).sequences.tolist() == [0, 0]
    assert found("slic", responses([at]), delta=1.125).sequences.tolist() == [-1, 1]


def test_rrhf_pushes_neither_of_two_responses_that_are_equally_likely_a_token():
    tie = [answer([-2.0]), answer([-1.0, -3.0], grade=0)]
    assert found("rrhf", responses([tie])).sequences.tolist() == [-1, 0]


def test_cdpo_beyond_its_margin_lowers_the_chosen_response():
    at_three_to_one = coefficients("cdpo", 2 * math.log(3), 0.0, beta=0.5, label_smoothing=0.25)
    assert at_three_to_one == pytest.approx([0, 0], abs=1e-15)
    c_chosen, c_rejected = coefficients("cdpo", 4.0, 0.0, beta=0.5, label_smoothing=0.25)
    assert c_chosen == -c_rejected
    assert c_chosen > 0


def test_the_number_of_tokens_matters_only_to_objectives_by_token():
    by_token = {
        *("dpo_nll", "ipo", "minor_sft", "orpo", "pairwise_cringe", "rrhf", "sft", "simpo"),
    }
    n, m = TOKENS
    for name in NAMES:
        short, long = (responses([two(1.0, 2.0, tokens=each)]) for each in [(n, m), (2 * n, 3 * m)])
        losses = [found(name, each).losses.item() for each in (short, long)]
        assert (losses[0] != pytest.approx(losses[1], rel=1e-6)) == (name in by_token), name
