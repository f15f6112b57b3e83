"""Reward against KL of any evaluated models, as a figure."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from helpers.report_runs import write_evaluation
from helpers.small_evaluations import command, make_world
from minordpo.cli import main
from minordpo.errors import InputError
from minordpo.evaluate import kl_plot
from minordpo.evaluate.kl_plot import kl_figure
from minordpo.figures.canvas import MARKERS
from minordpo.report.find import find
from minordpo.run_folder import names


def results_of(**models: dict[str, Any] | None) -> dict[str, Any]:
    return {"models": {label: {"samples": samples} for label, samples in models.items()}}


def sampled(share: float, kl: float | None, *, error: float | None = 0.5, cut: float = 0.0) -> dict[str, Any]:
    """What the samples of a model showed."""
    measured = {"per_sequence": kl, "per_sequence_error": error, "cut": cut}
    asked, last = (
        {"share": share + more, "low": share + more - 0.1, "high": share + more + 0.05}
        for more in (0.0, 0.25)
    )
    return {
        "strict_accuracy": asked,
        "flexible_accuracy": last,
        "kl": None if kl is None else measured,
    }


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures as they are written."""
    figures: list[Figure] = []
    monkeypatch.setattr(kl_plot, "write_figure", lambda figure, out: figures.append(figure))
    return figures


def points(figure: Figure, panel: int = 1) -> list[tuple[float, float]]:
    lines = [line for line in figure.axes[panel].get_lines() if line.get_marker() in MARKERS]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]  # type: ignore[index]


def test_each_model_is_a_point_at_its_kl_and_its_share_of_right_samples(tmp_path: Path, drawn: list[Figure]):
    results = results_of(
        base=sampled(0.2, 0.0), dpo=sampled(0.5, 30.0, cut=0.12), minordpo=sampled(0.45, 4.0)
    )
    assert kl_figure(results, tmp_path / names.KL_FIGURE)
    assert points(drawn[0]) == [(0.0, 0.2), (30.0, 0.5), (4.0, 0.45)]
    assert points(drawn[0], 0) == [(0.0, 0.45), (30.0, 0.75), (4.0, 0.7)]
    assert [axis.get_title("left") for axis in drawn[0].axes] == [*kl_plot.REWARDS.values()]
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["base", "dpo (12% cut)", "minordpo"]


def test_models_without_a_kl_of_their_own_samples_are_left_out(tmp_path: Path, drawn: list[Figure]):
    hot, alone = sampled(0.4, None), {"strict_accuracy": {"share": 0.1}}
    assert kl_figure(
        results_of(a=hot, b=sampled(0.3, 2.0, error=None), c=alone, d=None), tmp_path / names.KL_FIGURE
    )
    assert points(drawn[0]) == [(2.0, 0.3)]
    assert not kl_figure(results_of(a=hot, c=alone, d=None), tmp_path / names.KL_FIGURE)
    assert len(drawn) == 2  # PNG and SVG of the first


def test_of_many_models_no_two_look_alike(tmp_path: Path, drawn: list[Figure]):
    many = {f"m{place}": sampled(0.3 + place / 100, float(place)) for place in range(35)}
    assert kl_figure(results_of(**many), tmp_path / names.KL_FIGURE)
    axis = drawn[0].axes[0]
    looks = [(line.get_color(), line.get_marker()) for line in axis.get_lines() if line.get_label()[0] == "m"]
    assert len(set(looks)) == len(looks) == 35


@pytest.mark.parametrize(
    ("largest", "ticks"), [(0.03, [0, 0.0005, 0.002, 0.005, 0.01, 0.02]), (160.0, [0, 1, 5, 20, 50, 100])]
)
def test_kl_is_told_apart_near_zero_and_far_from_it(
    tmp_path: Path, drawn: list[Figure], largest: float, ticks: list[float]
):
    assert kl_figure(
        results_of(base=sampled(0.2, -0.001, error=0.0), far=sampled(0.1, largest, error=0.0)),
        tmp_path / names.KL_FIGURE,
    )
    axis = drawn[0].axes[0]
    assert [float(tick) for tick in axis.get_xticks()] == ticks
    places = axis.transData.transform([(0.0, 0.0), (largest / 4, 0.0), (largest, 0.0), (-largest / 4, 0.0)])[
        :, 0
    ]
    quarter, whole, below = places[1:] - places[0]
    assert quarter == pytest.approx(whole / 2)
    assert below == pytest.approx(-quarter)


def test_an_evaluation_with_samples_and_a_reference_draws_it(tmp_path: Path, capsys: Any):
    world, out = make_world(tmp_path), tmp_path / "out"
    asked = command(world, "one", "two", out=out, samples=2, reference=world / "one")
    assert main(asked) == 0
    written = [each.relative_to(out).as_posix() for each in sorted(out.rglob("*")) if each.is_file()]
    assert written == [
        *("evaluation.json", "kl.png", "kl.svg"),
        *("one/answers.jsonl", "one/logps.jsonl", "one/sample_logps.jsonl", "one/samples.jsonl"),
        *("results.json", "results.md"),
        *("two/answers.jsonl", "two/logps.jsonl", "two/sample_logps.jsonl", "two/samples.jsonl"),
    ]
    assert "every answer, reward against KL as kl.png and kl.svg" in capsys.readouterr().out
    assert (out / names.KL_FIGURE).read_bytes().startswith(b"\x89PNG")
    assert len(list(xml.etree.ElementTree.parse(out / "kl.svg").getroot().iter())) > 50
    before = (out / "kl.svg").read_bytes()
    assert main(asked) == 0  # nothing is left to answer
    assert (out / "kl.svg").read_bytes() == before
    assert main(command(world, "two", out=tmp_path / "greedy")) == 0
    assert capsys.readouterr().out.endswith("every answer\n")
    assert not (tmp_path / "greedy" / names.KL_FIGURE).exists()


def test_a_report_of_an_evaluation_alone_is_sent_to_its_figure(tmp_path: Path):
    write_evaluation(tmp_path / "evaluation", {"base": ("base", 0.3, 0.0)})
    with pytest.raises(
        InputError, match=r"holds no run .*of an evaluation alone .* draws reward against KL \(kl\.png"
    ):
        find([tmp_path / "evaluation"])
