"""metrics.jsonl → figures. They read files only, so a finished or a stopped run can be drawn anywhere."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from minordpo.errors import InputError
from minordpo.figures.canvas import COLORS, GREY, new_figure, write_figure
from minordpo.run_folder.files import read_jsonl
from minordpo.run_folder.records import (
    LOGPS,
    LOGRATIOS,
    REWARD_MARGIN,
    STEP,
    EvaluationRow,
    HealthRow,
    parse_row,
)

PANELS = {
    "chosen": "Chosen responses",
    "rejected": "Rejected responses",
    "margin": "Margin: chosen − rejected",
}
# What is drawn: log-ratios, or log-probs of a run without a reference.
_AXES = {
    LOGRATIOS: "log-ratio to the reference\n(nats per response)",
    LOGPS: "log-prob\n(nats per response)",
}
_DASHES = ("-", "--")
_WIDTH, _LINE = 11.0, 0.25  # inches; a line of the title or the legend
SMOOTHED_ABOVE = 60  # logged steps; shorter runs are legible as they are
# What the monitor said, light enough that curves and the colour-blind can pass over them; "healthy" is no band.
BANDS = {"displaced": "#e4ecf4", "inaccurate": "#ece2f0", "collapsing": "#fbe3bf", "collapsed": "#efb5a7"}
APART = 8.0  # times; beyond it the smaller of two runs is a flat line on the larger one's scale


@dataclass(frozen=True, eq=False)
class Curves:
    """The β-free log-ratios of one run, in nats a response: over its batches, and over held-out examples.

    Of a run without a reference they are log-probs. Labelled responses have no margin, and a step in which one label
    does not occur has no value of it (NaN).
    """

    kind: str  # LOGRATIOS or LOGPS
    steps: np.ndarray
    values: dict[str, np.ndarray]  # by the names of `PANELS` that have any
    eval_steps: np.ndarray
    eval_values: dict[str, np.ndarray]
    health: tuple[tuple[int, str], ...] = ()  # from which step on the monitor called it what

    @property
    def bands(self) -> list[tuple[int, int, str]]:
        """First step, last step and name of each health, up to the run's last step; "healthy" left out."""
        ends = [*(step for step, _ in self.health[1:]), int(self.steps[-1])]
        spans = zip(self.health, ends, strict=False)
        return [(start, end, name) for (start, name), end in spans if name in BANDS and start <= end]

    @property
    def magnitude(self) -> float:
        """The largest absolute value of any panel."""
        return max(float(np.nanmax(np.abs(values))) for values in self.values.values())

    @property
    def window(self) -> int:
        """Logged steps that a smoothed point is the mean of; 1 where the run is too short to be smoothed."""
        return 1 if len(self.steps) <= SMOOTHED_ABOVE else 2 * max(2, len(self.steps) // 40) + 1


def read_curves(metrics: Path) -> Curves:
    """The log-ratios of a run's metrics.jsonl, in the order of steps.

    Raises:
        InputError: the file cannot be read, has no training step to draw, or a value is not finite.
    """
    rows = list(read_jsonl(metrics))
    names = {name for _, row in rows for name in row}
    kind = next((kind for kind in _AXES if {f"{kind}/chosen", f"{kind}/rejected"} & names), None)
    if kind is None:
        raise InputError(
            f"{metrics} has no training step with log-ratios or log-probs (logratios/chosen, …), but a figure needs "
            "one. Name the metrics.jsonl of a run that has begun."
        )
    labelled = REWARD_MARGIN not in names and f"{kind}/margin" not in names and kind == LOGRATIOS
    tables: tuple[dict[int, list[float]], dict[int, list[float]]] = {}, {}
    for number, row in rows:
        for prefix, table in zip(("", EvaluationRow.PREFIX), tables, strict=True):
            wanted = [f"{prefix}{kind}/{panel}" for panel in PANELS]
            if not any(name in row for name in wanted):
                continue
            where = f"line {number} of {metrics}"
            chosen, rejected, margin = (
                math.nan if name not in row and (labelled or kind == LOGPS) else _number(row, name, where)
                for name in wanted
            )
            margin = chosen - rejected if kind == LOGPS else margin
            table[int(_number(row, STEP, where))] = [chosen, rejected, margin]
    records = [parse_row(row) for _, row in rows if STEP in row]
    health = tuple((row.step, row.health) for row in records if isinstance(row, HealthRow))
    return Curves(kind, *_columns(tables[0]), *_columns(tables[1]), health)


def _number(row: dict[str, Any], name: str, where: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        given = f"{name}={value!r}" if name in row else f"no {name}"
        raise InputError(f"{where} has {given}, but a finite number is needed. Correct or drop the line.")
    return float(value)


def _columns(rows: dict[int, list[float]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    steps = sorted(rows)
    table = np.array([rows[step] for step in steps], dtype=np.float64).reshape(len(steps), len(PANELS))
    columns = {name: table[:, i] for i, name in enumerate(PANELS)}
    return np.array(steps, dtype=np.int64), {n: c for n, c in columns.items() if np.isfinite(c).any()}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the `window` (odd) values around each; at both ends a line fitted to the `window` there.

    Centred and fitted, so that a steady trend is neither delayed nor bent, the ends included.
    """
    half = window // 2
    smoothed = np.array(values, dtype=np.float64)
    smoothed[half : len(values) - half] = np.convolve(values, np.full(window, 1 / window), mode="valid")
    if half:
        places = np.arange(window)
        smoothed[:half] = np.polyval(np.polyfit(places, values[:window], 1), places[:half])
        smoothed[-half:] = np.polyval(np.polyfit(places, values[-window:], 1), places[-half:])
    return smoothed


def reward_figure(metrics: Path, out: Path, *, title: str) -> None:
    """Draw a run's log-ratios against its steps: chosen, rejected, margin; a PNG.

    These are the curves of Figures 2 to 5 of the MinorDPO paper, where they are called rewards/chosen,
    rewards/reject and rewards/margin: log π(y|x) − log π_ref(y|x) in nats, without β. Panels share
    one scale. A run without a reference is drawn by its log-probs. Bands show what the monitor called its health.

    Raises:
        InputError: `metrics` cannot be read or has no log-ratios, or `out` cannot be written.
    """
    curves = read_curves(metrics)
    panels = _panels([curves])
    with new_figure() as figure:
        axes = figure.subplots(1, len(panels), sharex=True, sharey=curves.kind == LOGRATIOS, squeeze=False)[0]
        for axis, (name, heading), color in zip(axes, panels.items(), COLORS, strict=False):
            _prepare(axis, heading, zero=curves.kind == LOGRATIOS)
            _shade(axis, curves)
            _draw(axis, curves, name, color=color)
        _label([axes], [curves])
        _surround(figure, 3.4, title=title, legends=[_keys([curves]) + _band_keys(curves)])
        _write(figure, out)


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
    panels = _panels(curves)
    zoom = zoom_range(curves) if curves[0].kind == LOGRATIOS else None
    rows = 1 if zoom is None else 2
    with new_figure() as figure:
        share: Literal["row", "none"] = "row" if curves[0].kind == LOGRATIOS else "none"
        grid = figure.subplots(rows, len(panels), sharex=True, sharey=share, squeeze=False)
        for number, row in enumerate(grid):
            for axis, (name, heading) in zip(row, panels.items(), strict=True):
                zero = curves[0].kind == LOGRATIOS
                _prepare(axis, heading if number == 0 else None, last=number == rows - 1, zero=zero)
                for place, run in enumerate(curves):
                    _draw(axis, run, name, **_line_style(place))
        if zoom is not None:
            _mark_zoom(grid, zoom)
        _label(list(grid), curves)
        lines = [Line2D([], [], **_line_style(place)) for place in range(len(curves))]
        legends = [list(zip(runs, lines, strict=True)), _keys(curves)]
        _surround(figure, 3.4 * rows, title=title, legends=legends, note=note)
        _write(figure, out)


def zoom_range(curves: Sequence[Curves]) -> tuple[float, float] | None:
    """The range, in nats, that the smaller runs and zero fill; None where one scale serves all runs.

    Smaller are the runs that reach less than a quarter as far as the one that reaches farthest, if the least
    of them reaches less than an eighth. A run that never left zero is well drawn on any scale.
    """
    largest = max(run.magnitude for run in curves)
    smaller = [run for run in curves if 0 < run.magnitude < largest / 4]
    if not smaller or min(run.magnitude for run in smaller) >= largest / APART:
        return None
    tables = [table for run in smaller for table in (run.values, run.eval_values)]
    values = np.concatenate([column for table in tables for column in table.values()])
    low, high = min(0.0, float(np.nanmin(values))), max(0.0, float(np.nanmax(values)))
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def _panels(curves: Sequence[Curves]) -> dict[str, str]:
    """The panels that any of the runs has values for."""
    return {name: heading for name, heading in PANELS.items() if any(name in run.values for run in curves)}


def _line_style(place: int) -> dict[str, Any]:
    return {"color": COLORS[place % len(COLORS)], "linestyle": _DASHES[place // len(COLORS)]}


def _prepare(axis: Axes, heading: str | None, *, last: bool = True, zero: bool = True) -> None:
    if heading is not None:
        axis.set_title(heading, loc="left")
    if zero:
        axis.axhline(0, color=GREY, linewidth=1.0, zorder=1.5)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    axis.tick_params(color=GREY, labelleft=True)
    if last:
        axis.set_xlabel("optimizer step")


def _draw(axis: Axes, curves: Curves, name: str, *, color: str, linestyle: str = "-") -> None:
    if name not in curves.values:
        return
    there = np.isfinite(curves.values[name])
    steps, values = curves.steps[there], curves.values[name][there]
    if 1 < curves.window <= len(values):
        axis.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
        values = smooth(values, curves.window)
    axis.plot(steps, values, color=color, linestyle=linestyle, marker="." if len(steps) == 1 else "")
    dots: dict[str, Any] = {"markersize": 5.5, "markerfacecolor": color, "markeredgecolor": "white"}
    if name in curves.eval_values:
        axis.plot(curves.eval_steps, curves.eval_values[name], linestyle="", marker="o", zorder=3, **dots)


def _shade(axis: Axes, curves: Curves) -> None:
    for start, end, name in curves.bands:
        # Half a step more on either side, so that a health of one step is seen.
        axis.axvspan(start - 0.5, end + 0.5, color=BANDS[name], zorder=0.4, linewidth=0)


def _label(grid: Sequence[Any], curves: Sequence[Curves]) -> None:
    """What an axis says: the quantity and its unit, and what zero means."""
    for row in grid:
        row[0].set_ylabel(_AXES[curves[0].kind])
    first, last = min(int(run.steps[0]) for run in curves), max(int(run.steps[-1]) for run in curves)
    if first == last:
        grid[0][0].set_xlim(first - 1, last + 1)
    if curves[0].kind != "logratios":
        return
    axis = grid[-1][0]
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


def _mark_zoom(grid: np.ndarray, zoom: tuple[float, float]) -> None:
    """Tie the rows: the band of the upper one is the whole of the lower one."""
    for axis in grid[0]:
        axis.axhspan(*zoom, color="#f0e9c8", zorder=0.5, linewidth=0)
    for axis in grid[1]:
        axis.set_ylim(zoom)
        axis.set_facecolor("#fcfaf0")
        axis.set_title("the shaded band, enlarged", loc="left", fontsize=9, color=GREY)


Entries = list[tuple[str, Line2D]]


def _keys(runs: Sequence[Curves]) -> Entries:
    """What the legend says beside the runs: smoothing and held-out pairs, where there are any."""
    keys = []
    windows = sorted({run.window for run in runs if run.window > 1})
    if windows:
        span = f"{windows[0]}" if len(windows) == 1 else f"{windows[0]} to {windows[-1]}"
        keys.append(("each logged step", Line2D([], [], color=GREY, alpha=0.4, linewidth=0.8)))
        keys.append((f"mean of {span} of them", Line2D([], [], color=GREY)))
    if any(len(run.eval_steps) for run in runs):
        keys.append(("held-out pairs", Line2D([], [], color=GREY, linestyle="", marker="o", markersize=5.5)))
    return keys


def _band_keys(run: Curves) -> Entries:
    """The bands that were drawn, mildest first."""
    drawn = {name for _, _, name in run.bands}
    style: dict[str, Any] = {"linestyle": "", "marker": "s", "markersize": 9}
    return [(name, Line2D([], [], color=BANDS[name], **style)) for name in BANDS if name in drawn]


def _surround(
    figure: Figure, body: float, *, title: str, legends: Sequence[Entries], note: str | None = None
) -> None:
    """Put title and legends above the panels (`body` inches high) and the note below, each in its own room.

    Constrained layout keeps room for one thing on each side only, so the rooms are counted in lines here.
    """
    title, note = textwrap.fill(title, 95), textwrap.fill(note or "", 165)
    columns = [_columns_of(entries) for entries in legends]
    lines = [math.ceil(len(entries) / n) for entries, n in zip(legends, columns, strict=True)]
    header = 0.15 + _LINE * (title.count("\n") + 1 + sum(lines))
    footer = 0.1 + 0.16 * (note.count("\n") + 1) if note else 0.0
    height = header + body + footer
    figure.set_size_inches(_WIDTH, height)
    figure.set_layout_engine("constrained", rect=(0, footer / height, 1, body / height))
    # The texts are the caller's: "$5" in them is no formula.
    figure.text(
        0.008, 1 - 0.08 / height, title, va="top", fontsize=13, fontweight="bold", parse_math=False
    ).set_in_layout(False)
    figure.text(
        0.008, 0.06 / height, note, va="bottom", fontsize=8.5, color=GREY, parse_math=False
    ).set_in_layout(False)
    top = height - 0.15 - _LINE * (title.count("\n") + 1)
    for entries, ncols, used in zip(legends, columns, lines, strict=True):
        if entries:
            _legend(figure, entries, ncols, top / height)
            top -= _LINE * used


def _columns_of(entries: Entries) -> int:
    """How many entries of a legend fit side by side, by their longest label."""
    widest = max((len(label) for label, _ in entries), default=0)
    return max(1, min(len(entries), 150 // (widest + 8)))


def _legend(figure: Figure, entries: Entries, ncols: int, top: float) -> None:
    legend = figure.legend(
        [line for _, line in entries],
        [" "] * len(entries),
        loc="upper left",
        bbox_to_anchor=(0.004, top),
        borderaxespad=0.0,
        ncols=ncols,
        fontsize=9.5,
    )
    # Set afterwards: matplotlib drops a label that begins with an underscore, and reads "$" as a formula.
    for text, (label, _) in zip(legend.get_texts(), entries, strict=True):
        text.set_parse_math(False)
        text.set_text(label)


def _write(figure: Figure, out: Path) -> None:
    write_figure(figure, out, formats=("png",))
