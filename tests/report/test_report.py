"""Run folders written by hand → what a report says of them, and its files."""

from __future__ import annotations

import json
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest

from helpers.report_runs import EVIL, QUESTION, write_evaluation, write_pair_tokens, write_run
from helpers.tiny_runs import write_rows
from minordpo.cli import main
from minordpo.errors import InputError
from minordpo.report import figures, page
from minordpo.report.answers import QUESTIONS, TEXT
from minordpo.report.curves import POINTS, curves_of
from minordpo.report.find import find
from minordpo.report.gather import gather
from minordpo.report.groups import RunSetting, paint
from minordpo.report.page import embedded, render, report
from minordpo.run_folder.records import parse_rows


def read(*folders: Path) -> dict[str, Any]:
    return gather(find(folders))


def changed(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


# ---- files ----
def test_a_report_is_a_page_and_each_figure_as_png_and_svg(tmp_path: Path):
    for name, objective in (("a", "dpo"), ("b", "minordpo")):
        for seed in (0, 1):
            write_run(
                tmp_path / "runs" / f"{name}{seed}",
                objective=objective,
                seed=seed,
                health=((4, "displaced"),),
            )
    model = str((tmp_path / "runs" / "a0" / "model").resolve())
    write_evaluation(tmp_path / "runs" / "evaluation", {"base": ("base", 0.3, None), "a0": (model, 0.4, 6.0)})
    out = report([tmp_path / "runs"])
    assert out == tmp_path / "runs" / "report"
    assert sorted(each.name for each in out.iterdir()) == ["figures", "index.html"]
    names = ("coefficient", "health", "kl", "rewards-1e-3", "scores")
    assert sorted(each.name for each in (out / "figures").iterdir()) == [
        f"{name}.{kind}" for name in names for kind in ("png", "svg")
    ]
    for name in names:
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        root = xml.etree.ElementTree.parse(out / "figures" / f"{name}.svg").getroot()
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 10
    assert [each.name for each in (tmp_path / "runs").iterdir() if each.name.startswith(".")] == []


def test_a_new_report_takes_the_place_of_the_old_one_or_leaves_it(tmp_path: Path, monkeypatch: Any):
    write_run(tmp_path / "run")
    monkeypatch.setattr(figures, "draw_figures", lambda data, folder: (folder / "x.svg").write_text("1"))
    out = report([tmp_path / "run"], out=tmp_path / "out")
    first = (out / "index.html").read_bytes()
    write_run(tmp_path / "more" / "run2")

    def full(data: Any, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(figures, "draw_figures", full)
        with pytest.raises(
            InputError, match=r"out cannot be written: No space left on device\. Free some space"
        ):
            report([tmp_path / "run", tmp_path / "more"], out=out)
    assert (out / "index.html").read_bytes() == first
    report([tmp_path / "run", tmp_path / "more"], out=out)
    assert "2 runs" in (out / "index.html").read_text()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["more", "out", "run"]


def test_a_folder_that_is_no_report_is_not_replaced(tmp_path: Path, monkeypatch: Any):
    write_run(tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text("<p>mine")
    with pytest.raises(
        InputError, match=r"other exists and holds no report\. Name another folder with --out"
    ):
        report([tmp_path / "run"], out=tmp_path / "other")
    monkeypatch.setattr(figures, "draw_figures", lambda data, folder: None)
    out = report([tmp_path / "run"], out=tmp_path / "out")
    for name in ("notes.txt", "figures/table.csv"):
        (out / name).write_text("mine")
        with pytest.raises(
            InputError, match=rf"out holds {name}, which is no part of a report and would be lost"
        ):
            report([tmp_path / "run"], out=out)
        (out / name).unlink()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file is a file\. Name another output"):
        report([tmp_path / "run"], out=tmp_path / "file" / "out")


def test_what_a_model_wrote_stays_text_in_the_page(tmp_path: Path):
    write_run(tmp_path / EVIL[:8].replace("/", "") / "run")
    data = read(tmp_path)
    assert EVIL in json.dumps(data, ensure_ascii=False).replace('\\"', '"').replace("\\\\", "\\")
    text = embedded(data)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == data
    html = render({**data, "title": EVIL})
    assert html.count("</script>") == 2
    assert "<img" not in html
    assert "<!--" not in html


# ---- runs ----
def test_one_run_is_read_as_several_are(tmp_path: Path):
    write_run(tmp_path / "run", rate=2e-5, health=((4, "displaced"), (8, "collapsed"), (12, "displaced")))
    data = read(tmp_path / "run")
    (run,) = data["runs"]
    assert data["title"] == "run"
    assert (run["label"], run["objective"], run["beta"], run["rate"], run["seed"]) == (
        "run",
        "dpo",
        0.1,
        2e-5,
        0,
    )
    assert [group["label"] for group in data["groups"]] == ["dpo, β 0.1, rate 2e-5"]
    assert run["curves"]["health"] == [[4, "displaced"], [8, "collapsed"], [12, "displaced"]]
    assert run["curves"]["looks"]["repeated_4grams"] == {"x": [0, 4, 8, 12], "y": [0.0, 0.08, 0.16, 0.24]}
    assert run["curves"]["eval"]["ranked"]["y"] == [1.0, 1.0, 1.0]
    # 4000 · rate / (1 + 5 β) nats a step down, and 0.9 of that on held-out pairs
    assert run["curves"]["train"]["chosen"]["y"][-1] == pytest.approx(-12 * 0.08 / 1.5, rel=1e-4)
    assert run["cells"]["eval_logratios/chosen"] == pytest.approx(-0.9 * 12 * 0.08 / 1.5, rel=1e-4)
    assert (run["cells"]["worst_health"], run["cells"]["collapsed_step"]) == ("collapsed", 8)


def test_runs_that_differ_by_nothing_but_their_seed_are_one_setting(tmp_path: Path):
    for beta in (0.1, 0.2):
        for seed in (0, 1, 2):
            write_run(tmp_path / f"b{beta}-s{seed}", beta=beta, seed=seed)
    write_run(tmp_path / "long", beta=0.1, lora={"r": 4})
    data = read(tmp_path)
    assert [run["group"] for run in data["runs"]] == [0, 0, 0, 1, 1, 1, 2]
    labels = [group["label"] for group in data["groups"]]
    assert labels == ["dpo, β 0.1, rate 1e-3", "dpo, β 0.2, rate 1e-3", "dpo, β 0.1, rate 1e-3, r 4"]
    assert len({group["light"] for group in data["groups"]}) == 3


def test_a_sweeps_settings_say_which_runs_are_one_though_their_data_differ(tmp_path: Path):
    for seed in (0, 1):
        write_run(tmp_path / f"s{seed}", seed=seed, data={"train": f"worlds/seed{seed}/pairs.jsonl"})
    assert len(read(tmp_path)["groups"]) == 2
    runs = {f"s{seed}": {"settings": {"objective.beta": 0.1, "seed": seed}} for seed in (0, 1)}
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": runs}))
    assert len(read(tmp_path)["groups"]) == 1


def test_two_runs_of_one_name_are_told_apart_and_one_named_twice_is_one(tmp_path: Path):
    first, second = write_run(tmp_path / "x" / "run"), write_run(tmp_path / "y" / "run", beta=0.2)
    write_run(tmp_path / "y" / "other", beta=0.3)
    data = read(first, tmp_path / "y", second, tmp_path / "x" / ".." / "x")
    assert [run["label"] for run in data["runs"]] == ["x/run", "other", "y/run"]


def test_a_run_cut_short_shows_what_it_has(tmp_path: Path):
    cut = write_run(tmp_path / "cut", finished=False, steps=5)
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    with (cut / "probes.jsonl").open("a") as file:
        file.write('{"step": 8')
    new = write_run(tmp_path / "new", beta=0.3, finished=False)
    (new / "metrics.jsonl").unlink()
    early = tmp_path / "early"
    early.mkdir()
    (early / "failed.txt").write_text("out of memory\n")
    runs = {run["label"]: run for run in read(tmp_path)["runs"]}
    assert {name: run["status"] for name, run in runs.items()} == {
        "cut": "unfinished",
        "new": "unfinished",
        "early": "failed",
    }
    assert runs["cut"]["curves"]["train"]["chosen"]["x"] == [1, 2, 3, 4, 5]
    assert runs["new"]["curves"]["train"] == runs["early"]["curves"]["train"] == {}
    assert runs["early"]["error"] == "out of memory"


# ---- curves ----
def test_long_curves_are_smoothed_thinned_and_keep_their_ends():
    rows = [{"step": step, "loss": 0.1, "logratios/chosen": -1.0 * step} for step in range(1, 3001)]
    made = curves_of(parse_rows(rows))
    curve = made["train"]["chosen"]
    assert len(curve["x"]) == POINTS
    assert (curve["x"][0], curve["x"][-1], made["window"]) == (1, 3000, 151)
    # A trend is neither delayed nor bent, the ends included.
    assert curve["y"] == pytest.approx([-x for x in curve["x"]], rel=1e-4)


def test_a_coefficient_that_is_never_below_zero_stays_so_when_it_is_smoothed():
    push = [0.05] * 90 + [0.0] * 10
    rows = [{"step": i + 1, "loss": 0.1, "coefficient/rejected": value} for i, value in enumerate(push)]
    curve = curves_of(parse_rows(rows))["train"]["push_rejected"]
    assert min(curve["y"]) == 0.0
    assert curve["y"][:80] == [0.05] * 80


def test_what_is_not_finite_is_a_gap_and_a_run_without_a_reference_has_log_probs():
    rows: list[dict[str, Any]] = [
        {"step": 1, "loss": 0.1, "logps/chosen": -3.0, "logps/rejected": -5.0},
        {"step": 2, "loss": "nan", "logps/chosen": "nan", "logps/rejected": -6.0},
        {"step": 3, "loss": 0.1, "logps/chosen": -2.0, "logps/rejected": -8.0},
    ]
    made = curves_of(parse_rows(rows))
    assert made["kind"] == "logps"
    assert made["train"]["chosen"] == {"x": [1, 3], "y": [-3.0, -2.0]}
    assert made["train"]["margin"] == {"x": [1, 3], "y": [2.0, 6.0]}


def test_the_push_by_margin_is_beta_sigmoid_of_minus_beta_margin(tmp_path: Path):
    write_run(tmp_path / "dpo", beta=0.1)
    write_run(tmp_path / "ipo", objective="ipo", beta=0.7)
    found = read(tmp_path)["coefficients"]
    (curve,) = found["curves"]  # ipo has another one
    values = dict(zip(curve["x"], curve["y"], strict=True))
    assert curve["beta"] == 0.1
    assert values[0.0] == 0.05  # 0.1 σ(0)
    assert values[10.0] == pytest.approx(0.026894, abs=1e-6)  # 0.1 / (1 + e)
    assert found["margins"] == {"dpo": "chosen − rejected"}


# ---- evaluations, answers, pairs ----
def test_scores_and_kl_come_from_an_evaluation_of_several_models(tmp_path: Path):
    one = write_run(tmp_path / "runs" / "one")
    write_run(tmp_path / "runs" / "two", beta=0.2)
    ours, elsewhere = str((one / "model").resolve()), "/before/it/was/moved/two/model"
    write_evaluation(
        tmp_path / "asked",
        {
            "untuned": ("base", 0.3, None),
            "a": (ours, 0.5, 6.0),
            "b": (elsewhere, 0.4, None),
            "c": ("strange", 0.9, 1.0),
        },
    )
    (tmp_path / "runs" / "two" / "retention.jsonl").write_text('{"right": true}\n{"right": false}\n')
    data = read(tmp_path / "runs", tmp_path / "asked")
    (asked,) = data["evaluations"]
    assert asked["base"]["strict_accuracy"] == [0.3, pytest.approx(0.2), 0.4]
    assert {run: each["strict_accuracy"][0] for run, each in asked["runs"].items()} == {"0": 0.5, "1": 0.4}
    first, second = (run["cells"] for run in data["runs"])
    assert (first["strict_accuracy"], first["kl_per_sequence"], first["kl_per_sequence_error"]) == (
        0.5,
        6.0,
        0.5,
    )
    assert (second["strict_accuracy"], second.get("kl_per_sequence"), second["retention_accuracy"]) == (
        0.4,
        None,
        0.5,
    )
    answered = next(each for each in data["answers"] if each["key"] == "evaluation")["questions"]
    assert [(a["when"], a["runs"], a["right"]) for a in answered[0]["answers"]] == [
        ("before", [], True),
        ("after", [0], True),
        ("after", [1], True),
    ]


def test_scores_on_other_questions_are_kept_apart(tmp_path: Path):
    for name, digest in (("one", "d"), ("two", "e")):
        run = write_run(tmp_path / name, beta=0.1 if name == "one" else 0.2)
        write_evaluation(run / "evaluation", {name: (str(run / "model"), 0.5, None)}, digest=digest)
    assert [list(each["runs"]) for each in read(tmp_path)["evaluations"]] == [["0"], ["1"]]


def test_answers_to_one_question_stand_together_and_equal_ones_before_training_once(tmp_path: Path):
    for name, beta in (("one", 0.1), ("two", 0.2)):
        write_run(tmp_path / name, beta=beta)
    sources = {each["key"]: each["questions"] for each in read(tmp_path)["answers"]}
    (question,) = sources["samples"]
    assert question["text"] == QUESTION
    found = [(a["when"], a["runs"], a["text"].split(" ")[0]) for a in question["answers"]]
    assert found == [("before", [0, 1], "12"), ("after", [0], "one"), ("after", [1], "two")]
    (probed,) = sources["probes"]
    assert [(a["step"], a["runs"]) for a in probed["answers"]] == [
        (step, [run]) for run in (0, 1) for step in (0, 4, 8, 12)
    ]


def test_many_and_long_answers_are_capped_and_that_is_said(tmp_path: Path):
    run = write_run(tmp_path / "run")
    rows = [
        {"when": "after", "row": i, "prompt": f"q{i}", "answer": "x" * 2000, "stopped": True, "tokens": 1}
        for i in range(25)
    ]
    write_rows(run / "samples.jsonl", rows)
    data = read(run)
    questions = next(each for each in data["answers"] if each["key"] == "samples")["questions"]
    assert len(questions) == QUESTIONS
    assert len(questions[0]["answers"][0]["text"]) == TEXT + 2
    assert data["said"] == [
        "Of 25 held-out prompts, before and after training, the first 20 are shown.",
        f"20 of 24 answers are cut at {TEXT} characters.",
    ]


def test_a_pair_stands_once_with_its_tokens_under_each_run(tmp_path: Path):
    for place, name in enumerate(("one", "two", "three")):
        run = write_run(tmp_path / name, beta=0.1 * (place + 1))
        if name != "three":
            write_pair_tokens(run, shift=float(place))
    (pair,) = read(tmp_path)["pairs"]
    assert pair["chosen"] == ["12", " beads", EVIL]
    order = [run["label"] for run in read(tmp_path)["runs"]]
    ratios = {order[int(run)]: values["chosen"]["ratios"] for run, values in pair["runs"].items()}
    assert ratios == {"one": [-1.5, 0.25, 0.5], "two": [-0.5, 0.25, 0.5]}


# ---- colours ----
def test_each_of_seven_settings_has_a_colour_and_of_more_hue_stands_for_the_objective():
    settings = [
        RunSetting(o, b, r) for o in ("dpo", "minordpo") for b in (0.02, 0.1, 0.2) for r in (1e-6, 1e-5)
    ]
    few = paint([str(i) for i in range(7)], settings[:7])
    assert len({group.light for group in few}) == len({group.dark for group in few}) == 7
    many = paint([str(i) for i in range(12)], settings)
    assert len({(group.light, group.dash) for group in many}) == 12
    assert {group.dash for group, s in zip(many, settings, strict=True) if s.rate == 1e-5} == {1}
    first, last = (int(many[i].light[1:3] + many[i].light[3:5], 16) for i in (0, 4))
    assert first > last  # of dpo the smaller β is lighter


# ---- what is refused ----
def test_folders_without_a_run_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        InputError, match=r"empty holds no run \(a folder with config.yaml\)\. Name a run folder"
    ):
        report([tmp_path / "empty"])
    with pytest.raises(InputError, match=r"gone is no folder, but run folders are needed\. Name one"):
        report([tmp_path / "gone"])
    (tmp_path / "empty" / "config.yaml").write_text("a: 1\n")  # another tool's
    with pytest.raises(InputError, match="holds no run"):
        report([tmp_path / "empty"])


BROKEN = {
    "config.yaml": ("{", r"config.yaml"),
    "./config.yaml": ("", r"config.yaml is no run's config, but metrics.jsonl beside it is a run's\. Put"),
    "environment.json": (
        '{"threads": 1}',
        r"run has a file in another form than minordpo writes \(KeyError: .*leave this run out",
    ),
    "evaluation/results.json": ("{}", r"results.json cannot be read \(KeyError: 'settings'\)\. Run the same"),
    "metrics.jsonl": (
        '{"step": 1}\n{\n{"step": 2}\n',
        r"line 2 of .*metrics.jsonl is no row of a step\. Take",
    ),
    "pair_tokens.jsonl": ('{"row": 1}\n', r"run has a file in another form than minordpo writes \(KeyError"),
    "samples.jsonl": (
        '{"when": "after", "prompt": "q"}\n',
        r"line 1 of .*samples.jsonl has answer=None, but an answer",
    ),
    "../sweep.json": ("[]", r"sweep.json cannot be read \(TypeError.*Put it back from a copy"),
}


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_file_is_named(tmp_path: Path, name: str):
    run = write_run(tmp_path / "run")
    write_evaluation(run / "evaluation", {"run": (str(run / "model"), 0.5, None)})
    text, message = BROKEN[name]
    (run / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_an_evaluation_of_several_models_is_not_taken_for_a_runs_own(tmp_path: Path):
    run = write_run(tmp_path / "run")
    write_evaluation(
        run / "evaluation", {"base": ("base", 0.3, None), "run": (str(run / "model"), 0.5, None)}
    )
    with pytest.raises(
        InputError, match=r"evaluation holds answers of several models.*Move it out of the run folder"
    ):
        read(tmp_path)
    (run / "evaluation").rename(tmp_path / "asked")
    assert read(tmp_path)["evaluations"][0]["base"]["label"] == "base"


def test_the_command_says_one_line_and_ends_with_two(tmp_path: Path, capsys: Any):
    assert main(["report", str(tmp_path / "gone")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("minordpo: ")
    assert said.count("\n") == 1


def test_the_command_writes_a_report(tmp_path: Path, capsys: Any, monkeypatch: Any):
    monkeypatch.setattr(figures, "draw_figures", lambda data, folder: (folder / "push.png").touch())
    write_run(tmp_path / "run")
    out = tmp_path / "made" / "out"
    assert main(["report", str(tmp_path / "run"), "--out", str(out)]) == 0
    said = f"{out / 'index.html'}: written\n{out / 'figures'}: push, each as PNG and SVG\n"
    assert capsys.readouterr().out == said
    assert page.INDEX in {each.name for each in (tmp_path / "made" / "out").iterdir()}
