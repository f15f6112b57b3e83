"""metrics.jsonl → figures. They read files only, so a finished or a stopped run can be drawn anywhere."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from minordpo.errors import InputError
from minordpo.figures import canvas
from minordpo.figures.canvas import COLORS, GREY
from minordpo.run_folder import records
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.records import LOGPS, LOGRATIOS, EvaluationRow, HealthRow, Row, StepRow, of_kind

PANELS = {
    "chosen": "Chosen responses",
    "rejected": "Rejected responses",
    "margin": "Margin: chosen − rejected",
}
# What is drawn: log-ratios, or log-probs of a run without a reference.
_AXES = {LOGRATIOS: "log-ratio to the reference\n(nats per response)", LOGPS: "log-prob\n(nats per response)"}
_WIDTH, _BODY, _LINE = 11.0, 3.4, 0.25  # inches; the panels are one high, a line is one of title or legend
SMOOTHED_ABOVE = 60  # logged steps; shorter runs are legible as they are
# What the monitor said, light enough that curves and the colour-blind can pass over them; "healthy" is no band.
BANDS = {"displaced": "#e4ecf4", "inaccurate": "#ece2f0", "collapsing": "#fbe3bf", "collapsed": "#efb5a7"}

Curve = dict[str, list[Any]]  # {"x": steps, "y": values}, as long as each other


@dataclass(frozen=True)
class Curves:
    """The β-free log-ratios of one run, in nats a response: over its batches, and over held-out examples.

    Of a run without a reference they are log-probs. Labelled responses have no margin, and a step in which one label
    does not occur is no point of its curve.
    """

    kind: str  # LOGRATIOS or LOGPS
    steps: list[int]
    window: int  # logged steps that a smoothed point is the mean of
    batches: dict[str, Curve]  # by the names of `PANELS` that have any value
    held_out: dict[str, Curve]
    bands: list[tuple[int, int, str]]  # of `bands_of`


def read_curves(metrics: Path) -> Curves:
    """The log-ratios of a run's metrics.jsonl, in the order of steps.

    Raises:
        InputError: the file cannot be read, or has no training step to draw.
    """
    rows = MetricsFile(metrics).rows()
    steps, kind = of_kind(rows, StepRow), kind_of(rows)
    batches = panel_curves(steps, kind)
    if not batches:
        raise InputError(
            f"{metrics} has no training step with log-ratios or log-probs (logratios/chosen, …), but a figure needs "
            "one. Name the metrics.jsonl of a run that has begun."
        )
    places = sorted({row.step for row in steps})
    bands = bands_of([(row.step, row.health) for row in of_kind(rows, HealthRow)], places[-1])
    held_out = panel_curves(of_kind(rows, EvaluationRow), kind)
    return Curves(kind, places, window_of(len(places)), batches, held_out, bands)


def kind_of(rows: Sequence[Row]) -> str:
    """Return LOGRATIOS, or LOGPS for a run whose steps were measured without a reference."""
    steps = of_kind(rows, StepRow)
    ratios = (records.CHOSEN_LOGRATIO, records.REJECTED_LOGRATIO)
    return LOGRATIOS if any(name in row.values for row in steps for name in ratios) else LOGPS


def bands_of(changes: Sequence[Sequence[Any]], last: int) -> list[tuple[int, int, str]]:
    """First step, last step and name of each change of health, up to the last step; "healthy" left out."""
    ends = [*(step for step, _ in changes[1:]), last]  # of no changes there is an end too many
    spans = zip(changes, ends, strict=False)
    return [(start, end, name) for (start, name), end in spans if name in BANDS and start <= end]


def panel_curves(rows: Sequence[Row], kind: str, *, window: int = 1) -> dict[str, Curve]:
    """The curves of `PANELS` that have any value, smoothed; the margin of log-probs is what they differ by."""
    curves = {panel: smoothed(curve_of(rows, f"{kind}/{panel}"), window) for panel in PANELS}
    if kind == LOGPS:
        chosen, rejected = (dict(zip(*curves[side].values(), strict=True)) for side in ("chosen", "rejected"))
        both = sorted(chosen.keys() & rejected.keys())
        curves["margin"] = {"x": both, "y": [chosen[step] - rejected[step] for step in both]}
    return {panel: curve for panel, curve in curves.items() if curve["x"]}


def curve_of(rows: Sequence[Row], name: str) -> Curve:
    """The finite values; a row without one, or with a NaN, is a gap. Of a step measured twice the last counts."""
    points = {row.step: value for row in rows if (value := row.number(name)) is not None}
    return {"x": sorted(points), "y": [points[step] for step in sorted(points)]}


def window_of(steps: int) -> int:
    """Logged steps that a smoothed point is the mean of; 1 where a run is too short to be smoothed."""
    return 1 if steps <= SMOOTHED_ABOVE else 2 * max(2, steps // 40) + 1


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` (odd) values around each; at both ends a line fitted to the `window` there.

    Centred and fitted, so that a steady trend is neither delayed nor bent, the ends included; a line that leaves the
    range of the values is cut there.
    """
    half, places = window // 2, np.arange(window)
    means = np.array(values, dtype=np.float64)
    means[half : len(values) - half] = np.convolve(values, np.full(window, 1 / window), mode="valid")
    if half:
        means[:half] = np.polyval(np.polyfit(places, values[:window], 1), places[:half])
        means[-half:] = np.polyval(np.polyfit(places, values[-window:], 1), places[-half:])
    return np.clip(means, np.min(values), np.max(values))


