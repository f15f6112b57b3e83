"""Run folders written by hand → rows; rows → typed files that are whole or not there."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from helpers.tiny_runs import write_config, write_rows
from minordpo.errors import InputError
from minordpo.sweep.results import COLUMNS, results_table, run_row, write_results

STEPS: list[dict[str, Any]] = [
    {"step": 0, "probe/repeated_4grams": 0.0, "probe/looping": 0.0, "probe/stopped": 1.0},
    {"step": 1, "loss": 0.7, "tokens": 100, "seconds": 1.0},
    {"step": 2, "loss": 0.5, "tokens": 120, "seconds": 9.0},
    {"step": 2, "eval_loss": 0.6, "eval_logratios/chosen": 0.5},
    {"step": 2, "event": "health", "health": "displaced", "was": "healthy", "why": "falling"},
    {"step": 3, "loss": 0.4, "tokens": 80, "seconds": 2.0},
    {"step": 3, "event": "health", "health": "collapsed", "was": "displaced", "why": "loops"},
    {"step": 4, "loss": 0.3, "tokens": 100, "seconds": 2.0},
    {"step": 4, "probe/repeated_4grams": 0.25, "probe/looping": 0.5, "probe/stopped": 0.5},
    {"step": 4, "event": "health", "health": "displaced", "was": "collapsed", "why": "no loops"},
    {"step": 4, "eval_loss": 0.5, "eval_logratios/chosen": -7.25, "eval_logratios/rejected": "nan"},
]
SHARE = {"count": 3, "of": 4, "share": 0.75, "low": 0.3, "high": 0.95}
ANSWERED = {
    **dict.fromkeys(("strict_accuracy", "flexible_accuracy"), SHARE),
    **dict.fromkeys(("asked_format", "stopped", "looping", "empty"), SHARE | {"share": 0.5}),
    "repeated_4grams": 0.125,
    "tokens": {"mean": 7.5, "median": 7, "most": 12},
    "samples": {
        "kl": {
            "per_sequence": 1.5,
            "per_sequence_error": 0.2,
            "per_token": 0.1,
            "per_token_error": None,
            "cut": 0.25,
        }
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run that was evaluated."""
    made = tmp_path / "dpo-seed3"
    for name in ("model", "figures", "evaluation"):
        (made / name).mkdir(parents=True)
    (made / "figures" / "rewards.png").write_bytes(b"")
    config = {"objective": {"name": "dpo", "beta": 0.2}, "training": {"seed": 3}}
    write_config(made / "config.yaml", base=Path("b"), pairs=Path("p.jsonl"), output=made, **config)
    write_rows(made / "metrics.jsonl", STEPS)
    facts = {"processor": "x", "threads": 2, "minordpo": "1", "torch": "2", "held_out_pairs": 2}
    (made / "environment.json").write_text(json.dumps(facts))
    (made / "evaluation" / "results.json").write_text(json.dumps({"models": {"dpo": ANSWERED}}))
    write_rows(made / "retention.jsonl", [{"right": right} for right in (True, True, False, True)])
    (made / "cost.json").write_text(json.dumps({"seconds": 21.5, "peak_gpu_bytes": None}))
    return made


def test_a_row_holds_what_the_run_was_and_came_to(folder: Path):
    row = run_row(folder)
    expected = {
        "run": "dpo-seed3",
        "status": "finished",
        "objective": "dpo, beta 0.2",
        "learning_rate": 1e-3,
        "seed": 3,
        "health": "displaced",
        "worst_health": "collapsed",
        "displaced_step": 2,
        "collapsed_step": 3,
        "collapsing_step": None,
        "eval_logratios/chosen": -7.25,
        "probe/looping": 0.5,
        "strict_accuracy": 0.75,
        "flexible_accuracy_low": 0.3,
        "asked_format": 0.5,
        "mean_tokens": 7.5,
        "kl_per_token": 0.1,
        "kl_per_token_error": None,
        "kl_per_sequence_error": 0.2,
        "retention_questions": 4,
        "retention_accuracy": 0.75,
        "steps": 4,
        "tokens": 400,
        "median_step_seconds": 2.0,
        "training_seconds": 14.0,
        "total_seconds": 21.5,
        "machine": "x, 2 threads",
    }
    assert {name: row[name] for name in expected} == expected
    assert math.isnan(row["eval_logratios/rejected"])
    # Wilson's interval of 3 of 4 at 95 %: (p + z²/2n ± z√(p(1−p)/n + z²/4n²)) / (1 + z²/n)
    assert row["retention_accuracy_low"] == pytest.approx(0.3006, abs=1e-4)


def test_a_run_cut_short_gives_what_there_is(tmp_path: Path):
    (tmp_path / "cut").mkdir()
    write_config(tmp_path / "cut" / "config.yaml", base=Path("b"), pairs=Path("p"), output=tmp_path / "cut")
    (tmp_path / "cut" / "metrics.jsonl").write_text(json.dumps(STEPS[1]) + '\n{"step": 2, "lo')
    row = run_row(tmp_path / "cut")
    assert (row["status"], row["steps"], row["health"]) == ("unfinished", 1, "healthy")
    assert row["strict_accuracy"] is row["total_seconds"] is None
    assert "eval_loss" not in row


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (STEPS[:-1], r"ends at step 4 without the last measurement on held-out examples"),
        (STEPS[:3], r"ends at step 2 of 3"),
        (STEPS[:2] + STEPS[3:], r"has no row of step 2"),
        (STEPS[:1] + STEPS[2:], r"has no row of step 1"),
        ([], r"ends at step 0 of 3"),
    ],
)
def test_a_finished_run_whose_rows_are_cut_short_is_refused(
    folder: Path, rows: list[dict[str, Any]], said: str
):
    write_rows(folder / "metrics.jsonl", rows)
    with pytest.raises(InputError, match=rf"metrics.jsonl is cut short: .* {said}.*leave this run out"):
        run_row(folder)


