"""Run folders written by hand → runs as claims see them, the command, its files, and the section of a report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from helpers.places import ROOT
from helpers.report_runs import EVIL, write_evaluation, write_run
from helpers.tiny_runs import write_rows
from minordpo.cli import main
from minordpo.errors import InputError
from minordpo.paper.claims.claim import ClaimRun
from minordpo.paper.claims.judge import judge_all
from minordpo.paper.claims.measures import probed, pushes, trained
from minordpo.paper.claims.rules import all_claims
from minordpo.paper.claims.runs import Gathered, comparable, gather_runs
from minordpo.paper.claims.tables import as_html, as_text, claims_section, claims_table
from minordpo.report.find import find
from minordpo.report.page import report
from minordpo.run_folder.records import ProbeRow, StepRow

DOCS = ROOT / "docs" / "claims.md"


def gathered(*folders: Path) -> Gathered:
    return gather_runs(find(folders))


def one(*folders: Path) -> ClaimRun:
    (run,) = gathered(*folders).runs
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """DPO and MinorDPO at two β and two seeds, with answers of them and of the untuned model."""
    asked: dict[str, Any] = {"untuned": ("base", 0.5, None)}
    for objective, share in (("dpo", 0.3), ("minordpo", 0.6)):
        for beta in (0.02, 0.1):
            for seed in (0, 1):
                name = f"{objective}-{beta}-{seed}"
                run = write_run(tmp_path / "runs" / name, objective=objective, beta=beta, seed=seed)
                asked[name] = (str((run / "model").resolve()), share + seed / 100, 2.0)
    write_evaluation(tmp_path / "runs" / "evaluation", asked)
    return tmp_path / "runs"


def test_a_run_is_seen_with_its_settings_and_measures(folder: Path):
    found = gathered(folder)
    assert found.said == ()
    run = next(each for each in found.runs if each.label == "dpo-0.02-1")
    assert (run.objective, run.beta, run.rate, run.seed) == ("dpo", 0.02, 1e-3, 1)
    # Of the last held-out measurement, as write_run makes it: 12 steps of −4 (1 + seed/10) / (1 + 5 β), times 0.9.
    assert run.measures["chosen"] == pytest.approx(-0.9 * 12 * 4 * 1.1 / 1.1)
    assert run.measures["margin"] == pytest.approx(12 * 4 * 1.1 / 1.1)
    assert run.measures["ranked"] == 1.0
    assert (run.measures["accuracy"], run.measures["base_accuracy"]) == (pytest.approx(0.31), 0.5)
    assert run.measures["kl"] == pytest.approx(2 / 9)
    assert run.measures["broken"] == 0.0
    assert run.others["training.max_steps"] == 3
    assert not {"objective.beta", "training.seed", "training.learning_rate", "output"} & run.others.keys()
    (group,) = comparable(found.runs)
    assert (group.label, group.seeds, group.redraws) == ("", (0, 1), False)


def test_text_that_is_garbled_but_repeats_nothing_is_broken_though_its_answers_were_scored(folder: Path):
    garbled = folder / "dpo-0.02-0" / "metrics.jsonl"
    rows = [json.loads(line) for line in garbled.read_text().splitlines()]
    for row in rows:
        if "probe/repeated_4grams" in row:
            row |= {"probe/reference_nll": 0.4 + 0.1 * row["step"], "probe/chosen_nll": 0.5}
    write_rows(garbled, rows)
    found = {run.label: run.measures for run in gathered(folder).runs}
    assert found["dpo-0.02-0"]["broken"] == 1.0
    assert found["dpo-0.02-0"]["repeated"] == 0.0  # of the answers, though the looks have a rise
    assert found["dpo-0.02-1"]["broken"] == 0.0


def test_runs_that_have_not_finished_are_left_out_and_told(folder: Path, tmp_path: Path):
    write_run(tmp_path / "runs" / "cut", finished=False)
    (tmp_path / "runs" / "lost").mkdir()
    (tmp_path / "runs" / "lost" / "failed.txt").write_text("no memory")
    found = gathered(folder)
    assert len(found.runs) == 8
    assert found.said == ("cut is left out: unfinished", "lost is left out: failed")
    with pytest.raises(
        InputError, match=r"none of the 1 runs has finished \(cut is left out: unfinished\), but"
    ):
        gathered(tmp_path / "runs" / "cut")


def test_other_hyperparameters_are_another_objective_and_other_settings_are_judged_apart(tmp_path: Path):
    run = write_run(tmp_path / "a", objective="dpop")
    text = (run / "config.yaml").read_text()
    write_run(tmp_path / "b", objective="dpop", data={"max_length": 7})
    changed = write_run(tmp_path / "c", objective="dpop") / "config.yaml"
    assert "  name: dpop\n" in text
    changed.write_text(text.replace("  name: dpop\n", "  name: dpop\n  dpop_lambda: 5.0\n"))
    write_run(tmp_path / "d", objective="dpop", samples={"prompts": 7}, monitor={"prompts": 9})
    found = {run.label: run for run in gathered(tmp_path).runs}
    assert [found[name].objective for name in "abcd"] == ["dpop", "dpop", "dpop, dpop_lambda 5.0", "dpop"]
    split = comparable(found.values())
    assert [[run.label for run in each.runs] for each in split] == [["a", "c", "d"], ["b"]]
    assert [each.label for each in split] == ["data.max_length none", "data.max_length 7"]


def test_a_sweeps_world_is_a_setting_and_its_seed_a_replicate(tmp_path: Path):
    runs = {}
    for kind in ("result", "quarter"):
        for seed in (0, 1):
            name = f"{kind}-{seed}"
            write_run(
                tmp_path / name,
                seed=seed,
                model={
                    "path": f"worlds/{name}/base",
                    "reference": f"worlds/{name}/base",
                },  # as a sweep writes
                data={"train": f"worlds/{name}/pairs.jsonl"},
            )
            world = {"seed": seed, "rejected": kind, "distance": "full"}
            runs[name] = {"settings": {"seed": seed}, "identity": {"config": {}, "world": world}}
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": runs}))
    split = comparable(gathered(tmp_path).runs)
    assert [(each.label, each.seeds, each.redraws) for each in split] == [
        ("world.rejected quarter", (0, 1), True),
        ("world.rejected result", (0, 1), True),
    ]


def test_log_ratios_are_of_the_steps_where_a_run_has_no_held_out_pairs(folder: Path):
    file = folder / "dpo-0.1-0" / "metrics.jsonl"
    kept = [line for line in file.read_text().splitlines() if "eval_loss" not in line]
    file.write_text("\n".join(kept) + "\n")
    found = gathered(folder)
    assert found.said == (
        "log-ratios are of the last fifth of the steps, since not every run has held-out pairs",
    )
    run = next(each for each in found.runs if each.label == "minordpo-0.1-0")
    # The last two of twelve steps: 4 / 1.5 a step.
    assert run.measures["chosen"] == pytest.approx(11.5 * 4 / 1.5)
    assert run.measures["ranked"] == 1.0


def test_early_and_late_margins_are_means_of_a_fifth_and_no_number_is_no_measure():
    rows = [StepRow(i, {"logratios/margin": float(i), "logratios/chosen": -float(i)}) for i in range(10)]
    found = trained(rows)
    assert (found["early_margin"], found["late_margin"], found["margin"], found["chosen"]) == (
        0.5,
        8.5,
        8.5,
        -8.5,
    )
    assert "early_margin" not in trained(rows[:9])
    rows[3] = StepRow(3, {"logratios/margin": "nan", "logratios/chosen": -3.0})
    assert set(trained(rows)) == {"chosen"}


def test_text_breaks_by_the_rises_that_the_study_of_alarms_calls_broken():
    def probe(step: int, looping: float, repeated: float = 0.1) -> ProbeRow:
        return ProbeRow(step, {"looping": looping, "repeated_4grams": repeated, "empty": 0.0})

    rows = [probe(0, 0.125), probe(10, 0.37), probe(20, 0.375)]
    assert probed(rows, 20) == {"broken": 1.0, "broken_at_half": 0.0, "broken_at_end": 1.0, "repeated": 0.0}
    assert probed([probe(0, 0.1), probe(20, 0.1, 0.29)], 20) == {
        "broken": 0.0,
        "repeated": pytest.approx(0.19),
    }
    assert probed([probe(0, 0.1), probe(20, 0.1, 0.31)], 20)["broken"] == 1.0
    assert probed(rows[1:], 20) == {}


def test_logged_coefficients_are_compared_with_the_formula_of_the_pairs(tmp_path: Path):
    pairs = [[1.0, -4.0], [2.0, 3.0]]
    write_rows(tmp_path / "responses.jsonl", [{"step": 1, "split": "train", "logratios": pairs}])
    sigma = [1 / (1 + math.exp(0.1 * margin)) for margin in (5.0, -1.0)]
    dpo = 0.1 * sum(sigma) / 2
    assert pushes(tmp_path, "dpo", 0.1, [StepRow(1, {"coefficient/chosen": -dpo})]) == {
        "push_error": pytest.approx(0, abs=1e-12)
    }
    assert pushes(tmp_path, "dpo", 0.1, [StepRow(1, {"coefficient/chosen": -1.01 * dpo})])["push_error"] == (
        pytest.approx(1 - 1 / 1.01)
    )
    # Only the first pair's rejected response is at or below the reference: σ(−0.1) against σ(−0.5).
    found = pushes(tmp_path, "minordpo", 0.1, [])
    assert found == {"push_raise": pytest.approx(1 / (1 + math.exp(0.1)) - sigma[0])}
    assert pushes(tmp_path, "ipo", 0.1, []) == {}


def test_two_evaluations_are_one_to_choose_by_and_one_to_score_by(folder: Path):
    run = folder / "dpo-0.1-0"
    write_evaluation(folder / "other", {"x": (str((run / "model").resolve()), 0.8, None)}, digest="v")
    file = folder / "other" / "results.json"
    results = json.loads(file.read_text())
    results["settings"]["questions"] = "validation.jsonl"
    file.write_text(json.dumps(results))
    found = {each.label: each.measures for each in gathered(folder).runs}
    assert (found["dpo-0.1-0"]["accuracy"], found["dpo-0.1-0"]["validation_accuracy"]) == (0.3, 0.8)
    assert "validation_accuracy" not in found["dpo-0.1-1"]


def test_answers_to_other_questions_than_most_of_a_seed_are_left_out(folder: Path):
    odd = folder / "dpo-0.1-0"
    file = folder / "evaluation" / "results.json"
    results = json.loads(file.read_text())
    del results["models"]["dpo-0.1-0"]
    file.write_text(json.dumps(results))
    write_evaluation(odd / "evaluation", {"x": (str((odd / "model").resolve()), 0.9, 1.0)}, digest="other")
    found = gathered(folder)
    assert found.said == (
        "the answers of dpo-0.1-0 are left out: they are to other questions than those of most runs",
    )
    measured = {run.label: run.measures for run in found.runs}
    assert not {"accuracy", "kl"} & measured["dpo-0.1-0"].keys()
    assert {"accuracy", "kl"} < measured["dpo-0.1-1"].keys()


def test_a_copy_of_a_run_is_told(folder: Path):
    write_run(folder / "again", objective="dpo", beta=0.02, seed=0)
    assert gathered(folder).said == (
        "again, dpo-0.02-0 have the same settings and seed, and count as one run",
    )


def test_the_command_tells_verdicts_and_writes_them_whole(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "claims.json"
    assert main(["paper", "claims", str(folder), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("8 finished runs, 2 seeds\n  seeds redraw only the order of the pairs here")
    assert "C1   held           The push" in said
    assert "C5b  not decidable  MinorDPO ends above DPO\n" in said
    # 0.3 and 0.31 against 0.6 and 0.61: thirty points in both seeds, β for β.
    flowing = " ".join(said.split())
    assert (
        "needs at least 7 seeds (2 tests are made): 2 are there; MinorDPO less DPO, rate 1e-3 +30.0 points "
        "(sd 0.0, 2 of 2 seeds)"
    ) in flowing
    assert "C10 not decidable" in flowing
    values = json.loads(out.read_text())
    (here, across) = values["situations"]
    assert [each["claim"] for each in here["claims"]] == [c.name for c in all_claims() if not c.across]
    assert [each["claim"] for each in across["claims"]] == [c.name for c in all_claims() if c.across]
    (found,) = [each for each in here["claims"] if each["claim"] == "C5a"]
    assert found["contrasts"][0]["by_seed"] == {"0": pytest.approx(-0.2), "1": pytest.approx(-0.19)}
    assert (found["contrasts"][0]["seeds_as_predicted"], found["runs"], found["seeds"]) == (2, 4, 2)
    assert [each["claim"] for each in here["claims"] if each["verdict"] == "held"] == ["C1", "C14"]
    assert [each.name for each in tmp_path.iterdir() if ".partial" in each.name] == []


def test_of_further_settings_only_the_states_are_printed(folder: Path):
    write_run(folder / "shorter", data={"max_length": 9})
    said = as_text(judge_all(gathered(folder)), ["a.jsonl is odd"])
    assert said.count("The push f(β, margin)") == 1
    assert "data.max_length 9: 1 finished run, 1 seed\nheld           C1, C14\nnot decidable  C2, C3a" in said
    assert said.endswith("- a.jsonl is odd")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone"], "gone is no folder, but run folders are needed"),
        (["empty"], "empty holds no run (a folder with config.yaml)"),
        (["runs", "--out", "no/such/claims.json"], "claims.json cannot be written"),
        (["broken"], "broken/run has a file in another form than minordpo writes"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write_run(Path("runs/a"))
    write_run(Path("broken/run"))
    write_rows(Path("broken/run/metrics.jsonl"), [{"step": step, "loss": None} for step in (1, 2, 3)])
    assert main(["paper", "claims", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_report_ends_with_the_claims_and_what_runs_are_called_is_text(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("minordpo.report.figures.draw_figures", lambda data, folder: None)
    text = (report([folder], out=tmp_path / "page", sections=[claims_section]) / "index.html").read_text()
    section = text[text.index('<section id="claims">') : text.index("<footer")]
    assert all(f'<th scope="row">{claim.name}<td>' in section for claim in all_claims())
    assert "8 finished runs, 2 seeds" in section
    evil = as_html(judge_all(gathered(folder)), [EVIL])
    assert "<script" not in evil
    assert "<img" not in evil
    single = report([folder / "dpo-0.1-0"], out=tmp_path / "single", sections=[claims_section]) / "index.html"
    assert '<section id="claims">' not in single.read_text()


def test_the_docs_have_the_claims_as_the_code_has_them():
    assert claims_table() in DOCS.read_text(encoding="utf-8")


def test_runs_that_differ_in_another_seed_than_training_seed_are_refused(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 2)):
        config = write_run(tmp_path / name) / "config.yaml"
        config.write_text(config.read_text().replace("  seed: 0\n", f"  seed: 0\n  data_seed: {seed}\n"))
    with pytest.raises(
        InputError, match=r"a and b differ in training\.data_seed \(1, 2\) and not in training"
    ):
        gathered(tmp_path)


def test_a_run_that_acts_on_a_collapse_is_judged_apart(tmp_path: Path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", monitor={"on_collapse": "rollback"})
    found = gathered(tmp_path)
    assert found.said == ()
    assert len(comparable(found.runs)) == 2


@pytest.mark.parametrize("line", ["[1]", '{"split": "train", "logratios": [[1.0, 2.0]]}', "\udcff"])
def test_responses_in_another_form_are_told_with_their_run(tmp_path: Path, line: str):
    run = write_run(tmp_path / "a")
    (run / "responses.jsonl").write_bytes(line.encode(errors="surrogateescape") + b"\n")
    with pytest.raises(InputError, match="a has a file in another form than minordpo writes"):
        gathered(tmp_path)


def test_pairs_of_a_step_without_numbers_have_no_push(tmp_path: Path):
    rows = [{"step": 1, "split": "train", "logratios": [["nan", "-inf"], [0.1, 0.2]]}]
    write_rows(tmp_path / "responses.jsonl", rows)
    assert pushes(tmp_path, "dpo", 0.1, [StepRow(1, {"coefficient/chosen": -0.05})]) == {}


def test_a_sweeps_run_whose_config_is_lost_is_told(tmp_path: Path):
    for name in ("a", "b"):
        write_run(tmp_path / name)
    runs = {name: {"settings": {}, "identity": {}} for name in ("a", "b")}
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": runs}))
    (tmp_path / "b" / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"b is a run of the sweep beside it, but its config.yaml is not"):
        find([tmp_path])
