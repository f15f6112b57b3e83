"""The study of stopping on runs written by hand: where rules stop, and what that saves and loses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from minordpo.errors import InputError
from minordpo.paper.stopping_study import FIXED, SIGNALS, StudiedRun, read_run, stops_at, worth
from minordpo.run_folder.records import EvaluationRow, StepRow

LOOPS = {"looping": 1.0}
SOUND = {"looping": 0.0}


def made_run(name: str, *, learnt_at: int, steps: int = 40, setting: str = "") -> StudiedRun:
    """Accuracy and share of pairs ranked right rise in a straight line up to a step, and stay."""
    probed = range(0, steps + 1, 4)
    share = {step: min(1.0, step / learnt_at) for step in probed}
    rows = [
        EvaluationRow(
            step,
            {
                "rewards/accuracies": share[step],
                "logratios/margin": 10 * share[step],
                "logratios/chosen": 5 * share[step],
                "rejected_at_or_below_reference": share[step],
            },
        )
        for step in probed
    ]
    probes = {step: [{"correct": 0.5 + 0.4 * share[step]}] for step in probed}
    return StudiedRun(name, setting or name, [StepRow(steps)], probes, rows)


def test_a_rule_stops_at_the_first_measurement_that_reaches_its_level():
    run = made_run("a", learnt_at=20)
    assert stops_at(run, "pairs ranked right", 0.7) == 16  # 14 is not measured
    assert stops_at(run, "margin in nats", 10.0) == 20
    assert stops_at(run, "margin in nats", 30.0) == run.steps
    assert stops_at(run, FIXED, 0.25) == 12  # 10 is not measured


def test_a_flat_measure_is_one_that_no_longer_moves():
    run = made_run("a", learnt_at=20)
    # Two moves of nothing after step 20: at 28.
    assert stops_at(run, "margin is flat", 0.95) == 28
    assert stops_at(run, "chosen log-ratio is flat", 0.5) == 24  # one of two moves


def test_what_is_lost_is_the_accuracy_that_was_still_to_come():
    run = made_run("a", learnt_at=20)
    assert run.lost(10) == pytest.approx(0.4 * (1 - 8 / 20))  # the last probe before
    assert run.lost(20) == run.lost(40) == 0.0


def test_a_signal_that_follows_learning_beats_a_fixed_share_of_the_steps():
    runs = [made_run(f"at {step}", learnt_at=step) for step in (8, 16, 24, 32, 40)]
    followed = worth(runs, "pairs ranked right", tolerance=0.0)
    fixed = worth(runs, FIXED, tolerance=0.0)
    # Without the slowest run, measured at 0.9 and then 1, the lowest level that loses nothing is 0.9, and it is stopped
    # one probe early; with it 0.95.
    assert followed.levels == (0.95, 0.95, 0.95, 0.9, 0.95)
    assert followed.lost == pytest.approx(0.4 * 0.1 / 5)
    assert followed.saved == pytest.approx((32 + 24 + 16 + 8 + 4) / 40 / 5)
    assert fixed.saved < followed.saved


def test_the_setting_that_is_stopped_had_no_part_in_choosing_its_level():
    # Alone, "late" would ask for the whole run; the others never see it, and so it is stopped at their level.
    runs = [made_run(f"early {seed}", learnt_at=8) for seed in range(3)]
    late = made_run("late", learnt_at=40)
    found = worth([*runs, late], FIXED)
    places = sorted({run.setting for run in [*runs, late]})
    assert found.levels[places.index("late")] == 0.2
    assert all(level > 0.9 for place, level in enumerate(found.levels) if places[place] != "late")


def test_every_signal_has_levels_in_rising_order():
    for _, _, levels in SIGNALS.values():
        assert len(levels) >= 6
        assert list(levels) == sorted(levels)


def test_a_run_folder_is_read_by_its_files(tmp_path: Path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "model: {path: somewhere}\ndata: {train: pairs.jsonl}\nobjective: {name: dpo, beta: 0.05}\n"
        f"training: {{learning_rate: 1.0e-4}}\noutput: {folder}\n",
        encoding="utf-8",
    )
    rows = [{"step": 1, "loss": 0.7, "logratios/chosen": 0.0}, {"step": 1, "probe/looping": 0.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match=r"has no probes.jsonl. Only runs with monitor.enabled=true"):
        read_run(folder)
    probes = [{"step": 0, "answer": "7", "measures": SOUND}, {"step": 0, "answer": "8", "measures": LOOPS}]
    (folder / "probes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in probes), encoding="utf-8")
    run = read_run(folder)
    assert run.setting == "dpo, beta 0.05, rate 0.0001" or "0.05" in run.setting
    assert [row.step for row in run.rows] == [1]
    assert run.probe(0)["looping"] == 0.5
    assert run.probe(0, prompts=1)["looping"] == 0.0