def test_a_run_without_held_out_pairs_has_all_its_steps_too(folder: Path):
    facts = json.loads((folder / "environment.json").read_text()) | {"held_out_pairs": 0}
    (folder / "environment.json").write_text(json.dumps(facts))
    write_rows(folder / "metrics.jsonl", [row for row in STEPS if "eval_loss" not in row])
    assert run_row(folder)["steps"] == 4
    write_rows(folder / "metrics.jsonl", STEPS[:3])
    with pytest.raises(InputError, match=r"ends at step 2 of 3"):
        run_row(folder)


@pytest.mark.parametrize("on_collapse", ["warn", "stop"])
def test_a_finished_run_has_all_its_steps_unless_the_monitor_stopped_it(folder: Path, on_collapse: str):
    write_rows(folder / "metrics.jsonl", STEPS[:4])
    sections = {"training": {"max_steps": 4}, "monitor": {"on_collapse": on_collapse}}
    write_config(folder / "config.yaml", base=Path("b"), pairs=Path("p"), output=folder, **sections)
    if on_collapse == "stop":
        assert run_row(folder)["steps"] == 2
        return
    with pytest.raises(InputError, match=r"metrics.jsonl is cut short: .* ends at step 2 of 4\."):
        run_row(folder)


def test_without_a_monitor_the_health_is_not_known(folder: Path):
    monitor = {"enabled": False}
    write_config(
        folder / "config.yaml", base=Path("b"), pairs=Path("p.jsonl"), output=folder, monitor=monitor
    )
    assert run_row(folder)["health"] is None


def test_a_rollback_is_told(folder: Path):
    write_rows(
        folder / "metrics.jsonl",
        [*STEPS[:-1], {"step": 4, "event": "rollback", "to": 1}, STEPS[-1] | {"step": 1}],
    )
    assert run_row(folder)["rolled_back_to"] == 1


def test_a_failed_run_says_why_even_where_it_never_began(tmp_path: Path):
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "failed.txt").write_text("the loss is nan.\nLower it\n")
    row = run_row(tmp_path / "early")
    assert (row["status"], row["error"]) == ("failed", "the loss is nan. Lower it")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"holds no run \(there is no config.yaml\)"):
        run_row(tmp_path)


def test_a_torn_file_is_named(folder: Path):
    (folder / "cost.json").write_text("{")
    with pytest.raises(InputError, match=r"cost.json cannot be read .* Delete it"):
        run_row(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "a: 1\n"),
        ("cost.json", '{"seconds": "long"}'),
        ("environment.json", '{"threads": 1}'),
        ("evaluation/results.json", '{"models": {}}'),
        ("retention.jsonl", ""),
    ],
)
def test_a_file_of_another_form_is_told_with_its_run(folder: Path, name: str, text: str):
    (folder / name).write_text(text)
    with pytest.raises(
        InputError, match=r"dpo-seed3 has a file in another form than minordpo writes .*Put it"
    ):
        run_row(folder)


def test_every_column_is_in_the_file_though_it_is_empty(folder: Path, tmp_path: Path):
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "failed.txt").write_text("no\n")
    settings = {"training.bf16": [True, False], "data.eval": [[1], "a"], "x": [2**63, None]}
    rows = [
        row | {name: values[i] for name, values in settings.items()}
        for i, row in enumerate(run_row(each) for each in (folder, tmp_path / "early"))
    ]
    write_results(tmp_path, rows, [*settings, "seed"])
    with (tmp_path / "results.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert set(COLUMNS) <= set(read[0])
    head = ["run", "status", "error", "objective", "learning_rate", "seed", *settings, "health"]
    assert list(read[0])[:10] == head
    assert [row["run"] for row in read] == ["dpo-seed3", "early"]
    assert [row["data.eval"] for row in read] == ["[1]", "a"]
    assert [row["strict_accuracy"] for row in read] == ["0.75", ""]
    assert float(read[0]["eval_logratios/chosen"]) == -7.25
    assert (read[0]["training.bf16"], read[0]["x"], read[1]["steps"]) == ("true", "9223372036854775808", "")


def test_the_table_leaves_out_what_no_run_has_and_tells_failures(folder: Path, tmp_path: Path):
    (tmp_path / "early").mkdir()
    (tmp_path / "early" / "failed.txt").write_text("out of memory\n")
    head, first, second, failure = results_table([run_row(folder), run_row(tmp_path / "early")]).splitlines()
    assert head.split()[:4] == ["run", "health", "from", "step"]
    assert "75.0% [30, 95]" in first
    assert "-7.2" in first
    assert second.split() == ["early", "failed"]
    assert failure == "early failed: out of memory"
    assert "ranked" not in head
