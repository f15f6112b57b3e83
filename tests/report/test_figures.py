"""A report's figures as files: which there are, and what they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text

from helpers.report_runs import write_evaluation, write_run
from minordpo.figures import canvas
from minordpo.report import figures
from minordpo.report.find import find
from minordpo.report.gather import gather
from minordpo.report.page import report


def test_figures_name_every_run_and_every_objective(tmp_path: Path, monkeypatch: Any):
    written: dict[str, set[str]] = {}

    def watched(figure: Figure, path: Path) -> None:
        figure.canvas.draw()  # ticks get their texts only now
        written[path.stem] = {text.get_text() for text in figure.findobj(Text) if text.get_visible()}

    monkeypatch.setattr(canvas, "write_figure", watched)
    paths: dict[str, tuple[str, float, float | None]] = {"base": ("base", 0.5, None)}
    for objective in ("dpo", "minordpo"):
        for beta in (0.02, 0.1, 0.2, 0.3, 0.5):  # together more than a legend of settings had room for
            run = write_run(tmp_path / f"${objective}{beta}$", objective=objective, beta=beta)
            paths[run.name] = (str(run / "model"), 0.6, 5.0)
    write_evaluation(tmp_path / "evaluation", paths)
    report([tmp_path])
    assert written["health"] >= set(paths) - {"base"}
    for name in ("scores", "kl"):
        assert written[name] >= {"dpo", "minordpo"}
        assert not any("β 0.1" in text for text in written[name])


def test_an_objective_of_several_settings_has_a_figure_at_each_rate(tmp_path: Path, monkeypatch: Any):
    drawn: list[str] = []
    monkeypatch.setattr(canvas, "write_figure", lambda figure, path: drawn.append(path.name))
    for name, beta, rate in (("a", 0.1, 0.01), ("b", 0.2, 0.01), ("c", 0.1, 1e-5)):
        write_run(tmp_path / name, beta=beta, rate=rate, steps=1)
    write_run(tmp_path / "d", objective="minordpo + 0.1*sft", rate=1e-5, steps=1)
    figures.draw_figures(gather(find([tmp_path])), tmp_path)
    rewards = [name for name in drawn if name.startswith("rewards")]
    names = ("rewards-dpo-0_01", "rewards-dpo-1e-5", "rewards-minordpo_0_1_sft-1e-5")
    assert rewards == [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
