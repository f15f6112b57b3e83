"""What verdicts are made of: one number a seed, the exact test over seeds, Holm over the primary claims."""

from __future__ import annotations

import itertools
import math

import pytest

from helpers.claim_runs import claim, runs, verdict
from minordpo.paper.claims.claim import Undecidable
from minordpo.paper.claims.contrast import amount
from minordpo.paper.claims.judge import judge, seeds_needed
from minordpo.paper.claims.measures import formula
from minordpo.paper.claims.rules.formulas import push
from minordpo.paper.claims.seed_table import contrast, side_by_side, table, tau


def test_fewer_than_six_seeds_never_decide_and_holm_over_three_claims_needs_seven():
    assert seeds_needed() == 6
    assert 2 ** (1 - 6) < 0.05 <= 2 ** (1 - 5)
    assert seeds_needed(3) == 7
    assert seeds_needed(5) == 8


def test_holm_is_over_the_primary_claims_that_the_runs_can_be_asked():
    # Seven seeds, all alike: p = 2/128 = 0.0156 each. Holm: 3, 2 and 1 times it, none below one before.
    made = [
        run
        for name, share in (("minordpo", 0.7), ("dpo", 0.3), ("dpop", 0.6))
        for run in runs(name, seeds=range(7), accuracy=share, base_accuracy=0.5)
    ]
    primary = [claim(name) for name in ("C5a", "C5b", "C5c")]
    found = judge(primary, made)
    assert [each.adjusted for each in found] == [pytest.approx(3 / 64)] * 3
    assert [each.state for each in found] == ["held"] * 3
    assert found[0].finding.p == 1 / 64
    assert "p 0.016, 0.047 after Holm" in found[0].words()
    six = judge(primary, [run for run in made if run.seed < 6])
    assert {each.missing for each in six} == {"needs at least 7 seeds (3 tests are made): 6 are there"}
    alone = judge(primary, [run for run in made if run.seed < 6 and run.objective == "dpo"])
    assert [each.state for each in alone] == ["held", "not decidable", "not decidable"]


def test_the_weakest_part_of_a_claim_decides_it():
    signs = [1, 1, 1, 1, 1, 1, -1, -1]  # chosen below 0 in six seeds of eight
    given = runs("dpo", chosen=lambda b, r, s: -1.0 * signs[s], rejected=-5.0, margin=2.0)
    found = verdict("C2", given)
    # |sum| ≥ 4 of eight signs: 2 (1 + 8 + 28) of 256
    assert found.finding.p == 74 / 256
    assert found.state == "did not hold"
    assert "(no difference shown: chosen)" in found.words()
    upside = runs("dpo", chosen=1.0, rejected=-5.0, margin=2.0)
    assert "p 0.0078 (the opposite of what is claimed: chosen)" in verdict("C2", upside).words()


def test_settings_are_averaged_within_a_seed_and_seeds_that_lack_one_are_left_out():
    made = runs("dpo", margin=lambda b, r, s: 10 * s + 100 * b)
    short = [run for run in made if (run.seed, run.beta, run.rate) != (3, 0.2, 1e-3)]
    found = contrast("margin", table(short, "dpo", "margin"))
    assert found.by_seed == {s: pytest.approx(10 * s + 11) for s in (0, 1, 2, 4, 5, 6, 7)}
    assert found.left_out == (3,)
    assert "left out for lacking settings: seeds 3" in verdict("C3b", short).words()
    none = [
        run
        for run in made
        if not (run.beta == 0.2 and run.seed % 2) and not (run.beta != 0.2 and run.seed % 2 == 0)
    ]
    with pytest.raises(Undecidable, match="no seed has all of the 4 settings"):
        contrast("margin", table(none, "dpo", "margin"))


def test_a_setting_whose_runs_all_lack_the_measure_is_named():
    made = runs("dpo", betas=[0.02], margin=1.0) + runs("dpo", betas=[0.2])
    with pytest.raises(Undecidable, match=r"the runs at β 0\.2, rate 1e-4 lack a measure that others have"):
        contrast("margin", table(made, "dpo", "margin"))


def test_objectives_are_compared_at_the_settings_that_both_have():
    dpo = table(runs("dpo", betas=[0.02, 0.1], margin=5.0), "dpo", "margin")
    minor = table(runs("minordpo", betas=[0.1, 0.2], margin=lambda b, r, s: 20 * b), "minordpo", "margin")
    assert set(contrast("margin", dpo, minor).by_seed.values()) == {3.0}
    other = table(runs("minordpo", betas=[0.3], margin=1.0), "minordpo", "margin")
    with pytest.raises(Undecidable, match=r"no setting \(β, learning rate\) that"):
        contrast("margin", dpo, other)


