"""The picture: a block an objective, with its plane above and its coefficients below, and words around them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
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

_NAME = 50  # letters of an objective with its hyper-parameters that fit in one line
COMPARABLE = 6.0  # times; planes whose strongest pushes are farther apart have colour scales of their own
VALUES = LinearSegmentedColormap.from_list("values", ["#b9d48a", "#3f9a8c", "#33548f", "#3b0f50"])

_PLAIN: dict[str, Any] = {"fontsize": 8.5, "parse_math": False, "linespacing": 1.35}
_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "lambda": "λ"}
_READING = (
    "Planes: to the right the chosen response is likelier, upwards the rejected one, compared with the reference "
    "(π_ref) where the objective has one; the aim is right and down. Arrows point where gradient descent on the loss "
    "moves the pair and are longer where it pushes harder; colour says how hard. Small panels: the push on each "
    "response along the plane's dotted line."
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
    lines = max(len(formula) + len(rest) for formula, rest in headers)
    block = _HEADER + _LINE * lines + 0.12 + _PLANE + _BELOW_PLANE + _CURVE[1] + _BELOW_CURVES
    width = max(1.15, columns) * _BLOCK
    rows = math.ceil(len(views) / columns)
    top = _top_text(run, int(width * 15.4))
    bottom = textwrap.wrap(_caveat(views), int(width * 15.4))
    above = 0.12 + _TITLE + _LINE * len(top[1]) + 0.15 + (0.5 if run is not None else 0.0)
    height = above + rows * block + _LINE * len(bottom) + 0.1
    shared = shared_strength([view.strongest for view in views])
    with new_figure() as figure:
        figure.set_layout_engine("none")
        figure.set_size_inches(width, height)
        _texts(figure, top, bottom)
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


def _top_text(run: str | None, width: int) -> tuple[str, list[str]]:
    if run is None:
        return "Where the loss pushes a pair of responses", textwrap.wrap(_READING, width)
    moved = (
        " Dots are training pairs where a step met them; thin lines are held-out pairs from start to end, "
        "the thick one is their mean."
    )
    title = f"Run {run}: how its pairs moved"
    most = width // 2  # the title's letters are larger
    return title if len(title) <= most else title[: most - 1] + "…", textwrap.wrap(_READING + moved, width)


def _caveat(views: Sequence[View]) -> str:
    if shared_strength([view.strongest for view in views]) is None:
        return (
            _CAVEAT + " Each plane has a colour scale of its own, for their pushes differ too much for one."
        )
    return _CAVEAT + (" All planes share one colour scale." if len(views) > 1 else "")


def _header(view: View) -> tuple[list[str], list[str]]:
    """Lines under the objective's name: formulas; then what it assumes and what the drawing takes for granted.

    Hyper-parameters that are too many for the name's own line come first.
    """
    hyper = str(view.objective) if len(str(view.objective)) > _NAME else ""
    formulas = textwrap.wrap(hyper.removeprefix(f"{view.objective.name}, "), 82)
    for term in view.objective.terms:
        formulas += textwrap.wrap(term.spec.formula.rstrip(".").replace("`", ""), 82)
    drawn = conditions(view.objective, view.plane)
    assumed = "; ".join(term.spec.assumes for term in view.objective.terms if term.spec.assumes)
    rest = [f"{title}: {words}" for title, words in (("Assumes", assumed), ("Drawn for", drawn)) if words]
    return formulas, [line for each in rest for line in textwrap.wrap(each, 82)]


def _texts(figure: Figure, top: tuple[str, list[str]], bottom: Sequence[str]) -> None:
    width, height = figure.get_size_inches()
    title, reading = top
    left, below_title = 0.15 / width, 1 - (0.14 + _TITLE) / height
    figure.text(left, 1 - 0.12 / height, title, va="top", parse_math=False, fontsize=13, fontweight="bold")
    figure.text(left, below_title, "\n".join(reading), va="top", **_PLAIN)
    figure.text(left, 0.08 / height, "\n".join(bottom), va="bottom", color=GREY, **_PLAIN)


def _step_key(figure: Figure, views: Sequence[View], down: float) -> None:
    """The colours of the steps, once for all planes."""
    width, height = figure.get_size_inches()
    axis = figure.add_axes((1.15 / width, 1 - (down + 0.02) / height, 2.6 / width, 0.11 / height))
    ticks = MaxNLocator(5, integer=True)
    _colour_bar(figure, steps_scale(views), axis, ticks, orientation="horizontal")
    figure.text(0.15 / width, 1 - down / height, "optimizer step", va="center", fontsize=8.5)


def _colour_bar(figure: Figure, scale: ScalarMappable, axis: Axes, ticks: MaxNLocator, **options: Any) -> Any:
    bar = figure.colorbar(scale, cax=axis, **options)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, color=GREY, length=2)
    bar.locator = ticks
    bar.update_ticks()
    return bar


def _draw_block(
    figure: Figure,
    view: View,
    header: tuple[list[str], list[str]],
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

    x, formula, rest = (left + 0.15) / width, *header
    name = str(view.objective) if len(str(view.objective)) <= _NAME else view.objective.name
    figure.text(x, top / height, name, va="top", fontsize=11, fontweight="bold", parse_math=False)
    figure.text(x, (top - 0.24) / height, "\n".join(formula), va="top", **_PLAIN)
    below = top - 0.24 - _LINE * len(formula)
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
    _draw_curves(chosen, rejected, view)


def _draw_curves(chosen: Axes, rejected: Axes, view: View) -> None:
    """The coefficients along the dotted line, for each value of the main hyper-parameter."""
    margins = view.plane.margins()
    name = main_hyperparameter(view.objective)
    ordered = sorted(view.curves, key=lambda each: each.hyper[name] if name else 0)
    pushes = {id(each): push(each, view.plane, *view.plane.on_line(margins)) for each in ordered}
    for place, each in enumerate(ordered):
        own = each is view.objective
        style: dict[str, Any] = {
            "color": VALUES(place / (len(ordered) - 1) if len(ordered) > 1 else 0.6),
            "linewidth": 2.4 if own else 1.2,
            "label": f"{each.hyper[name]:g}" + (" (plane)" if own else "") if name else None,
        }
        chosen.plot(margins, pushes[id(each)].chosen, **style)
        rejected.plot(margins, -pushes[id(each)].rejected, **style)
    same = _same_scale(chosen, rejected)
    middle = view.plane.middle
    line = f"where their mean is {middle:g}".replace("-", "−") if middle else "where chosen = −rejected"
    for axis, words in (
        (chosen, "chosen: pushed up by −$c_w$"),
        (rejected, "rejected: pushed down by $c_l$"),
    ):
        axis.axhline(0, color=GREY, linewidth=0.9, zorder=1.5)
        axis.axvline(0, color=GREY, linewidth=0.9, dashes=(6, 3), zorder=1.5)
        axis.set_title(words, loc="left", fontsize=9)
        axis.tick_params(labelsize=8, color=GREY)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_locator(MaxNLocator(5))
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
        axis.set_xlabel(f"chosen − rejected ({view.plane.unit}),\n{line}", fontsize=8)
    if not same:
        rejected.annotate("own scale", (1, 0.98), xycoords="axes fraction", ha="right", va="top", fontsize=8)
    if name:
        _draw_values(chosen, _symbol(name))


def _symbol(name: str) -> str:
    """A hyper-parameter as its formula has it, or in so few letters that five values fit beside it."""
    words = name.replace("_", " ")
    return _GREEK.get(words.split()[-1], words if len(words) <= 11 else f"{words[:4]}.")


def _draw_values(chosen: Axes, symbol: str) -> None:
    """Which line is which value: a row over both panels."""
    lines, labels = chosen.get_legend_handles_labels()
    figure, box = chosen.get_figure(root=True), chosen.get_position()
    assert figure is not None
    figure.legend(
        lines,
        [f"{symbol} = {labels[0]}", *labels[1:]],
        loc="lower left",
        bbox_to_anchor=(box.x0, box.y1 + 0.22 / figure.get_size_inches()[1]),
        borderaxespad=0.0,
        borderpad=0.0,
        ncols=len(lines),
        fontsize=8,
        handlelength=1.3,
        handletextpad=0.4,
        columnspacing=1.1,
    )


def _same_scale(chosen: Axes, rejected: Axes) -> bool:
    """Give both the same scale where neither is then a flat line."""
    tops = [max(abs(each) for each in axis.get_ylim()) for axis in (chosen, rejected)]
    flat = [all(not np.any(line.get_ydata()) for line in axis.get_lines()) for axis in (chosen, rejected)]
    if not any(flat) and max(tops) > COMPARABLE * min(tops):
        return False
    axes = [axis for axis, is_flat in zip((chosen, rejected), flat, strict=True) if not is_flat] or [chosen]
    low, high = min(axis.get_ylim()[0] for axis in axes), max(axis.get_ylim()[1] for axis in axes)
    low, high = min(low, -0.05 * high), max(high, -0.05 * low)
    chosen.set_ylim(low, high)
    rejected.set_ylim(low, high)
    return True
