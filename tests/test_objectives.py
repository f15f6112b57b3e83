"""Objectives against values worked by hand, formulas typed from the papers in float64, and finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import oracle
from minordpo.errors import InputError
from minordpo.objectives import (
    OBJECTIVES,
    PairLogps,
    dpo,
    dpop,
    hyperparameter_defaults,
    losses_and_coefficients,
    minordpo,
    resolve,
)

BETA = 0.1
# A log-ratio that is not 0 but so small that it is lost beside a log-prob tests rounding, not the objective.
RATIOS = st.floats(-80, 80).map(lambda x: round(x, 3))
BETAS = st.floats(0.005, 1)


def ratios(chosen: Any, rejected: Any, *, dtype: torch.dtype = torch.float64) -> PairLogps:
    """Pairs of these log-ratios over references of −20 and −30 nats."""
    chosen, rejected = torch.as_tensor(chosen, dtype=dtype), torch.as_tensor(rejected, dtype=dtype)
    lengths = torch.full(chosen.shape, 7)
    return PairLogps(
        chosen - 20,
        rejected - 30,
        torch.full_like(chosen, -20),
        torch.full_like(rejected, -30),
        lengths,
        lengths,
    )


def parts(logps: PairLogps) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return logps.chosen_logps, logps.rejected_logps, logps.ref_chosen_logps, logps.ref_rejected_logps


def coefficients(name: str, logps: PairLogps, **hyper: float) -> tuple[Tensor, Tensor]:
    _, chosen, rejected = losses_and_coefficients(resolve(name, hyper), logps)
    return chosen, rejected


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_the_loss_where_policy_is_reference_is_log_two(name):
    losses = OBJECTIVES[name](ratios([0.0, 0.0], [0.0, 0.0]), beta=BETA)
    torch.testing.assert_close(losses, torch.full((2,), math.log(2), dtype=torch.float64), rtol=0, atol=1e-15)


# Worked by hand: σ(ln 3) = 3/4, so that −log σ(ln 3) = log(4/3) and −log σ(−ln 3) = log 4.
LN3 = math.log(3)


def test_dpo_of_a_margin_worked_by_hand():
    losses = dpo(ratios([4.0, -2.0], [4 - 2 * LN3, -2 + 2 * LN3]), beta=0.5)
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(4)], abs=1e-12)


def test_minordpo_leaves_a_rejected_response_below_the_reference_out_of_the_margin():
    losses = minordpo(ratios([2 * LN3] * 3, [-50.0, 0.0, 4 * LN3]), beta=0.5)
    assert losses.tolist() == pytest.approx([math.log(4 / 3), math.log(4 / 3), math.log(4)], abs=1e-12)


def test_dpop_subtracts_lambda_times_what_the_chosen_response_lost():
    # chosen −1, rejected −5: the margin of 4 less λ · 1, times β; chosen +1: no penalty
    losses = dpop(ratios([-1.0, 1.0], [-5.0, 1 - 2 * LN3]), beta=0.5, dpop_lambda=4 + 2 * LN3)
    assert losses.tolist() == pytest.approx([math.log(4), math.log(4 / 3)], abs=1e-12)


@given(st.lists(st.tuples(RATIOS, RATIOS), min_size=1, max_size=6), BETAS, st.floats(0, 60))
def test_losses_and_coefficients_are_those_of_the_papers_formulas(pairs, beta, dpop_lambda):
    logps = ratios(*zip(*pairs, strict=True))
    for name in OBJECTIVES:
        hyper = {"beta": beta} | ({"dpop_lambda": dpop_lambda} if name == "dpop" else {})
        losses, chosen, rejected = losses_and_coefficients(resolve(name, hyper), logps)
        inputs = [each.clone().requires_grad_(i < 2) for i, each in enumerate(parts(logps))]
        expected = getattr(oracle, name)(*inputs, **hyper)
        expected_chosen, expected_rejected = torch.autograd.grad(expected.sum(), inputs[:2])
        torch.testing.assert_close(losses, expected.detach(), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(chosen, expected_chosen, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(rejected, expected_rejected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_gradients_are_those_of_finite_differences(name):
    chosen, rejected, ref_chosen, ref_rejected = parts(ratios([3.0, -2.0, 0.5, -0.4], [1.5, -4.0, -0.2, 0.7]))
    lengths = torch.ones(4, dtype=torch.int64)

    def losses(chosen: Tensor, rejected: Tensor) -> Tensor:
        return OBJECTIVES[name](
            PairLogps(chosen, rejected, ref_chosen, ref_rejected, lengths, lengths), beta=BETA
        )

    assert torch.autograd.gradcheck(losses, (chosen.requires_grad_(), rejected.requires_grad_()))


@given(RATIOS, RATIOS, BETAS)
def test_descent_raises_the_chosen_response_and_never_the_rejected_one(chosen, rejected, beta):
    for name in OBJECTIVES:
        c_chosen, c_rejected = coefficients(name, ratios([chosen], [rejected]), beta=beta)
        assert c_chosen.item() < 0
        assert c_rejected.item() >= 0


def test_dpo_coefficients_are_beta_times_the_sigmoid_of_minus_the_margin():
    # Xie et al. 2024, Eq. 4, at β · margin = ln 3: σ(−ln 3) = 1/4
    c_chosen, c_rejected = coefficients("dpo", ratios([2 * LN3], [0.0]), beta=0.5)
    assert (c_chosen.item(), c_rejected.item()) == pytest.approx((-0.125, 0.125), abs=1e-12)


@given(RATIOS, st.floats(0.001, 80), BETAS)
def test_minordpo_is_dpo_where_the_rejected_response_is_above_the_reference(chosen, rejected, beta):
    logps = ratios([chosen], [rejected])
    for found, expected in zip(
        losses_and_coefficients(resolve("minordpo", {"beta": beta}), logps),
        losses_and_coefficients(resolve("dpo", {"beta": beta}), logps),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rejected", [0.0, -0.0, -1e-3, -40.0])
def test_minordpo_gives_a_rejected_response_at_or_below_the_reference_exactly_no_gradient(rejected, dtype):
    c_chosen, c_rejected = coefficients("minordpo", ratios([0.3], [rejected], dtype=dtype), beta=BETA)
    assert c_rejected.item() == 0
    assert c_chosen.item() == pytest.approx(-BETA / (1 + math.exp(BETA * 0.3)), rel=1e-5)


def test_dpop_strengthens_the_chosen_coefficient_by_one_plus_lambda_below_the_reference():
    logps = ratios([-0.2, 0.0, 0.2], [-0.1, -0.1, -0.1])
    c_chosen, c_rejected = coefficients("dpop", logps, beta=BETA, dpop_lambda=50.0)
    assert (-c_chosen / c_rejected).tolist() == pytest.approx([51.0, 1.0, 1.0], rel=1e-9)


@given(RATIOS, RATIOS)
def test_dpop_without_its_lambda_is_dpo(chosen, rejected):
    logps = ratios([chosen], [rejected])
    torch.testing.assert_close(dpop(logps, beta=BETA, dpop_lambda=0.0), dpo(logps, beta=BETA), rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_extreme_log_ratios_stay_finite_and_a_nan_stays_a_nan(name):
    wide = ratios([-1e4, 1e4, 0.0], [1e4, -1e4, math.nan], dtype=torch.float32)
    losses, c_chosen, c_rejected = losses_and_coefficients(resolve(name, {}), wide)
    assert torch.isfinite(torch.stack([losses, c_chosen, c_rejected])[:, :2]).all()
    assert losses[2].isnan()


def test_losses_and_coefficients_work_where_gradients_are_off_and_leave_their_inputs_alone():
    logps = ratios([1.0], [2.0])
    with torch.no_grad():
        losses, c_chosen, _ = losses_and_coefficients(resolve("dpo", {}), logps)
    assert not logps.chosen_logps.requires_grad
    assert not losses.requires_grad
    assert c_chosen.item() < 0


def test_a_response_that_an_objective_does_not_read_has_coefficient_zero():
    _, c_chosen, c_rejected = losses_and_coefficients(
        lambda logps: -logps.chosen_logps, ratios([1.0, 2.0], [3.0, 4.0])
    )
    assert c_chosen.tolist() == [-1, -1]
    assert c_rejected.tolist() == [0, 0]


def test_hyperparameters_are_the_keyword_arguments_and_nothing_else():
    assert hyperparameter_defaults("minordpo") == {"beta": 0.1}
    assert hyperparameter_defaults("dpop") == {"beta": 0.1, "dpop_lambda": 50.0}  # λ as in Xie et al. 2024


def test_a_resolved_objective_has_its_hyperparameters_bound():
    logps = ratios([2.0], [1.0])
    torch.testing.assert_close(resolve("dpo", {"beta": 0.5})(logps), dpo(logps, beta=0.5), rtol=0, atol=0)


def test_an_unknown_objective_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"'minor-dpo', which is no objective \(did you mean minordpo\?\)"):
        resolve("minor-dpo", {})
    with pytest.raises(InputError, match=r"'zzz', which is no objective\. Known: dpo, dpop, minordpo"):
        resolve("zzz", {})


def test_an_unknown_hyperparameter_is_refused_with_the_nearest_name():
    with pytest.raises(
        InputError, match=r"objective dpo has no hyper-parameter 'bta' \(did you mean beta\?\)"
    ):
        resolve("dpo", {"bta": 0.1})
    with pytest.raises(InputError, match=r"minordpo has no hyper-parameter 'dpop_lambda'\. It has: beta"):
        resolve("minordpo", {"dpop_lambda": 5})


@pytest.mark.parametrize(
    "value",
    [0, -0.1, math.nan, math.inf, True, "0.1", None, [0.1], 10**400],
    ids=lambda value: str(value)[:9],
)
def test_a_beta_that_is_no_number_above_zero_is_refused(value):
    with pytest.raises(InputError, match=r"objective\.beta is .*, but must be a number above 0$"):
        resolve("dpo", {"beta": value})


@pytest.mark.parametrize("value", [-1e-9, math.nan, False])
def test_a_lambda_below_zero_is_refused(value):
    with pytest.raises(InputError, match=r"objective\.dpop_lambda is .*, but must be a number at least 0$"):
        resolve("dpop", {"dpop_lambda": value})
    resolve("dpop", {"dpop_lambda": 0})


def test_every_hyperparameter_has_a_range():
    # resolve would fail with a KeyError at the first user of one without
    for name in OBJECTIVES:
        resolve(name, hyperparameter_defaults(name))
