"""The sweeps of the micro world: one protocol in all of them, which nothing but imitation has set."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from helpers.places import ROOT
from minordpo.paper.worlds.foundation import MicroWorld
from minordpo.sweep.plan import SweepPlan, load_plan

FOLDER = ROOT / "recipes" / "paper"
ARMS = {"dpo", "dpop", "minordpo", "sft", "minor_sft", "dpo_nll"}
VARIED = {"learning_rate", "seed", "data_seed"}
LOOKS = {"eval_strategy", "eval_steps", "eval_on_start"}  # change no weight


def plan(name: str) -> SweepPlan:
    return load_plan(FOLDER / f"micro-{name}.yaml", extension=MicroWorld)


@pytest.fixture(scope="module")
def plans() -> dict[str, SweepPlan]:
    return {name: plan(name) for name in ("rates", "shows", "decides", "dials", "tuned", "confirms")}


def rates(found: SweepPlan) -> set[float]:
    return {run.config.training.arguments["learning_rate"] for run in found.runs}


def seeds(found: SweepPlan) -> set[int]:
    return {run.config.training.arguments["seed"] for run in found.runs}


def protocol(found: SweepPlan) -> list[dict[str, Any]]:
    """The distinct ways to train and to make a world, of what no sweep is about."""
    ways = []
    for run in found.runs:
        arguments = run.config.training.arguments
        assert run.foundation is not None
        way = {key: value for key, value in arguments.items() if key not in VARIED | LOOKS}
        world = run.foundation.values
        way |= {"pairs": world.pairs, "base": (world.base_steps, world.base_accuracy)}
        if way not in ways:
            ways.append(way)
    return ways


def test_all_sweeps_train_alike_and_start_from_a_base_that_was_accepted(plans: dict[str, SweepPlan]):
    (way,) = protocol(plans["rates"])
    assert way["base"][1] == (0.45, 0.65)
    assert way["pairs"] == 60 * way["per_device_train_batch_size"]
    for name in sorted(plans):
        assert protocol(plans[name]) == [way]


def test_the_two_rates_are_ten_times_apart_and_were_tried_by_imitation_on_seeds_of_its_own(
    plans: dict[str, SweepPlan],
):
    tried = plans["rates"]
    assert {run.config.objective.name for run in tried.runs} == {"sft"}
    low, high = sorted(rates(plans["decides"]))
    assert high == pytest.approx(10 * low)
    assert high in rates(tried)
    assert high < max(rates(tried))  # so that a larger one was seen to fail
    for name in ("shows", "dials", "confirms"):
        assert rates(plans[name]) == {low, high}
    assert all(seeds(tried).isdisjoint(seeds(plans[name])) for name in sorted(plans.keys() - {"rates"}))


def test_every_comparison_has_the_papers_arms_and_those_that_only_imitate(
    plans: dict[str, SweepPlan],
):
    for name in ("confirms", "decides", "dials", "shows", "tuned"):
        assert {run.config.objective.name for run in plans[name].runs} == ARMS


def test_what_decides_is_what_shows_on_eight_seeds(plans: dict[str, SweepPlan]):
    shown, decided = plans["shows"], plans["decides"]
    assert (shown.evaluate, shown.base) == (decided.evaluate, decided.base)
    assert seeds(decided) == seeds(plans["confirms"]) == set(range(8))
    settings = [
        Counter(str(sorted((k, v) for k, v in run.settings.items() if k != "seed")) for run in found.runs)
        for found in (shown, decided)
    ]
    assert set(settings[0].values()) == {1}
    assert set(settings[1].values()) == {8}
    assert settings[0].keys() == settings[1].keys()


def test_each_objective_that_is_tuned_has_sixteen_trials_a_seed(plans: dict[str, SweepPlan]):
    found = plans["tuned"]
    trials = Counter((run.config.objective.name, run.settings["seed"]) for run in found.runs)
    assert trials == {(arm, seed): 16 for arm in ARMS for seed in range(8)}
    assert found.evaluate is not None
    assert found.evaluate["task"] == "validation"


def test_the_dials_are_turned_to_every_place_and_the_second_family_is_in_one_sweep(
    plans: dict[str, SweepPlan],
):
    dials = {(run.foundation.values.distance, run.foundation.values.rejected) for run in plans["dials"].runs}
    assert dials == {(d, r) for d in ("none", "half", "full") for r in ("result", "quarter", "independent")}
    families = {name: {run.foundation.values.family for run in found.runs} for name, found in plans.items()}
    assert families.pop("confirms") == {"scale"}
    assert all(each == {"chain"} for each in families.values())
