"""metrics.jsonl → figures. They read files only, so a finished or a stopped run can be drawn anywhere."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
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
from minordpo.run_folder.files import read_jsonl
from minordpo.run_folder.records import LOGPS, LOGRATIOS, STEP, EvaluationRow, HealthRow, Row

PANELS = {
    "chosen": "Chosen responses",
    "rejected": "Rejected responses",
    "margin": "Margin: chosen − rejected",
}
# What is drawn: log-ratios, or log-probs of a run without a reference.
_AXES = {LOGRATIOS: "log-ratio to the reference\n(nats per response)", LOGPS: "log-prob\n(nats per response)"}
_DASHES = ("-", "--")
_WIDTH, _LINE = 11.0, 0.25  # inches; a line of the title or the legend
SMOOTHED_ABOVE = 60  # logged steps; shorter runs are legible as they are
# What the monitor said, light enough that curves and the colour-blind can pass over them; "healthy" is no band.
BANDS = {"displaced": "#e4ecf4", "inaccurate": "#ece2f0", "collapsing": "#fbe3bf", "collapsed": "#efb5a7"}
APART = 8.0  # times; beyond it the smaller of two runs is a flat line on the larger one's scale

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
        InputError: the file cannot be read, has no training step to draw, or a value is not finite.
    """
    lines = list(read_jsonl(metrics))
    names = {name for _, line in lines for name in line}
    kind = next((kind for kind in _AXES if {f"{kind}/chosen", f"{kind}/rejected"} & names), None)
    if kind is None:
        raise InputError(
            f"{metrics} has no training step with log-ratios or log-probs (logratios/chosen, …), but a figure needs "
            "one. Name the metrics.jsonl of a run that has begun."
        )
    paired = kind == LOGRATIOS and not names.isdisjoint({records.REWARD_MARGIN, f"{kind}/margin"})
    sources: dict[str, list[Row]] = {"": [], EvaluationRow.PREFIX: []}
    for number, line in lines:
        for prefix, rows in sources.items():
            wanted = [f"{prefix}{kind}/{panel}" for panel in PANELS]
            if line.keys() & set(wanted):
                needed = [*(name for name in wanted if paired or name in line), STEP]
                values = {name: _number(line, name, f"line {number} of {metrics}") for name in needed}
                rows.append(Row(int(values[STEP]), values))
    batches, held_out = (panel_curves(rows, kind, prefix) for prefix, rows in sources.items())
    changes = records.of_kind(records.parse_rows(line for _, line in lines if STEP in line), HealthRow)
    steps = sorted({row.step for row in sources[""]})
    bands = bands_of([(row.step, row.health) for row in changes], steps[-1])
    return Curves(kind, steps, window_of(len(steps)), batches, held_out, bands)


def _number(line: Mapping[str, Any], name: str, where: str) -> float:
    value = Row(0, line).number(name)
    if value is None:
        given = f"{name}={line[name]!r}" if name in line else f"no {name}"
        raise InputError(f"{where} has {given}, but a finite number is needed. Correct or drop the line.")
    return value


def bands_of(changes: Sequence[Sequence[Any]], last: int) -> list[tuple[int, int, str]]:
    """First step, last step and name of each change of health, up to the last step; "healthy" left out."""
    ends = [*(step for step, _ in changes[1:]), last]  # of no changes there is an end too many
    spans = zip(changes, ends, strict=False)
    return [(start, end, name) for (start, name), end in spans if name in BANDS and start <= end]


