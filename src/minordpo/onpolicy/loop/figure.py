"""A loop drawn: accuracy, pass@k, KL from the first model and length of answers over generated tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, PercentFormatter

from minordpo.figures.canvas import COLORS, new_figure, write_figure


def loop_figure(rows: Sequence[Mapping[str, Any]], out: Path, *, title: str) -> bool:
    """Draw the rows of a loop's table; False, and no file, where no model was asked anything.

    Raises:
        InputError: nothing can be written there.
    """
    asked = [row for row in rows if row.get("flexible") is not None]
    if not asked:
        return False
    with new_figure() as figure:
        figure.set_size_inches(10, 6.4)
        accuracy, passes, kl, length = figure.subplots(2, 2, sharex=True).flat
        _draw(
            accuracy,
            asked,
            "flexible",
            "Right by the last number, greedy",
            bounds=("flexible_low", "flexible_high"),
        )
        _draw(passes, asked, "pass_at_all", f"pass@{asked[0].get('samples') or 'k'} of samples")
        _draw(passes, asked, "pass_at_1", "", dashed=True)
        _draw(kl, asked, "kl", "KL from the first model, nats an answer", error="kl_error")
        _draw(length, asked, "answer_tokens", "Tokens of a greedy answer")
        for axis in (accuracy, passes):
            axis.yaxis.set_major_formatter(PercentFormatter(1))
        for axis in (kl, length):
            axis.set_xlabel("tokens generated for training")
            axis.xaxis.set_major_formatter(EngFormatter())
            axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
        if not any(row.get("pass_at_all") is not None for row in asked):
            for axis in (passes, kl):
                axis.text(0.5, 0.5, "evaluate.samples is 0", transform=axis.transAxes, ha="center")
        else:
            passes.text(0.02, 0.04, "dashed: pass@1", transform=passes.transAxes, fontsize=9)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", parse_math=False)
        for suffix in (".png", ".svg"):
            write_figure(figure, out.with_suffix(suffix))
    return True


def _draw(
    axis: Axes,
    rows: Sequence[Mapping[str, Any]],
    measure: str,
    heading: str,
    *,
    bounds: tuple[str, str] | None = None,
    error: str | None = None,
    dashed: bool = False,
) -> None:
    """A line through the rounds, each marked by its number."""
    known = [row for row in rows if row.get(measure) is not None]
    places, values = [row["all_tokens"] for row in known], [row[measure] for row in known]
    if heading:
        axis.set_title(heading, loc="left")
    color = COLORS[0]
    axis.plot(
        places, values, color=color, marker="o", linestyle="--" if dashed else "-", alpha=0.6 if dashed else 1
    )
    if bounds is not None:
        low, high = ([row[name] for row in known] for name in bounds)
        axis.vlines(places, low, high, color=color, linewidth=1)
    if error is not None:
        spread = [row.get(error) or 0.0 for row in known]
        axis.errorbar(places, values, yerr=spread, color=color, linewidth=0, elinewidth=1)
    if not dashed:
        for row, x, y in zip(known, places, values, strict=True):
            axis.annotate(str(row["round"]), (x, y), xytext=(5, 5), textcoords="offset points", fontsize=9)
