"""Whose answers an evaluation holds, where run folders were copied, and answers that have no finite measure."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.report_runs import write_evaluation, write_run
from minordpo.paper.claims.runs import gather_runs
from minordpo.report.find import find
from minordpo.report.gather import gather
from minordpo.report.page import embedded


def test_a_copy_of_a_run_keeps_its_own_answers_though_they_name_the_originals_model(tmp_path: Path):
    run, kept = tmp_path / "runs" / "a", tmp_path / "runs" / "a-before"
    write_run(run)
    write_evaluation(run / "evaluation", {"a": (str(run / "model"), 0.9, None)})
    shutil.copytree(run, kept)
    shutil.rmtree(run / "evaluation")
    write_evaluation(run / "evaluation", {"a": (str(run / "model"), 0.2, None)})
    found = find([tmp_path / "runs"])
    data = gather(found)
    assert [(each["label"], each["cells"]["flexible_accuracy"]) for each in data["runs"]] == [
        ("a", 0.2),
        ("a-before", 0.9),
    ]
    (asked,) = data["evaluations"]
    assert {run: scores["flexible_accuracy"][0] for run, scores in asked["runs"].items()} == {
        "0": 0.2,
        "1": 0.9,
    }
    assert {each.label: each.measures["accuracy"] for each in gather_runs(found).runs} == {
        "a": 0.2,
        "a-before": 0.9,
    }
    # Without answers of its own the original has none, and not those of the copy.
    shutil.rmtree(run / "evaluation")
    assert [each["cells"]["flexible_accuracy"] for each in gather(find([tmp_path / "runs"]))["runs"]] == [
        None,
        0.9,
    ]


def test_a_divergence_that_is_no_number_is_no_point_and_no_end_of_the_report(tmp_path: Path):
    run = write_run(tmp_path / "a")
    write_evaluation(run / "evaluation", {"a": (str(run / "model"), 0.4, math.nan)})
    found = find([tmp_path])
    data = gather(found)
    assert data["runs"][0]["cells"]["kl_per_sequence"] is None
    assert data["evaluations"][0]["runs"]["0"]["flexible_accuracy"][0] == 0.4
    assert "kl" not in data["evaluations"][0]["runs"]["0"]
    assert "NaN" not in embedded(data)
    (seen,) = gather_runs(found).runs
    assert (seen.measures["accuracy"], "kl" in seen.measures) == (0.4, False)


def write_plain(folder: Path, name: str, share: float, **settings: Any) -> None:
    """An evaluation of the run's model beside it, asked as its own but for the settings."""
    write_evaluation(folder, {name: (str((folder.parent / name / "model").resolve()), share, 3.0)})
    for file in ("evaluation.json", "results.json"):
        known = json.loads((folder / file).read_text())
        known["settings"] |= settings
        (folder / file).write_text(json.dumps(known))


@pytest.mark.parametrize("asked_before", ["0", "zz"])  # by name before the run's own, and after
def test_further_answers_never_replace_a_runs_own(tmp_path: Path, asked_before: str):
    run = write_run(tmp_path / "run")
    write_evaluation(run / "evaluation", {"run": (str(run / "model"), 0.4, None)})
    write_plain(tmp_path / asked_before, "run", 0.7)
    found = find([tmp_path])
    (asked,) = gather(found)["evaluations"]
    assert asked["runs"]["0"]["flexible_accuracy"][0] == 0.4
    assert asked["runs"]["0"]["kl"]["per_sequence"] == 3.0  # which its own does not have
    (seen,) = gather_runs(found).runs
    assert (seen.measures["accuracy"], seen.measures["kl"]) == (0.4, 3.0 / 9)


@pytest.mark.parametrize("setting", [{"plain_text": True}, {"temperature": 0.7}, {"dtype": "bfloat16"}])
def test_answers_that_were_asked_for_otherwise_are_in_a_chart_of_their_own(
    tmp_path: Path, setting: dict[str, Any]
):
    run = write_run(tmp_path / "run")
    write_evaluation(run / "evaluation", {"run": (str(run / "model"), 0.4, None)})
    write_plain(tmp_path / "again", "run", 0.7, **setting)
    shares = [each["runs"]["0"]["flexible_accuracy"][0] for each in gather(find([tmp_path]))["evaluations"]]
    assert shares == [0.4, 0.7]


def test_answers_of_another_run_of_the_same_name_are_not_taken(tmp_path: Path):
    write_run(tmp_path / "here" / "run")
    other = write_run(tmp_path / "there" / "run")
    write_evaluation(tmp_path / "here" / "evaluation", {"run": (str(other / "model"), 0.4, None)})
    (asked,) = gather(find([tmp_path / "here"]))["evaluations"]
    assert asked["runs"] == {}
    shutil.rmtree(other / "model")  # as where the folders were moved since
    (asked,) = gather(find([tmp_path / "here"]))["evaluations"]
    assert asked["runs"]["0"]["flexible_accuracy"][0] == 0.4


@pytest.mark.parametrize("named", ["", "model"])
def test_a_run_folder_that_others_start_from_is_their_untuned_model(tmp_path: Path, named: str):
    base = tmp_path / "elsewhere" / "sft"
    run = write_run(tmp_path / "here" / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("path: base\n", f"path: {base / named}\n"))
    write_evaluation(run / "evaluation", {"run": (str(run / "model"), 0.4, None)})
    write_evaluation(tmp_path / "here" / "untuned", {"sft": (str(base / "model"), 0.3, None)})
    found = find([tmp_path / "here"])
    (asked,) = gather(found)["evaluations"]
    assert asked["base"]["flexible_accuracy"][0] == 0.3
    (seen,) = gather_runs(found).runs
    assert (seen.measures["accuracy"], seen.measures["base_accuracy"]) == (0.4, 0.3)