def panel_curves(rows: Sequence[Row], kind: str, prefix: str = "", *, window: int = 1) -> dict[str, Curve]:
    """The curves of `PANELS` that have any value, smoothed; the margin of log-probs is what they differ by."""
    curves = {panel: smoothed(curve_of(rows, f"{prefix}{kind}/{panel}"), window) for panel in PANELS}
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

    Centred and fitted, so that a steady trend is neither delayed nor bent, the ends included.
    """
    half, places = window // 2, np.arange(window)
    means = np.array(values, dtype=np.float64)
    means[half : len(values) - half] = np.convolve(values, np.full(window, 1 / window), mode="valid")
    if half:
        means[:half] = np.polyval(np.polyfit(places, values[:window], 1), places[:half])
        means[-half:] = np.polyval(np.polyfit(places, values[-window:], 1), places[-half:])
    return means


def smoothed(curve: Curve, window: int, by: Callable[[np.ndarray, int], np.ndarray] = smooth) -> Curve:
    """The curve smoothed; as it is where the window is 1 or longer than the curve."""
    if not 1 < window <= len(curve["x"]):
        return curve
    return {"x": curve["x"], "y": by(np.array(curve["y"]), window).tolist()}


def reward_figure(metrics: Path, out: Path, *, title: str) -> None:
    """Draw a run's log-ratios against its steps: chosen, rejected, margin; a PNG.

    These are the curves of Figures 2 to 5 of the MinorDPO paper, where they are called rewards/chosen,
    rewards/reject and rewards/margin: log π(y|x) − log π_ref(y|x) in nats, without β. Panels share
    one scale. A run without a reference is drawn by its log-probs. Bands show what the monitor called its health.

    Raises:
        InputError: `metrics` cannot be read or has no log-ratios, or `out` cannot be written.
    """
    run = read_curves(metrics)
    with canvas.new_figure() as figure:
        axes = _draw_panels(figure, [run])
        for axis in axes[0]:
            for start, end, name in run.bands:
                # Half a step more on either side, so that a health of one step is seen.
                axis.axvspan(start - 0.5, end + 0.5, color=BANDS[name], zorder=0.4, linewidth=0)
        _label(axes, [run])
        keys = _keys([run]) + band_keys(BANDS, [name for _, _, name in run.bands])
        _surround(figure, 3.4, title=title, legends=[keys])
        canvas.write_figure(figure, out, formats=("png",))


def compare_figure(runs: dict[str, Path], out: Path, *, title: str, note: str | None = None) -> None:
    """Draw the log-ratios of several runs, by label, in the panels of `reward_figure`; a PNG.

    Where one run's values dwarf another's (DPO at −255 nats beside MinorDPO at +21), a second row shows the
    small ones on their own scale: linear like the first, for a logarithmic one hides how far apart they are.

    Raises:
        InputError: no runs or more than fourteen, one that cannot be read, one with and one without a reference, or
            `out` cannot be written.
    """
    most = len(COLORS) * len(_DASHES)
    if not 1 <= len(runs) <= most:
        raise InputError(
            f"there are {len(runs)} runs to compare, but a figure holds 1 to {most}. Draw several figures."
        )
    curves = [read_curves(metrics) for metrics in runs.values()]
    if len({run.kind for run in curves}) > 1:
        without = next(label for label, run in zip(runs, curves, strict=True) if run.kind == LOGPS)
        raise InputError(
            f"{without} has no log-ratios, for it had no reference, and others have. Train it with "
            "metrics.reference=true, or draw it apart."
        )
    zoom = zoom_range(curves) if curves[0].kind == LOGRATIOS else None
    styles = [_line_style(place) for place in range(len(curves))]
    with canvas.new_figure() as figure:
        axes = _draw_panels(figure, curves, styles, rows=1 if zoom is None else 2)
        if zoom is not None:
            _mark_zoom(axes, zoom)
        _label(axes, curves)
        lines = [Line2D([], [], **style) for style in styles]
        legends = [list(zip(runs, lines, strict=True)), _keys(curves)]
        _surround(figure, 3.4 * len(axes), title=title, legends=legends, note=note)
        canvas.write_figure(figure, out, formats=("png",))


def zoom_range(curves: Sequence[Curves]) -> tuple[float, float] | None:
    """The range, in nats, that the smaller runs and zero fill; None where one scale serves all runs.

    Smaller are the runs that reach less than a quarter as far as the one that reaches farthest, if the least
    of them reaches less than an eighth. A run that never left zero is well drawn on any scale.
    """
    reach = [max(abs(value) for curve in run.batches.values() for value in curve["y"]) for run in curves]
    smaller = {i: run for i, run in enumerate(curves) if 0 < reach[i] < max(reach) / 4}
    if not smaller or min(reach[i] for i in smaller) >= max(reach) / APART:
        return None
    drawn = [curve for run in smaller.values() for curve in (*run.batches.values(), *run.held_out.values())]
    values = [0.0, *(value for curve in drawn for value in curve["y"])]
    low, high = min(values), max(values)
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def _line_style(place: int) -> dict[str, Any]:
    return {"color": COLORS[place % len(COLORS)], "linestyle": _DASHES[place // len(COLORS)]}


def _draw_panels(
    figure: Figure, curves: Sequence[Curves], styles: Sequence[dict[str, Any]] = (), *, rows: int = 1
) -> np.ndarray:
    """The panels that any of the runs has values for, a style for each run; without styles one for each panel."""
    panels = [name for name in PANELS if any(name in run.batches for run in curves)]
    zero = curves[0].kind == LOGRATIOS
    grid = figure.subplots(rows, len(panels), sharex=True, sharey="row" if zero else "none", squeeze=False)
    for row in grid:
        for place, (axis, name) in enumerate(zip(row, panels, strict=True)):
            canvas.prepare_panel(axis, PANELS[name], zero=zero)
            axis.tick_params(color=GREY, labelleft=True)
            for run, style in zip(curves, styles or [_line_style(place)], strict=True):
                _draw(axis, run, name, style)
    return np.asarray(grid)


def _draw(axis: Axes, run: Curves, name: str, style: dict[str, Any]) -> None:
    if name not in run.batches:
        return
    steps, values = run.batches[name].values()
    color, means = style["color"], smoothed(run.batches[name], run.window)["y"]
    if means is not values:
        axis.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
    axis.plot(steps, means, marker="." if len(steps) == 1 else "", **style)
    if name in run.held_out:
        axis.plot(*run.held_out[name].values(), markersize=5.5, zorder=3, color=color, **canvas.HELD_OUT)


def _label(grid: np.ndarray, curves: Sequence[Curves]) -> None:
    """What an axis says: the quantity and its unit, and what zero means."""
    for row in grid:
        row[0].set_ylabel(_AXES[curves[0].kind])
    first, last = min(run.steps[0] for run in curves), max(run.steps[-1] for run in curves)
    if first == last:
        grid[0][0].set_xlim(first - 1, last + 1)
    if curves[0].kind != LOGRATIOS:
        return
    axis = grid[-1][0]
    low, high = axis.get_ylim()
    up = -1 if high >= -low else 1  # the side where fewer curves run
    where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    style: dict[str, Any] = {"ha": "right", "va": "bottom" if up > 0 else "top", "fontsize": 8, "color": GREY}
    axis.annotate("0: as likely as under the reference", (0.99, 0), (0, 3 * up), **where, **style)


def _mark_zoom(grid: np.ndarray, zoom: tuple[float, float]) -> None:
    """Tie the rows: the band of the upper one is the whole of the lower one."""
    for axis in grid[0]:
        axis.set_xlabel("")
        axis.axhspan(*zoom, color="#f0e9c8", zorder=0.5, linewidth=0)
    for axis in grid[1]:
        axis.set_ylim(zoom)
        axis.set_facecolor("#fcfaf0")
        axis.set_title("the shaded band, enlarged", loc="left", fontsize=9, color=GREY)


Entries = list[tuple[str, Line2D]]


def _keys(runs: Sequence[Curves]) -> Entries:
    """What the legend says beside the runs: smoothing and held-out pairs, where there are any."""
    keys = []
    windows = [str(window) for window in sorted({run.window for run in runs}) if window > 1]
    if windows:
        span = " to ".join(dict.fromkeys((windows[0], windows[-1])))
        keys.append(("each logged step", Line2D([], [], color=GREY, alpha=0.4, linewidth=0.8)))
        keys.append((f"mean of {span} of them", Line2D([], [], color=GREY)))
    if any(run.held_out for run in runs):
        keys.append(("held-out pairs", Line2D([], [], color=GREY, linestyle="", marker="o", markersize=5.5)))
    return keys


def band_keys(colors: Mapping[str, str], names: Collection[str]) -> Entries:
    """The bands of those names for a legend, mildest first."""
    square: dict[str, Any] = {"linestyle": "", "marker": "s", "markersize": 9}
    return [(name, Line2D([], [], color=color, **square)) for name, color in colors.items() if name in names]


def _surround(
    figure: Figure, body: float, *, title: str, legends: Sequence[Entries], note: str | None = None
) -> None:
    """Put title and legends above the panels (`body` inches high) and the note below, each in its own room.

    Constrained layout keeps room for one thing on each side only, so the rooms are counted in lines here.
    """
    title, note = textwrap.fill(title, 95), textwrap.fill(note or "", 165)
    # As many entries of a legend side by side as its longest label lets fit.
    widest = [max((len(label) for label, _ in entries), default=0) for entries in legends]
    columns = [
        max(1, min(len(entries), 150 // (width + 8))) for entries, width in zip(legends, widest, strict=True)
    ]
    lines = [math.ceil(len(entries) / n) for entries, n in zip(legends, columns, strict=True)]
    footer = 0.1 + 0.16 * (note.count("\n") + 1) if note else 0.0
    height = 0.15 + _LINE * (title.count("\n") + 1 + sum(lines)) + body + footer
    figure.set_size_inches(_WIDTH, height)
    figure.set_layout_engine("constrained", rect=(0, footer / height, 1, body / height))
    # The texts are the caller's: "$5" in them is no formula.
    texts: list[tuple[float, str, dict[str, Any]]] = [
        (1 - 0.08 / height, title, {"va": "top", "fontsize": 13, "fontweight": "bold"}),
        (0.06 / height, note, {"va": "bottom", "fontsize": 8.5, "color": GREY}),
    ]
    for at, text, style in texts:
        figure.text(0.008, at, text, parse_math=False, **style).set_in_layout(False)
    top = height - 0.15 - _LINE * (title.count("\n") + 1)
    for entries, ncols, used in zip(legends, columns, lines, strict=True):
        if entries:
            labels, handles = zip(*entries, strict=True)
            place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0.004, top / height)}
            canvas.add_legend(figure, handles, labels, **place, borderaxespad=0.0, ncols=ncols, fontsize=9.5)
            top -= _LINE * used