def test_a_copy_of_a_run_is_no_replicate():
    made = runs("dpo", seeds=[0], margin=1.0) + runs("dpo", seeds=[0], margin=3.0)
    assert contrast("margin", table(made, "dpo", "margin")).by_seed == {0: 2.0}


def test_an_ordering_counts_pairs_of_settings_and_not_how_far_they_are_apart():
    # Rate 1e-4: 1, 2, 9 rises thrice. Rate 1e-3: 900, 1, 2 falls twice and rises once. (4 − 2) / 6.
    values = {
        (1e-4, 0.02): 1,
        (1e-4, 0.1): 2,
        (1e-4, 0.2): 9,
        (1e-3, 0.02): 900,
        (1e-3, 0.1): 1,
        (1e-3, 0.2): 2,
    }
    made = runs("dpo", betas=[0.02, 0.1, 0.2], margin=lambda b, r, s: values[r, b])
    found = table(made, "dpo", "margin").ordering("margin", "beta", 1)
    assert list(found.by_seed.values()) == pytest.approx([1 / 3] * 8)
    assert tau([1.0, 2.0, 3.0], [3.0, 1.0, 2.0]) == pytest.approx(-1 / 3)
    assert tau([1.0, 1.0, 2.0], [3.0, 1.0, 2.0]) == pytest.approx(0)


def test_a_list_of_means_is_over_the_same_rates():
    made = runs("dpo", margin=lambda b, r, s: b + 1000 * r) + runs(
        "dpo", rates=[1e-2], betas=[0.02], margin=99.0
    )
    said = table(made, "dpo", "margin").listed("margin", "beta", "nats")
    assert said == "margin by β: 0.02 → +0.57 nats, 0.2 → +0.75 nats"


def test_a_share_is_told_as_it_is_beside_what_is_claimed_of_it():
    shares = table(runs("dpo", broken=lambda _, rate, seed: float(seed == 0)), "dpo", "broken")
    found = contrast("broken", shares, predicted=-1, unit="share", bar=0.25)
    assert found.words() == "broken 12.5 % (claimed: below 25.0 %, sd 35.4, 7 of 8 seeds)"
    assert found.by_seed[1] == -0.25
    wins = contrast("wins", shares, shares, unit="share", value=lambda *_: 1.0, bar=0.5)
    assert wins.words() == "wins 100.0 % (claimed: above 50.0 %, sd 0.0, 8 of 8 seeds)"
    assert wins.as_predicted == 8


def test_means_side_by_side_are_of_one_rate_each_and_of_the_settings_and_seeds_that_both_have():
    def rising(beta: float, rate: float, seed: int) -> float:
        return 1e4 * rate + 100 * (beta < 0.2 or seed > 1)  # which the other has not

    ours = table(runs("minordpo", chosen=rising), "minordpo", "chosen")
    theirs = runs("dpo", betas=(0.2,), seeds=(0, 1), chosen=lambda _, rate, __: -2e4 * rate)
    theirs = table(theirs, "dpo", "chosen")
    assert list(side_by_side("chosen", ours, theirs)) == [
        "chosen at 1e-4: MinorDPO +1.00 nats, DPO −2.00 nats",
        "chosen at 1e-3: MinorDPO +10.0 nats, DPO −20.0 nats",
    ]


def test_amounts_are_written_in_their_units():
    assert amount(-12.34, "nats") == "−12.3 nats"
    assert amount(0.125, "points") == "+12.5 points"
    assert amount(0.125, "share", sign=False) == "12.5 %"
    assert amount(0.0123, "nats a token") == "+0.012 nats a token"
    assert amount(1.0, "") == "+1.00"


def test_the_push_is_the_papers_coefficient():
    # β σ(−β margin): at 0 half of β; at ln 3 / β nats a quarter of it
    assert formula(0.1, 0.0) == 0.05
    assert formula(0.1, math.log(3) / 0.1) == pytest.approx(0.025)
    assert formula(0.2, -1e5) == 0.2
    assert formula(0.2, 1e5) == 0.0
    places = list(itertools.product((-3.0, 0.0, 7.0), (-2.0, 5.0)))
    chosen, rejected = ([each[i] for each in places] for i in (0, 1))
    assert push("dpo", 0.1, chosen, rejected) == pytest.approx([formula(0.1, c - r) for c, r in places])
    closed = [formula(0.1, c - max(0.0, r)) for c, r in places]
    assert push("minordpo", 0.1, chosen, rejected) == pytest.approx(closed)
