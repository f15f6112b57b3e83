"""Objectives by name: hyper-parameters, weighted sums, coefficients by token, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from helpers.objective_cases import answer, responses, two
from minordpo.errors import InputError
from minordpo.objectives import (
    OBJECTIVES,
    Gradient,
    PairLogps,
    ResponseLogps,
    TokenLogps,
    gradient,
    refuse_data,
    resolve,
)
from minordpo.objectives.resolve import RANGES
from minordpo.objectives.spec import Spec, by_name

NAMES = sorted(OBJECTIVES)
PROMPTS = [
    [answer([-1.0, -0.5], [-1.5, -0.25]), answer([-0.625], [-1.0], grade=0, others=[-1.25])],
    [answer([-3.0], [-2.0]), answer([-0.5, -1.5, -1.0], [-0.5, -1.0, -1.25], grade=0, others=[-2, -0.5, -1])],
]


def found(name: str, **hyper: Any) -> Gradient:
    return gradient(resolve(name, hyper), responses(PROMPTS))


# ---- hyper-parameters ----
def test_hyperparameters_are_the_keyword_arguments_and_nothing_else():
    assert OBJECTIVES["minordpo"].defaults == {"beta": 0.1, "gate_margin": 0.0}  # the paper has no margin
    assert OBJECTIVES["dpop"].defaults == {"beta": 0.1, "dpop_lambda": 50.0}  # λ as in Xie et al. 2024
    assert OBJECTIVES["rrhf"].defaults == {
        "rank_weight": 1.0,
        "per_token": False,
    }  # the paper's plain sum


@pytest.mark.parametrize("name", NAMES)
def test_defaults_lie_in_their_ranges_and_the_formula_is_one_line(name):
    defaults = OBJECTIVES[name].defaults
    assert resolve(name, defaults).hyper == defaults
    formula = OBJECTIVES[name].formula
    assert len(formula) > 10
    assert "\n" not in formula


def test_a_resolved_objective_has_its_hyperparameters_bound():
    logps = responses(PROMPTS)
    expected = OBJECTIVES["dpo"].function(logps.pairs(), beta=0.5)
    torch.testing.assert_close(resolve("dpo", {"beta": 0.5})(logps), expected, rtol=0, atol=0)


def test_whole_numbers_are_taken_for_numbers():
    hyper = resolve("dpop", {"beta": 1, "dpop_lambda": 5}).hyper
    assert hyper == {"beta": 1.0, "dpop_lambda": 5.0}
    assert all(type(value) is float for value in hyper.values())
    assert type(resolve("pairwise_cringe", {"top_k": 3}).hyper["top_k"]) is int


# What papers and their code use, beside the defaults.
PUBLISHED = [
    ("dpo", {"beta": 0.01}),
    ("minordpo", {"beta": 0.02}),
    ("dpop", {"beta": 0.3, "dpop_lambda": 500}),
    ("ipo", {"beta": 1.0}),
    ("simpo", {"beta": 10, "gamma": 0}),
    ("orpo", {"orpo_lambda": 2}),
    ("hinge", {"beta": 0.05}),
    ("slic", {"delta": 10}),
    ("robust", {"beta": 0.01, "label_smoothing": 0.4}),
    ("kto", {"beta": 0.1, "desirable_weight": 1.33}),
    ("rrhf", {"rank_weight": 100, "per_token": True}),
    ("pairwise_cringe", {"margin": -10, "temperature": 10, "alpha": 0.005, "top_k": 1}),
]


@pytest.mark.parametrize(("name", "hyper"), PUBLISHED)
def test_ranges_hold_what_papers_and_their_code_use(name, hyper):
    assert resolve(name, hyper).hyper.items() >= hyper.items()


def test_an_objective_says_its_name_and_hyperparameters():
    assert str(resolve("minordpo", {})) == "minordpo, beta 0.1"  # a margin of 0 is none
    assert str(resolve("minordpo", {"gate_margin": 0.5})) == "minordpo, beta 0.1, gate_margin 0.5"
    assert str(resolve("dpop", {"beta": 0.02})) == "dpop, beta 0.02, dpop_lambda 50"
    assert str(resolve("minordpo + 0.1*sft", {})) == "minordpo + 0.1*sft, beta 0.1, per_token true"
    assert resolve("sft + dpo", {"beta": 0.3}).beta == 0.3
    assert resolve("sft", {}).beta == 1


def test_what_a_sum_needs_is_what_its_terms_need():
    needs = {
        name: (each.reference, each.mismatched, each.alternatives, each.undesirable, set(each.data))
        for name in ("sft", "simpo + sft", "kto", "0.5*kto + sft", "kto + rrhf", "pairwise_cringe + sft")
        for each in [resolve(name, {})]
    }
    assert needs == {
        "sft": (False, False, None, False, {"pairs", "labelled", "ranked"}),
        "simpo + sft": (False, False, None, False, {"pairs"}),
        "kto": (True, True, None, True, {"pairs", "labelled"}),
        "0.5*kto + sft": (True, True, None, False, {"pairs", "labelled"}),
        "kto + rrhf": (True, True, None, True, {"pairs"}),
        "pairwise_cringe + sft": (False, False, 5, False, {"pairs"}),
    }


def test_pairs_suit_every_objective_so_that_every_sum_has_data():
    assert all("pairs" in spec.data for spec in OBJECTIVES.values())


# ---- sums ----
@pytest.mark.parametrize(
    "written", ["minordpo + 0.25*sft", "minordpo+0.25*sft", " 1 * minordpo + 2.5e-1 *sft "]
)
def test_a_sum_has_the_weighted_losses_and_coefficients_of_its_terms(written):
    whole, first, second = found(written), found("minordpo"), found("sft")
    torch.testing.assert_close(whole.losses, first.losses + 0.25 * second.losses, rtol=0, atol=1e-15)
    torch.testing.assert_close(whole.sequences, first.sequences + 0.25 * second.sequences, rtol=0, atol=1e-15)


def test_a_sum_with_a_term_by_token_has_coefficients_by_token():
    whole, first, second = (
        found("2*pairwise_cringe + dpo", beta=0.3),
        found("pairwise_cringe"),
        found("dpo", beta=0.3),
    )
    assert whole.members is not None
    assert first.members is not None
    assert whole.alternatives is not None
    assert first.alternatives is not None
    logps = responses(PROMPTS)
    expected = 2 * first.members + second.sequences.repeat_interleave(logps.tokens)
    torch.testing.assert_close(whole.members, expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(whole.alternatives, 2 * first.alternatives, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(whole.losses, 2 * first.losses + second.losses, rtol=1e-12, atol=1e-15)


def test_a_hyperparameter_goes_to_every_term_that_has_it():
    whole = found("dpo + minor_sft", beta=0.3, per_token=False)
    parts = [found("dpo", beta=0.3), found("minor_sft", beta=0.3, per_token=False)]
    torch.testing.assert_close(whole.losses, parts[0].losses + parts[1].losses, rtol=1e-12, atol=0)


def test_terms_that_differ_in_a_default_need_it_given():
    message = (
        r"'simpo \+ dpo', whose beta is 2 by default in simpo but 0\.1 in dpo\. Set objective\.beta; it holds"
    )
    with pytest.raises(InputError, match=message):
        resolve("simpo + dpo", {})
    with pytest.raises(InputError, match="per_token is false by default in rrhf but true in sft"):
        resolve("rrhf + 0.1*sft", {})
    assert resolve("simpo + dpo", {"beta": 0.5}).hyper == {"beta": 0.5, "gamma": 1.0}


# ---- coefficients ----
def test_coefficients_by_token_are_those_of_autograd_through_the_whole():
    """The first tokens of both responses are one: packed once, it gets what both ask of it."""
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 3, 1, 6, 2])
    members = torch.tensor([0, 1, 2, 0, 3, 4])  # chosen 0 1 2, rejected 0 3 4
    sequences = torch.tensor([0, 0, 0, 1, 1, 1])
    others = torch.tensor([5, 4, 0])  # drawn at the rejected response's places

    def seen(packed: torch.Tensor, drawn: torch.Tensor) -> ResponseLogps:
        logps = packed[members]
        sums = torch.zeros(2, dtype=torch.float64).index_add(0, sequences, logps)
        by_token = TokenLogps(logps, sequences, drawn, torch.tensor([3, 4, 5]))
        grades = torch.tensor([1.0, 0.0])
        return ResponseLogps(
            sums, None, torch.tensor([3, 3]), torch.zeros(2).long(), grades, by_token=by_token
        )

    for hyper in ({}, {"gate_gradient": True, "per_token": False}):
        objective = resolve("pairwise_cringe + 0.5*slic", {**hyper, "alpha": 0.7, "delta": 3.0})
        logps = logits.log_softmax(dim=1)
        packed, drawn = logps[torch.arange(5), targets], logps[[0, 3, 4], others]
        (whole,) = torch.autograd.grad(objective(seen(packed, drawn)).sum(), logits, retain_graph=True)
        result = gradient(objective, seen(packed, drawn))
        assert result.members is not None
        assert result.alternatives is not None
        by_token = torch.zeros(5, dtype=torch.float64).index_add(0, members, result.members)
        weighted = (packed * by_token).sum() + (drawn * result.alternatives).sum()
        (apart,) = torch.autograd.grad(weighted, logits)
        torch.testing.assert_close(apart, whole, rtol=1e-10, atol=1e-14)
        assert whole[0].abs().max() > 0.01


@pytest.mark.parametrize("name", ["minordpo", "pairwise_cringe"])
def test_coefficients_come_without_a_graph_and_leave_their_inputs_alone(name):
    logps = responses(PROMPTS)
    assert logps.by_token is not None
    leaves = [logps.logps, logps.ref_logps, logps.by_token.logps, logps.by_token.alternative_logps]
    before = [each.clone() for each in leaves]
    for each in leaves:
        each.requires_grad_()
    with torch.no_grad():
        result = gradient(resolve(name, {}), logps)
    with_grad = gradient(resolve(name, {}), logps)
    for each in (result.losses, result.sequences, result.members, result.alternatives):
        assert each is None or not each.requires_grad
    torch.testing.assert_close(result.sequences, with_grad.sequences, rtol=0, atol=0)
    assert result.sequences.abs().max() > 0
    for each, was in zip(leaves, before, strict=True):
        assert each.grad is None
        assert each.requires_grad
        torch.testing.assert_close(each.detach(), was, rtol=0, atol=0)


def test_the_baseline_of_kto_carries_no_gradient():
    logps = responses(PROMPTS)
    mismatched = torch.tensor(1.5, requires_grad=True)
    given = {name: getattr(logps, name) for name in logps.__dataclass_fields__}
    losses = resolve("kto", {})(ResponseLogps(**{**given, "mismatched_logratio": mismatched}))
    assert not losses.requires_grad
    assert (losses != resolve("kto", {})(logps)).all()


@pytest.mark.parametrize("name", NAMES)
def test_references_are_read_by_the_objectives_that_say_so_and_by_no_other(name):
    logps = responses(PROMPTS)
    given = {each: getattr(logps, each) for each in logps.__dataclass_fields__}
    without = ResponseLogps(**{**given, "ref_logps": None})
    objective = resolve(name, {})
    if objective.reference:
        with pytest.raises(ValueError, match="a log-ratio needs reference log-probs, and there are none"):
            objective(without)
    else:
        torch.testing.assert_close(objective(without), objective(logps), rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(n for n, spec in OBJECTIVES.items() if spec.data != {"pairs"}))
def test_single_and_ranked_responses_give_one_loss_a_prompt(name):
    objective = resolve(name, {})
    kinds = {
        "labelled": [[answer([-1.0, -2.0])], [answer([-0.5])], [answer([-3.0])]],
        "ranked": [
            [answer([-1.0], grade=3.0), answer([-2.0], grade=2.0), answer([-0.5], grade=1.0)],
            two(1, 2),
        ],
    }
    for kind in objective.data - {"pairs"}:
        result = gradient(objective, responses(kinds[kind]))
        assert result.losses.shape == (len(kinds[kind]),)
        assert result.losses.isfinite().all()


# ---- refusals ----
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minor-dpo", r"objective\.name is 'minor-dpo', which is no objective \(did you mean minordpo\?\)"),
        (
            "zzz",
            r"is 'zzz', which is no objective\. Known: bdpo, .*, slic; sums are written minordpo \+ 0\.1\*sft",
        ),
        ("dpo + stf", r"is 'stf' in 'dpo \+ stf', which is no objective \(did you mean sft\?\)"),
        ("dpo +", r"is '' in 'dpo \+', which is no objective"),
        ("*sft", "the weight '' is no number above 0"),
        ("dpo*0.5", r"is '0\.5' in 'dpo\*0\.5', which is no objective"),
        ("dpo + 0.1*dpo", r"'dpo \+ 0\.1\*dpo', which names an objective twice\. Add up their weights"),
        ("dpo + 0*sft", r"the weight '0' is no number above 0\. Write sums as minordpo \+ 0\.1\*sft"),
        ("dpo + -1*sft", "the weight '-1' is no number above 0"),
        ("dpo + nan*sft", "the weight 'nan' is no number above 0"),
        ("inf*sft", "the weight 'inf' is no number above 0"),
        ("dpo + much*sft", "the weight 'much' is no number above 0"),
    ],
)
def test_a_name_that_is_no_objective_or_sum_of_them_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        resolve(name, {})


@pytest.mark.parametrize(
    ("name", "key", "message"),
    [
        ("dpo", "bta", r"objective dpo has no hyper-parameter 'bta' \(did you mean beta\?\)\. It has: beta$"),
        (
            "minordpo",
            "dpop_lambda",
            r"minordpo has no hyper-parameter 'dpop_lambda'\. It has: beta, gate_margin$",
        ),
        ("dpo + sft", "gamma", r"dpo \+ sft has no hyper-parameter 'gamma'\. It has: beta, per_token$"),
    ],
)
def test_an_unknown_hyperparameter_is_refused_with_the_nearest_name(name, key, message):
    with pytest.raises(InputError, match=message):
        resolve(name, {key: 0.1})


POSITIVE, NOT_NEGATIVE = "a number above 0", "a number at least 0"
SWITCH, WHOLE = "true or false", "a whole number at least 1"
WORDS = {
    "alpha": ("dpo_nll", NOT_NEGATIVE),
    "bdpo_lambda": ("bdpo", "a number above 0 and below 1"),
    "beta": ("dpo", POSITIVE),
    "bpo_alpha": ("bpo", "a number above 0 and at most 1"),
    "delta": ("slic", NOT_NEGATIVE),
    "desirable_weight": ("kto", NOT_NEGATIVE),
    "dpop_lambda": ("dpop", NOT_NEGATIVE),
    "gamma": ("simpo", NOT_NEGATIVE),
    "gate_margin": ("minordpo", NOT_NEGATIVE),
    "gate_gradient": ("pairwise_cringe", SWITCH),
    "label_smoothing": ("robust", "a number at least 0 and below 0.5"),
    "margin": ("pairwise_cringe", "a number"),
    "orpo_lambda": ("orpo", NOT_NEGATIVE),
    "per_token": ("ipo", SWITCH),
    "rank_weight": ("rrhf", NOT_NEGATIVE),
    "temperature": ("pairwise_cringe", POSITIVE),
    "top_k": ("pairwise_cringe", WHOLE),
    "undesirable_weight": ("kto", NOT_NEGATIVE),
}
OUTSIDE: dict[str, list[Any]] = {
    POSITIVE: [0, 0.0, -0.1],
    NOT_NEGATIVE: [-1e-9, -1],
    "a number at least 0 and below 0.5": [-0.1, 0.5, 1],
    "a number above 0 and below 1": [0, 1, -0.5, 1.5],
    "a number above 0 and at most 1": [0, -0.5, 1.01],
    "a number": [],
    SWITCH: [0, 1, 1.0],
    WHOLE: [0, -3, 2.0, 1.5],
}
NEVER = [
    "0.1",
    None,
    [0.1],
    math.nan,
    math.inf,
    -math.inf,
]  # and, but for switches, true; and what no float holds


def test_every_hyperparameter_has_its_range_and_every_range_its_words():
    every = {key for name in NAMES for key in OBJECTIVES[name].defaults}
    assert sorted(every) == sorted(RANGES) == sorted(WORDS)


def test_who_adds_an_objective_without_words_for_it_is_told_at_import():
    def tilted(logps: PairLogps, *, beta: float = 0.1) -> Any:
        """margin.

        Assumes: nothing.
        """

    with pytest.raises(
        TypeError, match="the docstring of objective tilted needs lines Assumes: … and Usual: …"
    ):
        by_name(Spec(tilted))


def test_the_nearest_name_is_found_in_any_case():
    with pytest.raises(InputError, match=r"did you mean minordpo\?"):
        resolve("MinorDPO", {})


@pytest.mark.parametrize("key", sorted(WORDS))
def test_a_hyperparameter_out_of_its_range_is_refused_in_words(key):
    name, words = WORDS[key]
    values = [*OUTSIDE[words], *NEVER, *([] if words == SWITCH else [True, 10**400])]
    for value in values:
        with pytest.raises(InputError, match=rf"objective\.{key} is .*, but must be {words}$"):
            resolve(name, {key: value})


def test_data_of_another_kind_is_refused_with_objectives_that_take_it():
    refuse_data(resolve("minordpo", {}), "pairs", [(1.0, 0.0)], "pairs.jsonl")
    message = (
        r"rows\.jsonl holds labelled responses \(prompt, completion, label\), but the objective minordpo needs "
        r"pairs \(prompt, chosen, rejected\)\. Objectives for this data: kto, minor_sft, sft$"
    )
    with pytest.raises(InputError, match=message):
        refuse_data(resolve("minordpo", {}), "labelled", [(1.0,)], "rows.jsonl")
    message = (
        r"rows\.jsonl holds ranked responses \(prompt, responses, ranks or scores\), but the objective kto needs "
        r"pairs \(.*\) or labelled responses \(.*\)\. Objectives for this data: minor_sft, rrhf, sft$"
    )
    with pytest.raises(InputError, match=message):
        refuse_data(resolve("kto", {}), "ranked", [(2.0, 1.0)], "rows.jsonl")


def test_undesirable_responses_are_refused_where_the_objective_has_no_use_for_them():
    labels = [(1.0,), (0.0,), (0.0,)]
    refuse_data(resolve("kto", {}), "labelled", labels, "rows.jsonl")
    refuse_data(resolve("sft", {}), "labelled", labels[:1], "rows.jsonl")
    refuse_data(resolve("sft", {}), "pairs", [(1.0, 0.0)], "rows.jsonl")
    message = (
        r"rows\.jsonl holds 2 responses labelled undesirable, for which the objective kto \+ sft has no use\. "
        r"Leave them out of the file, or train with kto$"
    )
    with pytest.raises(InputError, match=message):
        refuse_data(resolve("kto + sft", {}), "labelled", labels, "rows.jsonl")


def test_pairs_are_the_first_and_last_response_of_each_prompt():
    logps = responses(
        [two(1.0, 2.0), [answer([-1.0], grade=3), answer([-5.0], grade=2), answer([-2.0], grade=1)]]
    )
    found_pairs = logps.pairs()
    assert isinstance(found_pairs, PairLogps)
    assert found_pairs.chosen_logps.tolist() == [-63, -1]
    assert found_pairs.rejected_logps.tolist() == [-63, -2]


@pytest.mark.parametrize(("other", "ours"), [("sigmoid", "dpo"), ("kto_pair", "kto"), ("smaug", "dpop")])
def test_what_other_tools_call_an_objective_is_known(other, ours):
    with pytest.raises(InputError, match=rf"'{other}', which is no objective \(did you mean {ours}\?\)"):
        resolve(other, {})
