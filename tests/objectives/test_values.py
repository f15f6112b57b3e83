"""Objectives at values worked by hand from their formulas, and at the ends of float32."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from helpers import oracle
from helpers.objective_cases import Answer, answer, pairs, per_response, responses, two
from minordpo.objectives import OBJECTIVES, Gradient, gradient, resolve

NAMES = sorted(OBJECTIVES)
# σ(ln 3) = 3/4, so that −log σ(ln 3) = log(4/3) and −log σ(−ln 3) = log 4.
LN3, RIGHT, WRONG = math.log(3), math.log(4 / 3), math.log(4)


def found(name: str, prompts: list[list[Answer]], mismatched: float | None = None, **hyper: Any) -> Gradient:
    return gradient(resolve(name, hyper), responses(prompts, mismatched))


def losses(name: str, prompts: list[list[Answer]], mismatched: float | None = None, **hyper: Any) -> Any:
    return found(name, prompts, mismatched, **hyper).losses.tolist()


def coefficients(
    name: str, prompts: list[list[Answer]], mismatched: float | None = None, **hyper: Any
) -> Any:
    return found(name, prompts, mismatched, **hyper).sequences.tolist()


def of(expected: list[float]) -> Any:
    return pytest.approx(expected, abs=1e-12, rel=1e-12)


@pytest.mark.parametrize("name", ["dpo", "minordpo", "dpop"])
def test_the_loss_where_policy_is_reference_is_log_two(name):
    assert losses(name, [two(0.0, 0.0)]) == of([math.log(2)])


# ---- pairs with a reference, β = 1/2 ----
def test_dpo_of_a_margin_worked_by_hand():
    prompts = [two(4.0, 4 - 2 * LN3), two(-2.0, -2 + 2 * LN3)]
    assert losses("dpo", prompts, beta=0.5) == of([RIGHT, WRONG])
    # β σ(−β margin), the MinorDPO paper's Eq. 4
    assert coefficients("dpo", prompts, beta=0.5) == of([-1 / 8, 1 / 8, -3 / 8, 3 / 8])


def test_minordpo_leaves_a_rejected_response_below_the_reference_out_of_the_margin():
    prompts = [two(2 * LN3, -50.0), two(2 * LN3, 0.0), two(2 * LN3, 4 * LN3)]
    assert losses("minordpo", prompts, beta=0.5) == of([RIGHT, RIGHT, WRONG])
    assert coefficients("minordpo", prompts, beta=0.5) == of([-1 / 8, 0, -1 / 8, 0, -3 / 8, 3 / 8])


def test_dpop_subtracts_lambda_times_what_the_chosen_response_lost():
    # chosen −1, rejected −5: the margin of 4 less λ · 1, times β; chosen +1: no penalty
    prompts = [two(-1.0, -5.0), two(1.0, 1 - 2 * LN3)]
    hyper = {"beta": 0.5, "dpop_lambda": 4 + 2 * LN3}
    assert losses("dpop", prompts, **hyper) == of([WRONG, RIGHT])
    assert coefficients("dpop", prompts, **hyper) == of([-(5 + 2 * LN3) * 3 / 8, 3 / 8, -1 / 8, 1 / 8])


def test_ipo_is_the_squared_distance_from_its_target():
    # τ = 1/4: a target of 2. A token each, 4/4 − (−5)/5 = 2; in sums, 4 + 5 = 9.
    assert losses("ipo", [two(4.0, -5.0)], beta=0.25) == of([0])
    assert losses("ipo", [two(4.0, -5.0)], beta=0.25, per_token=False) == of([49])
    assert coefficients("ipo", [two(4.0, -5.0)], beta=0.25, per_token=False) == of([14, -14])
    # 0 − (−5)/5 = 1: 2 (1 − 2) over four and five tokens
    assert losses("ipo", [two(0.0, -5.0)], beta=0.25) == of([1])
    assert coefficients("ipo", [two(0.0, -5.0)], beta=0.25) == of([-2 / 4, 2 / 5])


def test_bdpo_mixes_the_reference_into_the_rejected_policy():
    # e^ln3 = 3: log(½ · 3 + ½) = ln 2, log(¼ · 3 + ¾) = ln(3/2); e^0 = 1: 0. −log σ(½ ln 9 · …) as for dpo.
    prompts = [two(2 * LN3, 0.0), two(2 * LN3 + math.log(2), LN3)]
    assert losses("bdpo", prompts, beta=0.5) == of([RIGHT, RIGHT])
    # the policy's part of the mixture: ½, and 3/2 of 2
    assert coefficients("bdpo", prompts, beta=0.5) == of([-1 / 8, 1 / 16, -1 / 8, 3 / 32])
    assert losses("bdpo", [two(2 * LN3 + math.log(1.5), LN3)], beta=0.5, bdpo_lambda=0.25) == of([RIGHT])


def test_bpo_looks_at_the_response_that_is_behind():
    prompts = [two(2 * LN3, -8 * LN3), two(9 * LN3, -4 * LN3), two(-2 * LN3, -99.0)]
    hyper = {"beta": 0.5, "bpo_alpha": 0.5}
    assert losses("bpo", prompts, **hyper) == of([RIGHT, RIGHT, WRONG])
    assert coefficients("bpo", prompts, **hyper) == of([-1 / 8, 0, 0, 1 / 16, -3 / 8, 0])


def test_hinge_falls_to_zero_at_a_margin_of_one_over_beta():
    assert losses("hinge", [two(1.0, 0.0), two(2.0, 0.0), two(0.0, 2.0)], beta=0.5) == of([0.5, 0, 2])


def test_cdpo_and_robust_weigh_the_label_against_its_opposite():
    prompts = [two(2 * LN3, 0.0)]
    hyper = {"beta": 0.5, "label_smoothing": 0.25}
    assert losses("cdpo", prompts, **hyper) == of([0.75 * RIGHT + 0.25 * WRONG])
    assert losses("robust", prompts, **hyper) == of([(0.75 * RIGHT - 0.25 * WRONG) / 0.5])
    # robust: −(¾ · ¼ + ¼ · ¾) β / ½
    assert coefficients("robust", prompts, **hyper) == of([-3 / 8, 3 / 8])


def test_dpo_nll_adds_alpha_times_the_chosen_log_prob_a_token():
    # 2 ln 3 above a reference of −64 nats, over four tokens
    prompts = [two(2 * LN3, 0.0)]
    hyper = {"beta": 0.5, "alpha": 2.0}
    assert losses("dpo_nll", prompts, **hyper) == of([RIGHT + 2 * (64 - 2 * LN3) / 4])
    assert coefficients("dpo_nll", prompts, **hyper) == of([-1 / 8 - 2 / 4, 1 / 8])


# ---- pairs without a reference ----
def test_simpo_compares_log_probs_a_token_with_a_margin():
    # m = −1 and −1 − (ln 3 + 1)/2: 2 (ln 3 + 1)/2 − 1 = ln 3
    low = -1 - (LN3 + 1) / 2
    prompts = [[answer([-0.5, -1.5]), answer([low] * 3, grade=0)]]
    assert losses("simpo", prompts, beta=2.0, gamma=1.0) == of([RIGHT])
    assert coefficients("simpo", prompts, beta=2.0, gamma=1.0) == of([-2 / 4 / 2, 2 / 4 / 3])


def test_orpo_compares_odds():
    # probabilities a token of 1/2 and 1/4: odds of 1 and 1/3, their ratio 3
    prompts = [[answer([math.log(1 / 2)] * 2), answer([math.log(1 / 4)] * 3, grade=0)]]
    assert losses("orpo", prompts, orpo_lambda=0.5) == of([math.log(2) + 0.5 * RIGHT])
    # d log-odds / dm = 1/(1 − p): 2 and 4/3, times λ σ(−ln 3) = 1/8
    assert coefficients("orpo", prompts, orpo_lambda=0.5) == of([(-1 - 2 / 8) / 2, 4 / 3 / 8 / 3])


def test_slic_asks_for_a_lead_of_delta_nats_in_sums():
    prompts = [
        [answer([-1.0, -2.0]), answer([-3.25], grade=0)],
        [answer([-4.0]), answer([-1.0], grade=0)],
        [answer([-1.0]), answer([-8.0], grade=0)],
    ]
    assert losses("slic", prompts, delta=1.0) == of([0.75, 4, 0])


# ---- single and ranked responses ----
def test_sft_is_the_negative_log_prob_of_the_first_response():
    prompts = [[answer([-1.0, -2.0]), answer([-3.25], grade=0)], [answer([-4.0])]]
    assert losses("sft", prompts) == of([1.5, 4])
    assert losses("sft", prompts, per_token=False) == of([3, 4])
    assert coefficients("sft", prompts) == of([-0.5, 0, -1])


def test_minor_sft_has_the_gradient_of_its_authors():
    # (2/n) σ(−β h) over four tokens: (2/4)(1/4) at β h = ln 3, and SFT's 1/4 at the start
    prompts = [two(2 * LN3, -1.0), two(0.0, 3.0)]
    assert coefficients("minor_sft", prompts, beta=0.5) == of([-1 / 8, 0, -1 / 4, 0])
    assert losses("minor_sft", prompts, beta=0.5) == of([RIGHT, math.log(2)])
    assert losses("minor_sft", prompts, beta=0.5, per_token=False) == of([RIGHT, math.log(2)])
    assert coefficients("minor_sft", prompts, beta=0.5, per_token=False) == of([-1 / 8, 0, -1 / 4, 0])
    longer = [two(2 * LN3, -1.0, tokens=(8, 1))]
    assert coefficients("minor_sft", longer, beta=0.5) == of([-1 / 16, 0])
    assert losses("minor_sft", longer, beta=0.5) == of([RIGHT / 2])


def single(logratio: float, *, desirable: bool) -> list[Answer]:
    return [answer([logratio - 8], [-8.0], grade=float(desirable))]


# Log-ratios of z0 ± 2 ln 3 at β = 1/2: σ of ln 3 or −ln 3.
@pytest.mark.parametrize(("mismatched", "z0"), [(None, 0.0), (-3.0, 0.0), (0.0, 0.0), (1.5, 1.5)])
def test_kto_measures_single_responses_from_a_baseline_that_is_not_negative(mismatched, z0):
    above, below = z0 + 2 * LN3, z0 - 2 * LN3
    desirable = [single(above, desirable=True), single(below, desirable=True)]
    undesirable = [single(above, desirable=False), single(below, desirable=False)]
    hyper = {"beta": 0.5, "desirable_weight": 2.0, "undesirable_weight": 3.0}
    assert losses("kto", desirable, mismatched, **hyper) == of([2 / 4, 6 / 4])
    assert losses("kto", undesirable, mismatched, **hyper) == of([9 / 4, 3 / 4])
    assert losses("kto", desirable + undesirable, mismatched, **hyper) == of([2 / 4, 6 / 4, 9 / 4, 3 / 4])
    # λ β σ(x) σ(−x) = λ · ½ · 3/16, whichever side
    assert coefficients("kto", desirable + undesirable, mismatched, **hyper) == of(
        [-3 / 16, -3 / 16, 9 / 32, 9 / 32]
    )


def test_kto_on_pairs_averages_the_two_responses():
    prompts = [two(2 * LN3, 2 * LN3), two(-2 * LN3, -2 * LN3)]
    assert losses("kto", prompts, beta=0.5) == of([(1 / 4 + 3 / 4) / 2, (3 / 4 + 1 / 4) / 2])
    assert losses("kto", prompts, beta=0.5, undesirable_weight=2.0) == of([7 / 8, 5 / 8])
    assert coefficients("kto", prompts, beta=0.5, undesirable_weight=2.0) == of(
        [-3 / 64, 6 / 64, -3 / 64, 6 / 64]
    )


def test_rrhf_of_four_responses_counts_each_pair_in_the_wrong_order():
    # Log-probs a token −1, −3, −2, −2; the third and fourth are worse than the second and likelier by 1.
    ranking = [
        answer([-1.0] * 3, grade=3),
        answer([-2.5, -3.5], grade=2),
        answer([-2.0], grade=1),
        answer([-2.0, -2.0, -2.0, -2.0], grade=1),
    ]
    assert losses("rrhf", [ranking]) == of([2 + 3])
    assert losses("rrhf", [ranking], per_token=True) == of([2 + 1])
    assert losses("rrhf", [ranking], per_token=True, rank_weight=100.0) == of([201])
    assert coefficients("rrhf", [ranking]) == of([-1, -2 / 2, 1 / 1, 1 / 4])
    assert coefficients("rrhf", [ranking], per_token=True) == of([-1 / 3, -2 / 2, 1 / 1, 1 / 4])


def test_rrhf_does_not_compare_responses_to_different_prompts():
    low, high = [answer([-9.0]), answer([-10.0], grade=0)], [answer([-1.0]), answer([-2.0], grade=0)]
    assert losses("rrhf", [low, high]) == of([9, 1])


# Leads of −1/2 nat over a temperature of 1/(2 ln 3): a gate of 3/4. The rejected tokens stand ln 3 below and ln 3 above
# the others that were drawn: log(4/3) and log 4.
CRINGE = [
    answer([-1.0, -2.0]),
    answer([-2.0, -0.5], grade=0, others=[-2 + LN3, -0.5 - LN3]),
]
GATED = {"temperature": 0.5 / LN3, "alpha": 0.5}


def test_pairwise_cringe_worked_by_hand():
    assert losses("pairwise_cringe", [CRINGE], **GATED) == of([0.75 * (1.5 + 0.5 * (RIGHT + WRONG) / 2)])
    summed = {**GATED, "per_token": False}
    assert losses("pairwise_cringe", [CRINGE], **summed) == of([0.75 * (3 + 0.5 * (RIGHT + WRONG))])
    # A margin as far above the lead: σ(2 ln 3) = 9/10
    assert losses("pairwise_cringe", [CRINGE], **summed, margin=0.5) == of(
        [0.9 * (3 + 0.5 * (RIGHT + WRONG))]
    )


def test_pairwise_cringe_without_a_gate_gradient_weighs_each_token_by_itself():
    result = found("pairwise_cringe", [CRINGE], **GATED)
    assert result.members is not None
    assert result.alternatives is not None
    down = [0.75 * 0.5 / 2 * 1 / 4, 0.75 * 0.5 / 2 * 3 / 4]
    assert result.members.tolist() == of([-0.75 / 2, -0.75 / 2, *down])
    assert result.alternatives.tolist() == of([-down[0], -down[1]])
    assert result.sequences.tolist() == of([-0.75 / 2, sum(down) / 2])


def test_pairwise_cringe_with_a_gate_gradient_also_widens_the_lead():
    result = found("pairwise_cringe", [CRINGE], **GATED, gate_gradient=True)
    assert result.members is not None
    assert result.alternatives is not None
    # d gate / d lead = −(3/4)(1/4)/temperature, times what is gated
    push = 3 / 16 * 2 * LN3 * (1.5 + 0.5 * (RIGHT + WRONG) / 2)
    down = [0.75 * 0.5 / 2 * 1 / 4, 0.75 * 0.5 / 2 * 3 / 4]
    assert result.members.tolist() == of([-0.375 - push, -0.375 - push, down[0] + push, down[1] + push])
    assert result.alternatives.tolist() == of([-down[0], -down[1]])


# ---- the ends of float32 ----
def far(sign_chosen: int, sign_rejected: int, dtype: torch.dtype) -> list[Answer]:
    """Log-ratios of ±10⁴ nats over 100 tokens; the drawn tokens lie as far away."""

    def one(sign: int, **kind: Any) -> Answer:
        return answer([-200.0 + 100 * sign] * 100, [-200.0] * 100, dtype=dtype, **kind)

    others = [-200.0 - 100 * sign_rejected] * 100
    return [one(sign_chosen), one(sign_rejected, grade=0.0, others=others)]


CORNERS = [(1, -1), (-1, 1), (1, 1), (-1, -1)]


@pytest.mark.parametrize("name", NAMES)
def test_log_ratios_of_ten_thousand_nats_give_the_right_float32_losses_and_finite_coefficients(name):
    hyper = resolve(name, {}).hyper
    more = {"mismatched": 1e4} if OBJECTIVES[name].mismatched else {}
    result = found(name, [far(*corner, torch.float32) for corner in CORNERS], more.get("mismatched"))
    exact = [far(*corner, torch.float64) for corner in CORNERS]
    expected = torch.stack([oracle.FORMULAS[name](prompt, **hyper, **more) for prompt in exact])
    torch.testing.assert_close(result.losses.double(), expected, rtol=1e-5, atol=1e-6)
    for each in (result.losses, result.sequences, result.members, result.alternatives):
        assert each is None or (each.dtype == torch.float32 and each.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_a_log_prob_that_is_no_number_gives_a_loss_that_is_none(name):
    broken = two(1.0, 2.0)
    broken[0] = broken[0]._replace(logps=broken[0].logps * math.nan)
    assert math.isnan(losses(name, [two(1.0, 2.0), broken])[1])
    assert math.isfinite(losses(name, [two(1.0, 2.0), broken])[0])


@pytest.mark.parametrize("name", sorted({*NAMES} - {"sft", "minor_sft"}))  # these do not look at it
def test_a_rejected_log_prob_that_is_no_number_gives_a_loss_that_is_none(name):
    broken = two(1.0, 2.0)
    broken[1] = broken[1]._replace(logps=broken[1].logps * math.nan)
    assert math.isnan(losses(name, [broken])[0])


# ---- orpo near and at probability 1 ----
def orpo(chosen: float, rejected: float, dtype: torch.dtype = torch.float32) -> tuple[float, float, float]:
    """The loss less the NLL over λ, and its coefficients on m."""
    prompt = [answer([chosen], dtype=dtype), answer([rejected], grade=0.0, dtype=dtype)]
    result = found("orpo", [prompt], orpo_lambda=1.0)
    on_chosen, on_rejected = result.sequences.tolist()
    return result.losses.item() + chosen, on_chosen + 1, on_rejected


SURE, EVEN, HOPELESS = -1e-7, -1.0, -50.0


@pytest.mark.parametrize("rejected", [SURE, -3e-7, EVEN, HOPELESS])
@pytest.mark.parametrize("chosen", [SURE, EVEN, HOPELESS])
def test_orpo_keeps_its_digits_where_probabilities_are_near_one_or_zero(chosen, rejected):
    # log-odds by log(1 − p) = log(−expm1(m)), in double precision by Python's own library
    odds = [math.exp(m) / -math.expm1(m) for m in (chosen, rejected)]
    share = odds[1] / (odds[0] + odds[1])
    expected = (math.log1p(odds[1] / odds[0]), share / math.expm1(chosen), -share / math.expm1(rejected))
    # abs: a unit in the last place of the 50 nats that were taken off the loss again
    assert orpo(chosen, rejected) == pytest.approx(expected, rel=2e-6, abs=4e-6)


def test_orpo_at_a_chosen_probability_of_one_takes_the_limit():
    # −odds_rejected = −1/(e − 1) on the chosen, nothing on the rejected
    assert orpo(0.0, -1.0) == pytest.approx((0, -1 / (math.e - 1), 0), rel=1e-6)
    assert orpo(-1e-9, -1.0, torch.float64) == pytest.approx((0, -1 / (math.e - 1), 0), abs=1e-8)


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_orpo_at_a_rejected_probability_of_one_is_infinite_and_at_two_of_them_no_number(zero):
    assert losses("orpo", [[answer([-1.0]), answer([zero], grade=0)]]) == [math.inf]
    assert math.isnan(losses("orpo", [[answer([0.0]), answer([zero], grade=0)]])[0])


def test_orpo_of_a_hopeless_chosen_response_grows_by_its_log_prob():
    # −m_w + lo_l, lo_l = −1 − log(1 − 1/e)
    expected = 1e4 - 1 - math.log(1 - math.exp(-1))
    assert orpo(-1e4, -1.0) == pytest.approx((expected, -1, 1 / (1 - math.exp(-1))), rel=1e-6)


def test_a_view_of_pairs_gives_the_numbers_of_its_responses():
    logps = responses([two(1.0, 2.0), two(3.0, -4.0)])
    one, other = logps.pairs(), pairs([1.0, 3.0], [2.0, -4.0])
    for name in other.__dataclass_fields__:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=1e-12)
    assert per_response(logps.logratios, logps) == [pytest.approx([1, 2]), pytest.approx([3, -4])]
