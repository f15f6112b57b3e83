"""What a verifier says of runs, in the report: cells, charts, answers and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from helpers.headless import Headless, browser
from helpers.report_runs import write_evaluation, write_run
from minordpo.evaluate.verdicts import answer_digest
from minordpo.figures import canvas
from minordpo.paper.claims.runs import gather_runs
from minordpo.report.find import find
from minordpo.report.gather import gather
from minordpo.report.page import render, report
from minordpo.run_folder import names

NUMBERS = ("strict_accuracy", "flexible_accuracy", "asked_format")


def verify(folder: Path, verifier: dict[str, Any], says: dict[str, dict[str, Any]]) -> None:
    """Make it an evaluation of texts by this verifier, which says so much of the models."""
    results = json.loads((folder / names.RESULTS).read_text())
    results["verifier"] = verifier
    for label, model in results["models"].items():
        model["verified"] = says[label]
        for name in NUMBERS:
            del model[name]
        row = json.loads((folder / label / names.ANSWERS).read_text())
        row = {name: value for name, value in row.items() if name not in ("strict_right", "flexible_right")}
        (folder / label / names.ANSWERS).write_text(json.dumps(row) + "\n")
        digest = {"answer_digest": answer_digest(row["answer"])}
        verdict = {"row": 1, "score": 6.5, "passed": None, "note": "fine", **digest}
        (folder / label / names.VERDICTS).write_text(json.dumps(verdict) + "\n")
    (folder / names.RESULTS).write_text(json.dumps(results))


def scored(mean: float, low: float | None = None) -> dict[str, Any]:
    ends = {"low": low, "high": None if low is None else 2 * mean - low}
    return {"score": {"mean": mean, **ends}, "passed": None, "undecided": 0}


JUDGE = {"spec": "judge:http://j", "verifier": "judge", "model": "m", "mode": "score"}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs and the untuned model, scored by a judge."""
    folder = tmp_path / "runs"
    paths: dict[str, tuple[str, float, float | None]] = {"base": ("base", 0.3, None)}
    for objective in ("dpo", "minordpo"):
        run = write_run(folder / objective, objective=objective)
        paths[objective] = (str((run / "model").resolve()), 0.4, 5.0)
    says = {"base": scored(5.5, 5.0), "dpo": scored(6.5, 6.0), "minordpo": scored(7.25)}
    verify(write_evaluation(folder / "evaluation", paths), JUDGE, says)
    return folder


def test_scores_stand_in_cells_and_in_a_set_that_names_the_verifier(runs: Path):
    data = gather(find([runs]))
    (asked,) = data["evaluations"]
    assert asked["title"] == "100 of beads, scored by judge:http://j (m, score)"
    assert asked["base"]["verified_score"] == [5.5, 5.0, 6.0]
    assert asked["runs"]["0"]["verified_score"] == [6.5, 6.0, 7.0]
    assert asked["runs"]["1"]["verified_score"] == [7.25, 7.25, 7.25]  # no interval
    assert "flexible_accuracy" not in asked["runs"]["0"]
    cells = data["runs"][0]["cells"]
    assert (cells["verified_score"], cells["verified_score_low"]) == (6.5, 6.0)
    assert cells["flexible_accuracy"] is None
    assert "verified_score" in [name for name, *_ in data["columns"]]
    (source,) = [each for each in data["answers"] if each["key"] == "evaluation"]
    assert {answer["verdict"] for answer in source["questions"][0]["answers"]} == {"score 6.5"}
    assert all(
        not name.endswith("accuracy") for each in gather_runs(find([runs])).runs for name in each.measures
    )


def test_what_two_verifiers_say_is_in_two_sets_and_one_fills_the_cells(runs: Path):
    paths: dict[str, tuple[str, float, float | None]] = {
        "dpo": (str((runs / "dpo" / "model").resolve()), 0.4, None)
    }
    passed = {"count": 1, "of": 4, "share": 0.25, "low": 0.1, "high": 0.5}
    says = {"dpo": {"score": {"mean": 0.25, "low": 0.1, "high": 0.5}, "passed": passed, "undecided": 0}}
    verify(write_evaluation(runs / "again", paths), {"spec": "exact", "verifier": "exact"}, says)
    data = gather(find([runs]))
    assert [each["verifier"] for each in data["evaluations"]] == ["judge:http://j (m, score)", "exact"]
    assert data["evaluations"][1]["runs"]["0"]["verified_passed"] == [0.25, 0.1, 0.5]
    assert data["runs"][0]["cells"]["verified_score"] == 6.5
    assert data["runs"][0]["cells"]["verified_passed"] is None


def test_figures_are_drawn_of_scores(runs: Path, monkeypatch: Any):
    written: dict[str, set[str]] = {}

    def watched(figure: Figure, path: Path) -> None:
        figure.canvas.draw()
        written[path.stem] = {text.get_text() for text in figure.findobj(Text) if text.get_visible()}

    monkeypatch.setattr(canvas, "write_figure", watched)
    report([runs])
    assert any(text.startswith("Mean score, learning rate") for text in written["scores"])
    assert not any(text.startswith("Right by") for text in written["scores"])
    assert "Mean score" in written["kl"]


def test_the_page_draws_scores_as_numbers_and_says_the_verdict(runs: Path, tmp_path: Path):
    browser()
    file = tmp_path / "index.html"
    file.write_text(render(gather(find([runs]))), encoding="utf-8")
    with Headless(tmp_path / "profile") as shown:
        shown.show(1400)
        shown.open(file)
        assert shown.errors == []
        assert shown.value("document.querySelectorAll('#scores figure.chart svg').length") == 1
        said = shown.value("document.querySelector('#scores').textContent")
        assert "mean score of the verifier" in said
        assert "7.25" in said
        assert "(%)" not in said
        assert "100 of beads, scored by judge:http://j (m, score)" in said
        shown.choose("#answers select[aria-label='Answers to']", "1")
        assert "verifier: score 6.5" in shown.value("document.querySelector('#answers').textContent")
        assert "7.25" in shown.value("document.querySelector('#runs').textContent")
        assert shown.value("/NaN|undefined/.test(document.querySelector('main').innerHTML)") is False
