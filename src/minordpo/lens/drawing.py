"""The picture: a block an objective, with its plane above and its coefficients below, and words around them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from minordpo.figures.canvas import GREY, new_figure, write_figure
from minordpo.lens.gradients import conditions, main_hyperparameter, push
from minordpo.lens.planes import View, draw_moves, draw_plane, steps_scale

# Inches.
_BLOCK = 5.6
_PLANE = 3.7
_CURVE = (1.98, 1.5)
_LEFT = 0.95
_LINE = 0.165  # a line of text of 8.5 points
_BELOW_PLANE, _BELOW_CURVES = 1.08, 0.68
_HEADER, _TITLE = 0.3, 0.34

Header = tuple[str, list[str], list[str]]  # an objective's name, and the lines under it
_NAME = 50  # letters of an objective with its hyper-parameters that fit in one line
COMPARABLE = 6.0  # times; planes whose strongest pushes are farther apart have colour scales of their own
VALUES = LinearSegmentedColormap.from_list("values", ["#b9d48a", "#3f9a8c", "#33548f", "#3b0f50"])

_STYLE = Path(__file__).with_name("style.mplstyle")
_PLAIN: dict[str, Any] = {"fontsize": 8.5, "parse_math": False, "linespacing": 1.35}
_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "lambda": "λ"}
_READING = (
    "Planes: to the right the chosen response is likelier, upwards the rejected one, compared with the reference "
    "(π_ref) where the objective has one; the aim is right and down. Arrows point where gradient descent on the loss "
    "moves the pair and are longer where it pushes harder; colour says how hard. Small panels: the push on each "
    "response along the plane's dotted line."
)
_MOVED = (
    "Dots are training pairs where a step met them; thin lines are held-out pairs from start to end, the thick one is "
    "their mean."
)
_CAVEAT = (
    "Arrows show the push of the loss alone, not what shared weights make of it: on close pairs a push on the rejected "
    "response drags the chosen one along. c_w and c_l are d loss / d log π of the chosen and of the rejected response. "
    "In formulas logratio = log π/π_ref of a response, m = log π a token, margin = chosen − rejected."
)


def draw(views: Sequence[View], out: Path, *, run: str | None = None) -> None:
    """Write the picture of 1 to 6 objectives.

    Raises:
        InputError: `out` is neither .png nor .svg, or cannot be written.
    """
    columns = 1 if len(views) == 1 else 2
    headers = [_header(view) for view in views]
    lines = max(len(formulas) + len(rest) for _, formulas, rest in headers)
    block = _HEADER + _LINE * lines + 0.12 + _PLANE + _BELOW_PLANE + _CURVE[1] + _BELOW_CURVES
    width = max(1.15, columns) * _BLOCK
    rows = math.ceil(len(views) / columns)
    letters = int(width * 15.4)  # of a line
    reading = textwrap.wrap(_READING if run is None else f"{_READING} {_MOVED}", letters)
    shared = shared_strength([view.strongest for view in views])
    caveat = textwrap.wrap(f"{_CAVEAT} {_scales(views, shared)}", letters)
    above = 0.12 + _TITLE + _LINE * len(reading) + 0.15 + (0.5 if run is not None else 0.0)
    height = above + rows * block + _LINE * len(caveat) + 0.1
    with new_figure() as figure, matplotlib.style.context(_STYLE):
        figure.set_layout_engine("none")
        figure.set_size_inches(width, height)
        left, title = 0.15 / width, _title(run, letters // 2)  # its letters are larger
        figure.text(
            left, 1 - 0.12 / height, title, va="top", parse_math=False, fontsize=13, fontweight="bold"
        )
        figure.text(left, 1 - (0.14 + _TITLE) / height, "\n".join(reading), va="top", **_PLAIN)
        figure.text(left, 0.08 / height, "\n".join(caveat), va="bottom", color=GREY, **_PLAIN)
        if run is not None:
            _step_key(figure, views, above - 0.45)
        for place, (view, header) in enumerate(zip(views, headers, strict=True)):
            row, column = divmod(place, columns)
            corner = (column * _BLOCK, height - above - row * block)
            _draw_block(figure, view, header, corner, lines=lines, strongest=shared or view.strongest)
        write_figure(figure, out)


def shared_strength(strongest: Sequence[float]) -> float | None:
    """The push that one colour scale ends at for all planes; None where each needs its own."""
    return max(strongest) if max(strongest) <= COMPARABLE * min(strongest) else None


def _title(run: str | None, most: int) -> str:
    title = "Where the loss pushes a pair of responses" if run is None else f"Run {run}: how its pairs moved"
    return title if len(title) <= most else title[: most - 1] + "…"


def _scales(views: Sequence[View], shared: float | None) -> str:
    if shared is None:
        return "Each plane has a colour scale of its own, for their pushes differ too much for one."
    return "All planes share one colour scale." if len(views) > 1 else ""


def _header(view: View) -> Header:
    """The objective's name; formulas; then what it assumes and what the drawing takes for granted.

    Hyper-parameters that are too many for the name's own line stand before the formulas.
    """
    name, formulas = str(view.objective), []
    if len(name) > _NAME:
        formulas = textwrap.wrap(name.removeprefix(f"{view.objective.name}, "), 82)
        name = view.objective.name
    for term in view.objective.terms:
        formulas += textwrap.wrap(term.spec.formula.rstrip(".").replace("`", ""), 82)
    drawn = conditions(view.objective, view.plane)
    assumed = "; ".join(term.spec.assumes for term in view.objective.terms if term.spec.assumes)
    rest = [f"{title}: {words}" for title, words in (("Assumes", assumed), ("Drawn for", drawn)) if words]
    return name, formulas, [line for each in rest for line in textwrap.wrap(each, 82)]


def _step_key(figure: Figure, views: Sequence[View], down: float) -> None:
    """The colours of the steps, once for all planes."""
    width, height = figure.get_size_inches()
    axis = figure.add_axes((1.15 / width, 1 - (down + 0.02) / height, 2.6 / width, 0.11 / height))
    ticks = MaxNLocator(5, integer=True)
    _colour_bar(figure, steps_scale(views), axis, ticks, orientation="horizontal")
    figure.text(0.15 / width, 1 - down / height, "optimizer step", va="center", fontsize=8.5)


def _colour_bar(
    figure: Figure, scale: ScalarMappable, axis: Axes, ticks: MaxNLocator, **options: Any
) -> Colorbar:
    bar = figure.colorbar(scale, cax=axis, ticks=ticks, **options)
    bar.outline.set_visible(False)
    axis.tick_params(length=2)
    return bar


def _draw_block(
    figure: Figure,
    view: View,
    header: Header,
    corner: tuple[float, float],
    *,
    lines: int,
    strongest: float,
) -> None:
    """An objective's texts, plane and curves below `corner` (inches from the left and from the bottom)."""
    left, top = corner
    width, height = figure.get_size_inches()

    def axes(x: float, y: float, across: float, up: float) -> Axes:
        return figure.add_axes(((left + x) / width, y / height, across / width, up / height))

    x, (name, formulas, rest) = (left + 0.15) / width, header
    figure.text(x, top / height, name, va="top", fontsize=11, fontweight="bold", parse_math=False)
    figure.text(x, (top - 0.24) / height, "\n".join(formulas), va="top", **_PLAIN)
    below = top - 0.24 - _LINE * len(formulas)
    figure.text(x, below / height, "\n".join(rest), va="top", color=GREY, **_PLAIN)
    base = top - _HEADER - _LINE * lines - 0.12 - _PLANE
    plane = axes(_LEFT, base, _PLANE, _PLANE)
    shade = draw_plane(plane, view, strongest)
    extend = "max" if view.push.strength.max() > 1.02 * strongest else "neither"
    beside = axes(_LEFT + _PLANE + 0.1, base, 0.1, _PLANE)
    bar = _colour_bar(figure, shade, beside, MaxNLocator(6), extend=extend)
    bar.set_label("strength of the push: √($c_w$² + $c_l$²)", fontsize=8.5, color=GREY)
    if view.moves is not None:
        draw_moves(plane, view)
    base -= _BELOW_PLANE + _CURVE[1]
    chosen = axes(_LEFT - 0.25, base, *_CURVE)
    rejected = axes(_LEFT - 0.25 + _CURVE[0] + 0.62, base, *_CURVE)
    _draw_curves(figure, chosen, rejected, view)


