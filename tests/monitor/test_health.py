"""Histories made by hand → health: each transition, and what must never be called a collapse."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from minordpo.monitor import health
from minordpo.monitor.health import Monitor, Thresholds
from minordpo.run_folder.records import HealthRow, parse_rows

REFERENCE = -80.0  # nats, log-prob of a chosen answer under the reference


def step_row(step: int, logratio: float | None, **more: Any) -> dict[str, Any]:
    row = {"step": step, "loss": 0.5, "logps/chosen": REFERENCE + (logratio or 0.0), **more}
    return row if logratio is None else row | {"logratios/chosen": logratio}


def probe_row(step: int, **changed: float) -> dict[str, Any]:
    sound = {"repeated_4grams": 0.1, "looping": 0.0, "stopped": 1.0, "empty": 0.0, "tokens": 30.0}
    return {"step": step} | {f"probe/{name}": value for name, value in (sound | changed).items()}


def falling(per_step: float, steps: int = 40) -> list[dict[str, Any]]:
    return [step_row(step, -per_step * (step - 1)) for step in range(1, steps + 1)]


def changes(rows: list[dict[str, Any]], thresholds: Thresholds | None = None) -> list[HealthRow]:
    return health.changes(parse_rows(rows), thresholds)


def healths(rows: list[dict[str, Any]], **limits: float) -> list[tuple[int, str]]:
    return [(change.step, change.health) for change in changes(rows, Thresholds(**limits))]


def test_a_run_that_makes_the_chosen_answers_likelier_is_healthy_throughout():
    rows = [probe_row(0), *falling(-0.5), probe_row(40, tokens=60.0, distance=0.95)]
    assert healths(rows) == []


def test_a_healthy_dpo_run_is_displaced_and_never_called_collapsing_or_collapsed():
    # As DPO on close pairs of GSM8K at rate 5e-6: −25 nats of 75 at the end, longer answers, sentences still.
    rows = [probe_row(0, stopped=0.5), *falling(0.65)]
    rows += [probe_row(step, stopped=0.25, distance=0.66, repeated_4grams=0.08) for step in (14, 27, 40)]
    # With four rows a mean is taken over two: the third and the fourth, −1.3 and −1.95 nats.
    assert healths(rows) == [(4, "displaced")]


def test_displaced_waits_for_the_mean_of_the_last_rows_to_pass_one_nat():
    # At step 12 the last half, steps 7 to 12, has a mean of −0.11 · 8.5 nats; at 13, steps 8 to 13, of −0.11 · 9.5.
    assert healths(falling(0.11)) == [(13, "displaced")]


def test_displaced_holds_on_a_plateau_and_ends_at_half_the_way_back():
    down = [-0.5 * step for step in range(8)]
    flat, up = [-3.5] * 12, [-3.5 + 0.5 * step for step in range(1, 9)]
    rows = [step_row(step, value) for step, value in enumerate([*down, *flat, *up, *[0.5] * 8], 1)]
    found = healths(rows)
    assert [health for _, health in found] == ["displaced", "healthy"]
    assert found[1][0] > 28  # not while it is flat


def test_a_fall_without_a_sign_in_the_text_is_no_prediction_before_it_is_far():
    rows = [probe_row(0), *falling(5.0), probe_row(20)]
    found = {health: step for step, health in healths(rows)}
    # Mean of the last eight rows −5 (step − 4.5) nats; twice the reference's 80 is reached at step 36.5.
    assert found["collapsing"] == 37


def test_a_sign_in_the_text_brings_the_prediction_forward():
    for sign in (
        {"looping": 0.25},
        {"repeated_4grams": 0.25},
        {"stopped": 0.5},
        {"distance": 0.8},
    ):
        rows = [probe_row(0), *falling(1.0), probe_row(10, **sign)]
        found = {health: step for step, health in healths(rows)}
        # At step 16 the last eight and the eight before have means of −11.5 and −3.5 nats, −19.5 one window ahead; at
        # step 17 −20.5: more than a quarter of the reference's 80.
        assert found["collapsing"] == 17, sign


def test_signs_in_the_text_without_a_fall_predict_nothing():
    rows = [probe_row(0), *falling(-0.2), probe_row(20, looping=0.25, stopped=0.5, distance=0.9)]
    assert healths(rows) == []


@pytest.mark.parametrize(
    ("wreck", "why"),
    [
        ({"looping": 0.5}, "50% of the answers loop (0% at the start)"),
        ({"repeated_4grams": 0.45}, "45% of their 4-grams repeat (10% at the start)"),
        ({"empty": 0.75}, "75% of the answers are empty (0% at the start)"),
        (
            {"stopped": 0.25, "repeated_4grams": 0.3},
            "25% of the answers end (100% at the start); 30% of their 4-grams repeat (10% at the start)",
        ),
    ],
)
def test_a_wreck_is_called_collapsed_whatever_the_log_ratios_say(wreck, why):
    for slope in (-0.5, 0.0, 10.0):
        rows = [probe_row(0), *falling(slope, 20), probe_row(20, **wreck)]
        last = changes(rows)[-1]
        assert (last.step, last.health, last.why) == (20, "collapsed", why)


def test_longer_answers_that_do_not_end_are_no_collapse():
    assert healths([probe_row(0), *falling(-0.1), probe_row(40, stopped=0.0, tokens=48.0)]) == []


def test_a_model_that_looped_before_training_is_compared_with_itself():
    looping = {"looping": 1.0, "repeated_4grams": 0.9, "stopped": 0.0}
    assert healths([probe_row(0, **looping), *falling(-0.1), probe_row(40, **looping)]) == []


def test_log_ratios_alone_never_make_a_collapse():
    rows = [probe_row(0), *falling(100.0, 60), probe_row(60, distance=1.0, stopped=0.0)]
    assert {health for _, health in healths(rows)} == {"collapsing"}


def test_lost_accuracy_without_repetition_is_its_own_label():
    rows = [probe_row(0, correct=0.75), *falling(-0.1), probe_row(40, correct=0.25)]
    (change,) = changes(rows)
    assert (change.health, change.why) == ("inaccurate", "25% of the answers are right (75% at the start)")
    rows[-1] |= probe_row(40, correct=0.25, looping=0.75)
    assert healths(rows) == [(40, "collapsed")]


def test_text_that_the_reference_finds_unlikely_is_garbled_though_nothing_repeats():
    # SimPO with an adapter at 1e-3 on GSM8K: "2ounder (2) clips in May", 0.40 nats a token before and 1.10 after.
    rows = [probe_row(0, reference_nll=0.40), *falling(-0.1), probe_row(40, reference_nll=1.10)]
    why = "to the reference the answers are unlikely, 1.10 nats a token (0.40 at the start)"
    assert [(c.step, c.health, c.why) for c in changes(rows)] == [(40, "collapsed", why)]


def test_another_style_is_not_garbled():
    # SFT on GSM8K's solutions at the same rate, the most of all runs whose text was sound: 0.40 and 0.83.
    rows = [probe_row(0, reference_nll=0.40), *falling(-0.1), probe_row(40, reference_nll=0.83)]
    assert healths(rows) == []


def test_text_no_less_likely_than_the_answers_it_is_taught_is_another_style_however_far():
    first, last = (
        probe_row(0, reference_nll=0.10) | {"probe/chosen_nll": 1.5},
        probe_row(40, reference_nll=1.4),
    )
    assert healths([first, *falling(-0.1), last]) == []
    assert healths([first, *falling(-0.1), last | {"probe/reference_nll": 1.6}]) == [(40, "collapsed")]


def test_text_that_is_getting_unlikely_is_an_early_sign():
    rows = [probe_row(0, reference_nll=0.40), *falling(1.0), probe_row(10, reference_nll=0.65)]
    # As the other signs: at step 17 the fall one window ahead exceeds a quarter of the reference's 80 nats.
    assert (17, "collapsing") in healths(rows)


@pytest.mark.parametrize(
    ("change", "sound"),
    [
        ({"reference_nll": 0.55}, True),
        ({"reference_nll": 0.62}, False),  # an early sign, but no fall: no change of health
        ({"repeated_4grams": 0.16}, False),
        ({"stopped": 0.75}, False),
        ({"distance": 0.9}, True),  # other answers are not worse ones
    ],
)
def test_a_model_is_one_to_go_back_to_only_while_its_text_shows_no_half_of_a_sign(change, sound):
    monitor = Monitor()
    last = probe_row(10, **({"reference_nll": 0.4} | change))
    monitor.see_all(parse_rows([probe_row(0, reference_nll=0.4), *falling(0.2), last]))
    assert monitor.verdict.health in ("healthy", "displaced")
    assert monitor.is_sound is sound


def test_a_collapsed_or_collapsing_model_is_none_to_go_back_to():
    monitor = Monitor()
    monitor.see_all(parse_rows([probe_row(0), *falling(9.0)]))
    assert (monitor.verdict.health, monitor.is_sound) == ("collapsing", False)


def test_a_measure_that_the_first_look_lacks_says_nothing():
    rows = [probe_row(0), *falling(-0.1), probe_row(40, reference_nll=9.0)]
    assert healths(rows) == []


def test_text_that_recovers_ends_a_collapse():
    rows = [probe_row(0), *falling(-0.1), probe_row(10, looping=1.0), probe_row(20)]
    assert healths(rows) == [(10, "collapsed"), (20, "healthy")]


def test_without_the_first_probe_the_text_says_nothing():
    assert healths([*falling(-0.1), probe_row(10, looping=1.0), probe_row(20, looping=1.0)]) == []


def test_a_run_without_probes_is_judged_by_its_log_ratios():
    assert [health for _, health in healths(falling(5.0))] == ["displaced", "collapsing"]


def noisy(drop: float) -> list[dict[str, Any]]:
    """Log-probs without a reference: batches differ by ±10 nats, and fall by `drop` over 40 steps."""
    batches = itertools.cycle([-10.0, 0.0, 10.0, 0.0])
    return [{**step_row(s, None), "logps/chosen": -80 + next(batches) - drop * s / 40} for s in range(1, 41)]


def test_without_a_reference_what_may_be_noise_of_the_batches_is_no_fall():
    assert healths(noisy(0.0)) == []
    assert healths(noisy(10.0)) == []


def test_without_a_reference_a_fall_beyond_the_noise_is_seen_against_the_start():
    (change, *_) = changes(noisy(60.0))
    assert change.health == "displaced"
    assert change.why.startswith("chosen answers are less likely than at the start (-")


def test_labelled_runs_are_judged_by_the_steps_that_have_desirable_answers():
    rows = falling(0.1)
    undesirable = [{"step": row["step"], "loss": 0.4, "logratios/rejected": -3.0} for row in rows]
    mixed = [row if i % 2 else other for i, (row, other) in enumerate(zip(rows, undesirable, strict=True))]
    assert [health for _, health in healths(mixed)] == ["displaced"]


def test_values_that_are_not_finite_are_passed_over():
    rows = falling(-0.1)
    rows[20] |= {"logratios/chosen": "nan", "logps/chosen": "-inf"}
    assert healths(rows) == []


def test_rows_read_back_from_a_file_give_the_same_health_as_live_ones():
    rows = [probe_row(0), *falling(5.0), probe_row(20, distance=0.8), probe_row(40, looping=1.0)]
    rows.sort(key=lambda row: row["step"])
    monitor, live = Monitor(), []
    for step in range(41):
        live.append(monitor.see(parse_rows([row for row in rows if row["step"] == step])))
    read = [json.loads(json.dumps(row)) for row in rows]
    found = [change for change in live if change is not None]
    assert (
        changes([*read, *(change.as_json() for change in found)]) == found
    )  # its own events mean nothing to it
    assert [change.health for change in found] == ["displaced", "collapsing", "collapsed"]


def test_a_change_is_written_as_an_event():
    (change,) = changes(falling(0.11))
    assert change.as_json() == {
        "step": 13,
        "event": "health",
        "health": "displaced",
        "was": "healthy",
        "why": "chosen answers are less likely than under the reference (-1.0 nats a response) and falling",
    }


def test_thresholds_can_be_refitted():
    # The last eight rows' mean is −0.11 (step − 4.5).
    assert healths(falling(0.11), displaced_nats=2.0) == [(23, "displaced")]
