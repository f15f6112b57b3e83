"""What the monitor called a run, on the model card and in the run's last lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_runs import RENAMED, metric_rows, token_pairs, tokenizer, trainer
from minordpo import MonitorCallback
from minordpo.config import load_config
from minordpo.monitor.health import Thresholds
from minordpo.monitor.summary import first_changes, last_lines
from minordpo.run_folder.records import ProbeRow, StepRow, of_kind, parse_rows
from minordpo.train.card import model_card

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

CONFIG = load_config(
    None, ["model.path=org/base", "data.train=pairs.jsonl", "objective.name=dpo", "output=runs/a"]
)


def watched(folder: Path, on_collapse: str, **limits: Any) -> Any:
    """A finished run of five steps at a rate that wrecks the model."""
    monitor = MonitorCallback(
        tokenizer(),
        2,
        max_new_tokens=30,
        probe_every=1,
        on_collapse=on_collapse,
        thresholds=Thresholds(**limits),
    )
    pairs = token_pairs(10)
    made = trainer(
        folder,
        pairs=pairs[:8],
        eval_dataset=pairs[8:],
        objective="dpo",
        callbacks=[monitor],
        learning_rate=0.05,
        max_steps=5,
    )
    made.train()
    if not made.evaluated_now():
        made.evaluate()
    return made


# With these nothing in a text is called broken.
SOUND = {"repeated": 9.0, "looping": 9.0, "empty": 9.0, "endless_stopped": 9.0}
# A random model's answers change however they like; with these any fall of the chosen answers is a displacement.
FALLEN = {"least_rows": 2, "displaced_nats": 0.01}
# With this the second look at the text is a collapse.
BROKEN = {"repeated": -1.0}


def test_a_run_without_a_change_is_called_healthy_and_no_more(tmp_path):
    made = watched(tmp_path, "warn", displaced_nats=1e9, collapsing_nats=1e9, **SOUND)
    assert [row for row in metric_rows(tmp_path) if "event" in row] == []
    why = made.monitor().monitor.verdict.why
    first, cost = last_lines(made.monitor()).splitlines()
    assert first == f"health at the end: healthy ({why})"
    card = model_card(CONFIG, made)
    assert "A monitor watched log-ratios and short greedy answers during training" in card
    assert f"- At the end it called the model healthy: {why}.\n" in card
    assert not any(line.startswith("- Step ") for line in card.splitlines())
    rows = made.metrics_file.rows()
    looks = sum(row.seconds for row in of_kind(rows, ProbeRow))
    share = looks / (looks + sum(row.seconds for row in of_kind(rows, StepRow)))
    assert cost == f"the monitor's looks at the text took {looks:.1f} s, {share:.1%} of looks and steps"
    assert f"- The {cost.removeprefix('the ')}.\n" in card


def test_the_step_at_which_a_health_began_is_said_with_its_reason(tmp_path):
    made = watched(tmp_path, "warn", **FALLEN, **SOUND, collapsing_nats=1e9)
    (event,) = [row for row in metric_rows(tmp_path) if row.get("health") == "displaced"]
    assert f"; it was displaced from step {event['step']}" in last_lines(made.monitor())
    assert f"- Step {event['step']}: displaced, after healthy: {event['why']}.\n" in model_card(CONFIG, made)


def test_after_a_rollback_the_card_names_the_step_of_the_weights(tmp_path):
    made = watched(tmp_path, "rollback", **BROKEN)
    card, said = model_card(CONFIG, made), last_lines(made.monitor())
    assert "- Step 1: collapsed, after healthy: " in card
    assert "- These weights are those of step 0, the last whose answers were sound" in card
    assert "- Training: 0 steps of " in card
    assert "It ended the training there" not in card
    assert "; it was collapsed from step 1\nthe monitor's looks" in said
    assert said.endswith("\nthe model is that of step 0, the last whose answers were sound")


def test_a_run_that_was_stopped_says_that_it_has_the_broken_weights(tmp_path):
    made = watched(tmp_path, "stop", **BROKEN)
    card = model_card(CONFIG, made)
    assert "- It ended the training there, with these weights." in card
    assert "These weights are those of step" not in card
    assert "the model is that of" not in last_lines(made.monitor())


def test_a_health_that_comes_back_is_told_where_it_came_first():
    names = ["displaced", "collapsing", "displaced", "healthy"]
    rows: list[dict[str, Any]] = [{"step": 0, "probe/looping": 0.0}]
    rows += [{"step": step, "event": "health", "health": name} for step, name in enumerate(names, 1)]
    rows.append({"step": 5, "event": "rollback", "to": 2})
    assert [(row.step, row.health) for row in first_changes(parse_rows(rows))] == [
        (1, "displaced"),
        (2, "collapsing"),
        (4, "healthy"),
    ]


def test_a_run_without_a_monitor_says_nothing_of_health(tmp_path):
    pairs = token_pairs(10)
    made = trainer(tmp_path, pairs=pairs[:8], eval_dataset=pairs[8:], max_steps=1)
    made.train()
    made.evaluate()
    assert "monitor" not in model_card(CONFIG, made).partition("## The whole configuration")[0]