def _draw_curves(figure: Figure, chosen: Axes, rejected: Axes, view: View) -> None:
    """The coefficients along the dotted line, for each value of the main hyper-parameter."""
    margins = view.plane.margins()
    name = main_hyperparameter(view.objective)
    ordered = sorted(view.curves, key=lambda each: each.hyper[name] if name else 0)
    pushes = [push(each, view.plane, *view.plane.on_line(margins)) for each in ordered]
    tops = [max(np.abs(getattr(each, side)).max() for each in pushes) for side in ("chosen", "rejected")]
    if 0 in tops or shared_strength(tops):
        rejected.sharey(chosen)
    else:
        rejected.annotate("own scale", (1, 0.98), xycoords="axes fraction", ha="right", va="top")
    for place, (each, pushed) in enumerate(zip(ordered, pushes, strict=True)):
        own = each is view.objective
        style: dict[str, Any] = {
            "color": VALUES(place / (len(ordered) - 1) if len(ordered) > 1 else 0.6),
            "linewidth": 2.4 if own else 1.2,
            "label": f"{each.hyper[name]:g}" + (" (plane)" if own else "") if name else None,
        }
        chosen.plot(margins, pushed.chosen, **style)
        rejected.plot(margins, -pushed.rejected, **style)
    middle = view.plane.middle
    line = f"where their mean is {_signed(middle)}" if middle else "where chosen = −rejected"
    for axis, words in (
        (chosen, "chosen: pushed up by −$c_w$"),
        (rejected, "rejected: pushed down by $c_l$"),
    ):
        axis.axhline(0, color=GREY, linewidth=0.9, zorder=1.5)
        axis.axvline(0, color=GREY, linewidth=0.9, dashes=(6, 3), zorder=1.5)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_formatter(lambda value, _: _signed(value))
        axis.set(title=words, xlabel=f"chosen − rejected ({view.plane.unit}),\n{line}")
    if name:  # which line is which value: a row over both panels
        lines, labels = chosen.get_legend_handles_labels()
        labels[0] = f"{_symbol(name)} = {labels[0]}"
        box = chosen.get_position()
        corner = (box.x0, box.y1 + 0.22 / figure.get_size_inches()[1])
        figure.legend(lines, labels, bbox_to_anchor=corner, ncols=len(lines))


def _signed(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _symbol(name: str) -> str:
    """A hyper-parameter as its formula has it, or in so few letters that five values fit beside it."""
    words = name.replace("_", " ")
    return _GREEK.get(words.split()[-1], words if len(words) <= 11 else f"{words[:4]}.")