def smoothed(curve: Curve, window: int) -> Curve:
    """The curve smoothed; as it is where the window is 1 or longer than the curve."""
    if not 1 < window <= len(curve["x"]):
        return curve
    return {"x": curve["x"], "y": smooth(np.array(curve["y"]), window).tolist()}


def reward_figure(metrics: Path, out: Path, *, title: str) -> None:
    """Draw a run's log-ratios against its steps: chosen, rejected, margin; a PNG.

    These are the curves of Figures 2 to 5 of the MinorDPO paper, where they are called rewards/chosen,
    rewards/reject and rewards/margin: log π(y|x) − log π_ref(y|x) in nats, without β. Panels share
    one scale. A run without a reference is drawn by its log-probs. Bands show what the monitor called its health.

    Raises:
        InputError: `metrics` cannot be read or has no log-ratios, or `out` cannot be written.
    """
    run = read_curves(metrics)
    ratios, panels = run.kind == LOGRATIOS, [name for name in PANELS if name in run.batches]
    with canvas.new_figure() as figure:
        axes = figure.subplots(1, len(panels), sharex=True, sharey=ratios, squeeze=False)[0]
        for axis, name, color in zip(axes, panels, COLORS, strict=False):
            canvas.prepare_panel(axis, PANELS[name], zero=ratios)
            axis.tick_params(color=GREY, labelleft=True)
            _draw(axis, run, name, color)
            for start, end, health in run.bands:
                # Half a step more on either side, so that a health of one step is seen.
                axis.axvspan(start - 0.5, end + 0.5, color=BANDS[health], zorder=0.4, linewidth=0)
        _label(axes[0], run)
        _surround(figure, title, _keys(run) + band_keys(BANDS, [name for _, _, name in run.bands]))
        canvas.write_figure(figure, out, formats=("png",))


def _draw(axis: Axes, run: Curves, name: str, color: str) -> None:
    steps, values = run.batches[name].values()
    means = smoothed(run.batches[name], run.window)["y"]
    if means is not values:
        axis.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
    axis.plot(steps, means, marker="." if len(steps) == 1 else "", color=color)
    if name in run.held_out:
        axis.plot(*run.held_out[name].values(), markersize=5.5, zorder=3, color=color, **canvas.HELD_OUT)


def _label(axis: Axes, run: Curves) -> None:
    """What an axis says: the quantity and its unit, and what zero means."""
    axis.set_ylabel(_AXES[run.kind])
    first, last = run.steps[0], run.steps[-1]
    if first == last:
        axis.set_xlim(first - 1, last + 1)
    if run.kind != LOGRATIOS:
        return
    low, high = axis.get_ylim()
    up = -1 if high >= -low else 1  # the side where fewer curves run
    axis.annotate(
        "0: as likely as under the reference",
        (0.99, 0),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3 * up),
        textcoords="offset points",
        ha="right",
        va="bottom" if up > 0 else "top",
        fontsize=8,
        color=GREY,
    )


Entries = list[tuple[str, Line2D]]


def _keys(run: Curves) -> Entries:
    """Return the legend's entries for smoothed curves and held-out pairs that the run has."""
    keys = []
    if run.window > 1:
        keys.append(("each logged step", Line2D([], [], color=GREY, alpha=0.4, linewidth=0.8)))
        keys.append((f"mean of {run.window} of them", Line2D([], [], color=GREY)))
    if run.held_out:
        keys.append(("held-out pairs", Line2D([], [], color=GREY, linestyle="", marker="o", markersize=5.5)))
    return keys


def band_keys(colors: Mapping[str, str], names: Collection[str]) -> Entries:
    """The bands of those names for a legend, mildest first."""
    square: dict[str, Any] = {"linestyle": "", "marker": "s", "markersize": 9}
    return [(name, Line2D([], [], color=color, **square)) for name, color in colors.items() if name in names]


def _surround(figure: Figure, title: str, entries: Entries) -> None:
    """Put title and legend above the panels, each in its own room.

    Constrained layout keeps room for one thing on each side only, so the rooms are counted in lines here.
    """
    title = textwrap.fill(title, 95)
    widest = max((len(label) for label, _ in entries), default=0)
    columns = max(1, min(len(entries), 150 // (widest + 8)))  # as many as fit side by side
    titled = 0.15 + _LINE * (title.count("\n") + 1)
    height = titled + _LINE * math.ceil(len(entries) / columns) + _BODY
    figure.set_size_inches(_WIDTH, height)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, _BODY / height))
    # The text is the caller's: "$5" in it is no formula.
    style: dict[str, Any] = {"va": "top", "fontsize": 13, "fontweight": "bold", "parse_math": False}
    figure.text(0.008, 1 - 0.08 / height, title, **style).set_in_layout(False)
    if entries:
        labels, handles = zip(*entries, strict=True)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.004, 1 - titled / height)}
        canvas.add_legend(figure, handles, labels, **place, borderaxespad=0.0, ncols=columns, fontsize=9.5)
