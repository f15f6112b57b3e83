"""The study of alarms on runs written by hand: where the text broke, who said so before, and what fitting chooses."""

from __future__ import annotations

import pytest

import alarm_study as A
from minordpo.monitor.health import Thresholds
from minordpo.paper.stopping_study import StudiedRun
from minordpo.run_folder.records import ProbeRow, StepRow, of_kind, parse_rows

SOUND = {"repeated_4grams": 0.0, "looping": 0.0, "stopped": 1.0, "empty": 0.0, "tokens": 20, "distance": 0.3}
LOOPS = SOUND | {"repeated_4grams": 0.9, "looping": 1.0, "stopped": 0.0, "distance": 0.9}


def made_run(
    name: str, chosen: list[float], probes: dict[int, list[dict[str, float]]], setting: str = ""
) -> StudiedRun:
    rows = [
        {"step": step, "loss": 0.1, "logratios/chosen": value, "logps/chosen": value - 20.0}
        for step, value in enumerate(chosen, 1)
    ]
    return StudiedRun(name, setting or name, of_kind(parse_rows(rows), StepRow), probes)


def falling(steps: int, speed: float) -> list[float]:
    return [-speed * step for step in range(steps)]


def test_text_breaks_where_a_quarter_of_all_prompts_loop_and_not_before():
    probes = {
        0: [SOUND] * 8,
        10: [SOUND] * 7 + [LOOPS],  # an eighth
        20: [SOUND] * 6 + [LOOPS] * 2,
        30: [SOUND] * 8,
    }
    assert A.broke_at(made_run("a", falling(30, 1), probes)) == 20


def test_a_text_that_repeats_from_the_start_is_not_broken_by_training():
    assert A.broke_at(made_run("a", falling(30, 1), {0: [LOOPS] * 4, 30: [LOOPS] * 4})) is None


def test_log_ratios_alone_never_break_a_text():
    run = made_run("a", falling(60, 10), {0: [SOUND] * 4, 60: [SOUND] * 4})
    assert A.broke_at(run) is None
    assert A.was_displaced(run)


@pytest.mark.parametrize(("chosen", "broke"), [(0.9, 30), (1.2, None)])
def test_text_that_the_reference_finds_unlikely_is_broken_unless_what_is_taught_is_more_so(
    chosen: float, broke: int | None
):
    probes = {0: [SOUND | {"reference_nll": 0.4, "chosen_nll": chosen}] * 4}
    probes |= {20: [SOUND | {"reference_nll": 0.95}] * 4, 30: [SOUND | {"reference_nll": 1.1}] * 4}
    assert A.broke_at(made_run("a", falling(30, 1), probes)) == broke


def test_a_monitor_of_few_prompts_and_probes_sees_no_others():
    probes = {step: [SOUND] * 2 + [LOOPS] * 6 for step in range(0, 61, 2)}
    seen = dict(A.as_seen(made_run("a", falling(60, 0), probes), prompts=2))
    with_probe = [step for step, rows in seen.items() if any(isinstance(row, ProbeRow) for row in rows)]
    assert with_probe == [0, 10, 20, 30, 40, 50, 60]
    assert [seen[step][-1].values["looping"] for step in with_probe] == [0.0] * 7


def test_a_probe_that_the_run_did_not_take_is_never_seen_early():
    probes = {0: [SOUND], 8: [SOUND], 12: [LOOPS]}
    seen = dict(A.as_seen(made_run("a", falling(60, 0), probes), prompts=1))
    assert seen[10][-1].values["looping"] == 0.0  # that of step 8, not of 12
    assert seen[20][-1].values["looping"] == 1.0


def test_the_alarm_is_the_step_at_which_the_monitor_says_collapsing():
    run = made_run("a", falling(60, 2), {0: [SOUND] * 4, 60: [SOUND] * 4})
    # Half windows up to 16 rows: of n rows the last n/2 have the mean −2·(0.75 n − 0.5) and the reference's 20 nats, so
    # a displacement of 1 (−20 nats) is first passed with n = 14 (−20.0).
    thresholds = Thresholds(collapsing_alone=1.0, collapsing_nats=1.0)
    assert A.alarm_at(A.as_seen(run), thresholds) == 14
    assert A.alarm_at(A.as_seen(run), Thresholds(collapsing_nats=1e9)) is None


def test_the_trivial_alarm_is_a_mean_below_minus_c():
    run = made_run("a", falling(60, 1), {0: [SOUND]})
    # The last eight rows of n end at −(n−1), their mean is −(n−4.5): below −10 from n = 15 on.
    assert A.trivial_alarm_at(run, 10.0) == 15
    assert A.trivial_alarm_at(run, 1000.0) is None


def test_tally_by_hand():
    broke = [30, 30, 30, None, None, None, None]
    alarms = [10, 30, None, 5, None, None, None]
    found = A.tally(broke, alarms)
    assert (found.broken, found.announced, found.leads, found.sound, found.false) == (3, 1, (20,), 4, 1)
    assert found.youden == pytest.approx(1 / 3 - 1 / 4)
    assert all(part in found.words() for part in ("1 of 3", "20 steps before", "1 of 4"))


def test_both_halves_hold_whole_settings_and_every_run():
    runs = [
        made_run(f"{name}{seed}", [0.0], {0: [SOUND]}, name)
        for name in ("a", "b", "c", "d", "e")
        for seed in range(3)
    ]
    for seed in range(5):
        one, other = A.halves(runs, seed)
        assert sorted(one + other) == list(range(15))
        assert not {runs[place].setting for place in one} & {runs[place].setting for place in other}
    assert len({tuple(A.halves(runs, seed)[0]) for seed in range(5)}) > 1


def test_fitting_takes_the_level_that_tells_broken_from_sound():
    broken = made_run("broken", falling(60, 2), {0: [SOUND] * 4, 60: [LOOPS] * 4})
    sound = made_run("sound", falling(60, 0.2), {0: [SOUND] * 4, 60: [SOUND] * 4})
    runs, broke = [broken, sound], [60, None]
    c = A.best(A.TRIVIAL, lambda level: [A.trivial_alarm_at(run, level) for run in runs], broke, [0, 1])
    # The sound run ends at −11.1; of the levels above that, the least announces earliest.
    assert c == 15.0


def test_among_equal_thresholds_those_of_today_stay():
    quiet = made_run("quiet", [0.0] * 20, {0: [SOUND]})
    found = A.best(A.candidates(), lambda each: [A.alarm_at(A.as_seen(quiet), each)], [None], [0])
    assert found == Thresholds()
