"""train/sufficient.py: a rule on held-out measures, and tiny runs that end by it or do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_callback import TrainerControl, TrainerState

from minordpo import MonitorCallback
from minordpo.cli import main
from minordpo.errors import InputError
from minordpo.study.enough import Trained, stops_at
from minordpo.train.card import model_card
from minordpo.train.course import last_lines
from minordpo.train.sufficient import PROVISIONAL, SIGNALS, Rule, StopWhenSufficient, first_reached
from test_course import CONFIG
from tiny_runs import (
    RENAMED,
    arguments,
    chat_rows,
    metric_rows,
    save_tiny,
    tiny_model,
    token_pairs,
    tokenizer,
    trainer,
    weights,
    write_config,
    write_rows,
)

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def held_out(**columns: list[float]) -> list[dict[str, float]]:
    names = {name: f"eval_{name.replace('__', '/')}" for name in columns}
    count = len(next(iter(columns.values())))
    return [{names[name]: values[place] for name, values in columns.items()} for place in range(count)]


# ---- the rule ----
def test_a_rule_holds_where_the_last_measurement_reaches_the_level() -> None:
    rows = held_out(rewards__accuracies=[0.5, 0.9, 0.8])
    rule = Rule("pairs ranked right", 0.9)
    assert [rule.holds(rows[:count]) for count in (1, 2, 3)] == [False, True, False]
    assert rule.value(rows) == 0.8


def test_a_measure_is_flat_by_its_last_two_moves_against_its_largest() -> None:
    rows = held_out(logratios__chosen=[0.0, 4.0, 5.0, 5.5, 5.4])
    flat = SIGNALS["chosen log-ratio is flat"]
    assert flat(rows[:3]) == 0.0  # two moves are too few to tell
    # Moves of 4, 1, 0.5 and 0.1; of the last two the mean, over 4.
    assert flat(rows[:4]) == pytest.approx(1 - 0.75 / 4)
    assert flat(rows) == pytest.approx(1 - 0.3 / 4)
    assert flat(held_out(logratios__chosen=[2.0] * 5)) == 0.0  # what never moved has not slowed


def test_what_was_measured_before_the_first_step_counts_for_nothing() -> None:
    rows = held_out(rejected_at_or_below_reference=[1.0, 0.2, 0.7])
    rule = Rule("rejected at or below the reference", 0.6)
    assert first_reached(list(zip((0, 4, 8), rows, strict=True)), rule) == 8
    assert first_reached(list(zip((0, 4), rows[:2], strict=True)), rule) is None


def test_a_measure_that_is_no_number_is_never_enough() -> None:
    rule = Rule("margin in nats", 1.0)
    assert not rule.holds([{"eval_logratios/margin": "nan"}])


def test_an_unknown_signal_is_refused() -> None:
    with pytest.raises(InputError, match="the signal 'loss' is given, but one of pairs ranked right, margin"):
        Rule("loss", 0.1)


# ---- runs ----
# With a margin that grows from the first step on, and one that no run of this size reaches.
SOON, NEVER = Rule("margin in nats", 0.05), Rule("margin in nats", 1e6)


def run_with(folder: Path, rule: Rule | None, *, pairs: Any = None, **settings: Any) -> Any:
    """A trainer that measures its held-out pairs after every second of eight steps."""
    watch = MonitorCallback(tokenizer(), 2, max_new_tokens=4, probe_every=4)
    made = pairs or token_pairs(12)
    return trainer(
        folder,
        model=tiny_model(),
        pairs=made[:8],
        callbacks=[watch, *([] if rule is None else [StopWhenSufficient(rule)])],
        **(
            {
                "objective": "dpo",
                "eval_dataset": made[8:],
                "max_steps": 8,
                "learning_rate": 3e-3,
                "eval_strategy": "steps",
                "eval_steps": 2,
            }
            | settings
        ),
    )


def stops(folder: Path) -> list[dict[str, Any]]:
    return [row for row in metric_rows(folder) if row.get("event") == "sufficient"]


def steps(folder: Path) -> list[int]:
    return [row["step"] for row in metric_rows(folder) if "loss" in row]


def test_a_run_ends_at_the_first_measurement_that_is_enough_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run_with(tmp_path / "stopped", SOON)
    made.train()
    (stop,) = stops(tmp_path / "stopped")
    run_with(tmp_path / "whole", None).train()
    margins = {
        r["step"]: r["eval_logratios/margin"] for r in metric_rows(tmp_path / "whole") if "eval_loss" in r
    }
    first = min(step for step, margin in margins.items() if margin >= SOON.level)
    assert first < 8
    assert stop == {
        "step": first,
        "event": "sufficient",
        "signal": "margin in nats",
        "value": margins[first],
        "level": SOON.level,
        "of_steps": 8,
    }
    assert steps(tmp_path / "stopped") == list(range(1, first + 1))
    assert made.evaluated_now()
    why = (
        f"step {first} of 8: trained enough: the held-out margin is {margins[first]:.1f} nats; 0.05 are enough "
        "(a provisional rule)"
    )
    assert f"{why}. Training stops here (monitor.stop_when=sufficient)" in capsys.readouterr().out
    assert last_lines(made.watch()).endswith(f"\nthe run ended itself at {why}")
    card = model_card(CONFIG, made)
    assert f"- The run ended itself at {why}.\n" in card
    assert f"- Training: {first} steps of " in card


def test_a_run_that_is_never_enough_takes_all_its_steps_and_ends_with_the_same_weights(
    tmp_path: Path,
) -> None:
    made, without = run_with(tmp_path / "never", NEVER), run_with(tmp_path / "without", None)
    made.train()
    without.train()
    assert stops(tmp_path / "never") == []
    assert metric_rows(tmp_path / "never") == metric_rows(tmp_path / "without")
    found, expected = weights(made.model), weights(without.model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert "ended itself" not in last_lines(made.watch()) + model_card(CONFIG, made)


def test_the_study_stops_a_finished_run_where_the_run_would_have_stopped_itself(tmp_path: Path) -> None:
    run_with(tmp_path / "whole", None).train()
    rows = [row for row in metric_rows(tmp_path / "whole") if "eval_loss" in row]
    trained = Trained("a", "a", 8, {0: 0.0, 8: 1.0}, [(row["step"], row) for row in rows])
    at = stops_at(trained, SOON.signal, SOON.level)
    run_with(tmp_path / "stopped", SOON).train()
    assert [stop["step"] for stop in stops(tmp_path / "stopped")] == [at]


def test_the_last_step_ends_a_run_without_a_rule_and_what_is_measured_afterwards_ends_nothing(
    tmp_path: Path,
) -> None:
    made = run_with(tmp_path, SOON, eval_steps=8)
    made.train()
    made.evaluate()
    assert steps(tmp_path) == list(range(1, 9))
    assert stops(tmp_path) == []


@pytest.mark.parametrize("kept", ["the checkpoint of the stop", "one before"])
def test_a_resumed_run_ends_where_the_uninterrupted_one_does(tmp_path: Path, kept: str) -> None:
    saving = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 9}
    level = 0.2  # reached at step 4 at the earliest, so that there is a checkpoint before
    rule = Rule("margin in nats", level)
    whole = run_with(tmp_path, rule, **saving)
    whole.train()
    (stop,) = stops(tmp_path)
    assert 2 <= stop["step"] < 8
    before = metric_rows(tmp_path)
    if kept == "one before":
        (tmp_path / f"checkpoint-{stop['step']}").rename(tmp_path / "taken-away")
    made = run_with(tmp_path, rule, **saving)
    made.train(resume_from_checkpoint=True)
    assert metric_rows(tmp_path) == before
    assert made.state.global_step == whole.state.global_step == stop["step"]
    found, expected = weights(made.model), weights(whole.model)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert last_lines(made.watch()).splitlines()[-1].startswith("the run ended itself at step ")
    assert made.watch().monitor.verdict == whole.watch().monitor.verdict


# ---- what is refused ----
def labelled_rows(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": place % 2 == 0}
        for place, row in enumerate(chat_rows(count))
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"eval_dataset": None, "eval_strategy": "no", "eval_steps": None},
            r"told from held-out pairs, but there are none\. Set data\.eval",
        ),
        (
            {"eval_strategy": "no", "eval_steps": None},
            r"but training\.eval_strategy is no, so the held-out pairs are measured at the end alone\. Set "
            r"training\.eval_strategy=steps and training\.eval_steps, or leave monitor\.stop_when out",
        ),
    ],
)
def test_a_run_that_measures_no_held_out_pairs_on_the_way_is_refused(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run_with(tmp_path, SOON, **settings)


def test_a_run_without_log_ratios_or_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"told from log-ratios, but the run has no reference\. Take metrics\.ref"
    ):
        run_with(tmp_path, SOON, objective="simpo", measure_reference=False)
    rows = labelled_rows(12)
    with pytest.raises(
        InputError,
        match="told from eval_logratios/margin, but single labelled responses have no such measure",
    ):
        run_with(tmp_path, SOON, pairs=rows, objective="kto")


def test_another_trainer_is_refused(tmp_path: Path) -> None:
    theirs = arguments(tmp_path), TrainerState(), TrainerControl()
    with pytest.raises(
        InputError, match="reads the held-out measures of PreferenceTrainer, but this trainer is another"
    ):
        StopWhenSufficient().on_train_begin(*theirs)


# ---- by the config ----
def test_a_config_switches_it_on(
    tmp_path: Path, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    save_tiny(tmp_path / "model")
    write_rows(tmp_path / "pairs.jsonl", chat_rows(14))
    config = write_config(
        tmp_path / "run.yaml",
        base=tmp_path / "model",
        pairs=tmp_path / "pairs.jsonl",
        output=tmp_path / "run",
        monitor={"stop_when": "sufficient"},
    )
    assert main(["train", str(config)]) == 2
    assert "monitor.stop_when is sufficient, but training.eval_strategy is no" in capsys.readouterr().err
    assert main(["train", str(config), "monitor.enabled=false"]) == 2
    assert "but monitor.enabled is false, so nothing watches the run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("minordpo.train.run.StopWhenSufficient", lambda: StopWhenSufficient(SOON))
    every = ["training.eval_strategy=steps", "training.eval_steps=1", "training.learning_rate=0.01"]
    assert main(["train", str(config), *every]) == 0
    assert "the run ended itself at step 1 of 3: trained enough" in capsys.readouterr().out
    assert (tmp_path / "run" / "model" / "README.md").exists()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1]
    capsys.readouterr()
    assert main(["train", str(config), *every, "--resume"]) == 0
    assert "is a finished run; there is nothing to resume" in capsys.readouterr().out


def test_the_provisional_rule_is_one_of_the_signals() -> None:
    assert PROVISIONAL.signal in SIGNALS
    assert 0 < PROVISIONAL.level < 1
