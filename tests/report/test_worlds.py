"""A report of runs on several worlds: seeds are one setting, whose questions are one kind and whose bases one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from helpers.headless import Headless
from helpers.report_runs import write_evaluation, write_run
from minordpo.figures import canvas
from minordpo.report import figures
from minordpo.report.find import find
from minordpo.report.gather import gather
from minordpo.report.page import report

WORLD = {"family": "chain", "rejected": "result"}
# Share of right answers by seed.
BASE = {0: 0.4, 1: 0.5, 2: 0.6}
TUNED = {0: 0.5, 1: 0.7, 2: 0.6}


def swept(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), dpop: tuple[int, ...] = ()) -> Path:
    """A sweep's output: dpo on worlds of so many seeds, and dpop with so many weights on the first of them."""
    runs = {}
    for seed in seeds:
        world = f"chain-seed{seed}"
        arms: list[tuple[str, dict[str, Any]]] = [(f"dpo-seed{seed}", {"objective": "dpo"})]
        if seed == seeds[0]:
            arms += [(f"dpop{each}", {"objective": f"dpop\n  dpop_lambda: {each}"}) for each in dpop]
        for name, arm in arms:
            run = write_run(folder / name, seed=seed, **arm)
            config = run / "config.yaml"
            config.write_text(config.read_text().replace("path: base", f"path: out/worlds/{world}/base"))
            write_evaluation(
                run / "evaluation",
                {name: (str(run / "model"), TUNED[seed], 2.0 + seed)},
                digest=world,
                task=f"out/worlds/{world}/test.jsonl",
            )
            runs[name] = {"settings": {"seed": seed}, "identity": {"world": WORLD | {"seed": seed}}}
        write_evaluation(
            folder / "untuned" / world,
            {"base": (f"out/worlds/{world}/base", BASE[seed], None)},
            digest=world,
            task=f"out/worlds/{world}/test.jsonl",
        )
    (folder / "sweep.json").write_text(json.dumps({"runs": runs}))
    return folder


def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    found: dict[str, Figure] = {}
    monkeypatch.setattr(canvas, "write_figure", lambda figure, path: found.update({path.stem: figure}))
    figures.draw_figures(gather(find([folder])), folder)
    return found


def texts(figure: Figure) -> set[str]:
    figure.canvas.draw()
    return {text.get_text() for text in figure.findobj(Text) if text.get_visible()}


def test_questions_of_worlds_that_differ_by_their_seed_are_one_set(tmp_path: Path):
    (asked,) = gather(find([swept(tmp_path)]))["evaluations"]
    assert asked["title"] == "100 of beads in each of 3 worlds"
    shares = {run: each["flexible_accuracy"][0] for run, each in asked["runs"].items()}
    assert shares == {"0": 0.5, "1": 0.7, "2": 0.6}
    assert asked["base"]["flexible_accuracy"] == [pytest.approx(0.5), 0.4, 0.6]
    assert asked["base"]["worlds"] == 3


def test_one_world_has_the_interval_of_its_own_base(tmp_path: Path):
    (asked,) = gather(find([swept(tmp_path, seeds=(1,))]))["evaluations"]
    assert asked["title"] == "100 of beads"
    assert asked["base"]["flexible_accuracy"] == [0.5, 0.4, 0.6]
    assert "worlds" not in asked["base"]


def test_the_same_questions_asked_on_every_world_are_told_from_the_worlds_own(tmp_path: Path):
    swept(tmp_path)
    run = tmp_path / "dpo-seed2"
    write_evaluation(tmp_path / "more", {"dpo-seed2": (str(run / "model"), 0.1, None)}, digest="gsm8k")
    own, other = gather(find([tmp_path]))["evaluations"]
    assert list(own["runs"]) == ["0", "1", "2"]
    assert other["runs"]["2"]["flexible_accuracy"][0] == 0.1


def test_worlds_that_differ_by_more_than_their_seed_are_two_sets(tmp_path: Path):
    swept(tmp_path)
    file = tmp_path / "sweep.json"
    plan = json.loads(file.read_text())
    plan["runs"]["dpo-seed2"]["identity"]["world"]["rejected"] = "quarter"
    file.write_text(json.dumps(plan))
    found = gather(find([tmp_path]))["evaluations"]
    assert [list(each["runs"]) for each in found] == [["0", "1"], ["2"]]
    assert [each["base"]["flexible_accuracy"][0] for each in found] == [pytest.approx(0.45), 0.6]


def test_scores_and_kl_of_seeds_are_one_point_with_their_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = drawn(swept(tmp_path), monkeypatch)
    points = {
        name: [
            (list(line.get_xdata()), list(line.get_ydata()))
            for line in found[name].axes[0].get_lines()
            if line.get_color() == canvas.COLORS[0] and line.get_marker() == "o"
        ]
        for name in ("scores", "kl")
    }
    ((_, shares),) = points["scores"]
    assert shares == pytest.approx([0.6])
    (((kl,), (share,)),) = points["kl"]
    assert (kl, share) == pytest.approx((3.0, 0.6))
    assert "Scores by β: mean and range over 3 seeds" in texts(found["scores"])
    assert "Reward against KL: a point a setting, mean and range over 3 seeds" in texts(found["kl"])


def test_an_objective_with_two_settings_beside_β_is_two_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = drawn(swept(tmp_path, seeds=(0,), dpop=(5, 50)), monkeypatch)
    for name in ("scores", "kl"):
        assert texts(found[name]) >= {"dpo", "dpop, dpop_lambda 5", "dpop, dpop_lambda 50"}


def test_objectives_of_fewer_seeds_than_others_say_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = drawn(swept(tmp_path, dpop=(5,)), monkeypatch)
    whiskers = "mean and range over up to 3 seeds (of one: 95 %)"
    for name, title in (("scores", "Scores by β: "), ("kl", "Reward against KL: a point a setting, ")):
        assert texts(found[name]) >= {"dpo (3 seeds)", "dpop (1 seed)", title + whiskers}


def test_a_colour_that_comes_again_is_hollow():
    names = [f"objective {place:02}" for place in range(9)]
    styles = figures._styles(names, names)
    first, again = styles[names[0]], styles[names[7]]
    assert first["color"] == again["color"] == first["markerfacecolor"]
    assert again["markerfacecolor"] == "white"


def test_the_page_tells_means_over_worlds(tmp_path: Path):
    report([swept(tmp_path / "out")], out=tmp_path / "report")
    with Headless(tmp_path / "profile") as page:
        page.show(1280)
        page.open(tmp_path / "report" / "index.html")
        text = page.value("document.body.innerText")
        assert page.errors == []
    assert "Highest measured: dpo, β 0.1, rate 1e-3, 60 % (mean of 3 seeds); the untuned model 50 %." in text
    assert "1 setting; points are means over seeds, whiskers their range." in text
