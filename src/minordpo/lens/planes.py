"""The plane of an objective: colour, arrows, what its places mean, and maybe a run's pairs over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.ticker import MaxNLocator

from minordpo.figures.canvas import GREY
from minordpo.lens.gradients import Plane, Push, push
from minordpo.lens.run_pairs import Moves, is_outside
from minordpo.objectives import Objective

ARROWS = 12  # a side; even, so that none starts on an axis, where minordpo's push jumps
# Blues that stay light enough for black arrows, and for the run's steps from yellow to dark red.
STRENGTH = LinearSegmentedColormap.from_list("strength", ["#ffffff", "#cfe1f2", "#93c4de", "#5ba3cf"])
STEPS = LinearSegmentedColormap.from_list("steps", ["#ffe08a", "#f98e3c", "#d4342c", "#7a0a2a"])


@dataclass(frozen=True, eq=False)
class View:
    """What is drawn of one objective."""

    plane: Plane
    push: Push  # of `plane`'s cells
    curves: list[Objective]  # the plane's own first
    moves: Moves | None = None

    @property
    def objective(self) -> Objective:
        """The plane's."""
        return self.curves[0]

    @property
    def strongest(self) -> float:
        """The push that the deepest colour stands for: the strongest, or where one corner dwarfs the rest the 99th
        percentile."""
        most, nearly = float(self.push.strength.max()), float(np.percentile(self.push.strength, 99))
        return (nearly if 0 < nearly < most / 1.5 else most) or 1.0


def steps_scale(views: Sequence[View]) -> ScalarMappable:
    """The colours of optimizer steps, the same in all planes."""
    last = max(view.moves.last_step for view in views if view.moves is not None)
    return ScalarMappable(Normalize(0, last), STEPS)


def draw_plane(axis: Axes, view: View, strongest: float) -> ScalarMappable:
    """The plane of an objective; what it returns is the scale of its colours, which end at `strongest`."""
    plane, push_, limits = view.plane, view.push, (view.plane.low, view.plane.high)
    axis.grid(False)
    shade = axis.imshow(
        push_.strength,
        origin="lower",
        extent=(*limits, *limits),
        cmap=STRENGTH,
        vmin=0,
        vmax=strongest,
        interpolation="nearest",
        zorder=0,
    )
    line: dict[str, Any] = {"color": GREY, "zorder": 1.5}
    if plane.low < 0 < plane.high:
        axis.axhline(0, linewidth=0.9, **line)
        axis.axvline(0, linewidth=0.9, **line)
    axis.plot(limits, limits, linewidth=0.9, dashes=(6, 3), **line)
    axis.plot(
        *plane.on_line(np.array([-1, 1]) * (plane.high - plane.low)), linestyle=":", linewidth=1.5, **line
    )
    where = plane.low + 0.83 * (plane.high - plane.low)
    halo = [patheffects.withStroke(linewidth=3, foreground="white")]
    words: dict[str, Any] = {"fontsize": 8, "rotation": 45, "ha": "center", "va": "center", "zorder": 4}
    axis.text(where, where, "margin 0", path_effects=halo, **words)
    _draw_regions(axis, view)
    _draw_turn(axis, view)
    _draw_arrows(axis, view, strongest)
    _draw_words(axis, view)
    axis.set(xlim=limits, ylim=limits)
    quantity = f"{'log π/π_ref' if plane.kind == 'logratios' else 'log π'} ({plane.unit})"
    axis.set_xlabel(f"chosen: {quantity}", fontsize=9)
    axis.set_ylabel(f"rejected: {quantity}", fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(6))
    axis.yaxis.set_major_locator(MaxNLocator(6))
    axis.tick_params(labelsize=8.5, color=GREY)
    return shade


def _draw_regions(axis: Axes, view: View) -> None:
    """Hatch where neither response is pushed, dot where the rejected one is left alone, and say so."""
    centres, push_ = view.plane.centres(), view.push
    regions = ((push_.nowhere, "////", "no push"), (push_.rejected_alone, "..", "no push on the rejected"))
    for region, hatch, words in regions:
        if not region.any():
            continue
        style: dict[str, Any] = {"levels": [0.5, 1.5], "colors": "none", "hatches": [hatch], "zorder": 0.5}
        drawn = axis.contourf(centres, centres, region.astype(float), **style)
        drawn.set_edgecolor("#6a6a6a")
        drawn.set_linewidth(0.0)
        style = {"fontsize": 9, "fontweight": "bold", "color": "black", "zorder": 4}
        _word(axis, _place_for_words(region, view), words, ("center", "center"), alpha=0.9, pad=2.0, **style)


def _draw_turn(axis: Axes, view: View) -> None:
    """A line where the push on the chosen response turns round, if it does."""
    chosen, centres = view.push.chosen, view.plane.centres()
    if chosen.min() < 0 < chosen.max():
        line = axis.contour(
            centres, centres, chosen, levels=[0.0], colors="black", linewidths=1.1, zorder=1.6
        )
        places = np.asarray(line.get_paths()[0].vertices)
        place = places[int(0.75 * len(places))]
        axis.clabel(line, fmt={0.0: "the push turns"}, fontsize=8, zorder=4, manual=[tuple(place)])


def _place_for_words(region: np.ndarray, view: View) -> tuple[float, float]:
    """The middle of a region; with a run, the place in it that is farthest from the run's pairs."""
    centres = view.plane.centres()
    rows, columns = np.nonzero(region)
    if view.moves is not None and len(view.moves.coordinates):
        # Words are wide, so they keep to the middle half of the plane.
        fits = np.flatnonzero((np.abs(columns / len(centres) - 0.5) < 0.25) & (rows > 0.1 * len(centres)))[
            ::7
        ]
        if len(fits):
            places = np.stack([centres[columns[fits]], centres[rows[fits]]], axis=1)
            pairs = view.moves.coordinates[:: len(view.moves.coordinates) // 500 + 1]
            apart = np.abs(places[:, None] - pairs).max(axis=2).min(axis=1)
            return tuple(places[apart.argmax()])
    # Of a whole plane, below the middle, where nothing else is written.
    return centres[round(columns.mean())], centres[round(len(centres) / 4 if region.all() else rows.mean())]


def _draw_arrows(axis: Axes, view: View, strongest: float) -> None:
    plane = view.plane
    step = (plane.high - plane.low) / ARROWS
    across, up = np.meshgrid(*2 * [plane.low + step * (np.arange(ARROWS) + 0.5)])
    pushed = push(view.objective, plane, across, up)
    strength = pushed.strength
    seen = strength > 1e-4 * strongest
    # The cube root, so that a push of a hundredth is still an arrow and one of a millionth is not.
    length = 0.82 * step * np.cbrt(np.minimum(strength[seen] / strongest, 1)) / strength[seen]
    axis.quiver(
        across[seen],
        up[seen],
        pushed.chosen[seen] * length,
        pushed.rejected[seen] * length,
        angles="xy",
        scale_units="xy",
        scale=1,
        pivot="mid",
        width=0.0052,
        headwidth=4.2,
        headlength=4.4,
        headaxislength=4.0,
        minlength=0,
        color="#222222" if view.moves is None else "#6d7f8d",
        zorder=2,
    )


def _draw_words(axis: Axes, view: View) -> None:
    """The start, and what the corners of the plane mean."""
    plane = view.plane
    if plane.kind == "logratios":
        axis.plot([0], [0], marker="o", markersize=7, color="white", markeredgecolor="black", zorder=6)
        axis.annotate(
            "start",
            (0, 0),
            # A run's pairs go right or down, the arrows of a plane alone leave room there.
            xytext=(7, -8) if view.moves is None else (-7, 9),
            ha="left" if view.moves is None else "right",
            textcoords="offset points",
            fontsize=8.5,
            va="center",
            fontweight="bold",
            zorder=6,
            path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")],
        )
    fell, rose = ("both fell", "both rose") if plane.kind == "logratios" else ("both unlikely", "both likely")
    low, high = 0.015, 0.985
    style: dict[str, Any] = {"transform": axis.transAxes, "fontsize": 8, "fontstyle": "italic", "zorder": 5}
    for x, y, words in (
        (low, low, fell),
        (high, low, "the aim"),
        (low, high, "the wrong way"),
        (high, high, rose),
    ):
        sides = ("left" if x < 0.5 else "right", "bottom" if y < 0.5 else "top")
        _word(axis, (x, y), words, sides, alpha=0.85, pad=1.5, **style)


def _word(
    axis: Axes, place: tuple[float, float], words: str, sides: Any, *, alpha: float, pad: float, **style: Any
) -> None:
    """Words on white, so that arrows below them do not disturb."""
    box = {"facecolor": "white", "edgecolor": "none", "alpha": alpha, "pad": pad}
    axis.text(*place, words, ha=sides[0], va=sides[1], bbox=box, **style)


def draw_moves(axis: Axes, view: View) -> None:
    """A run's pairs over a plane: training pairs as dots, held-out ones as paths, and the mean of these."""
    moves, limits = view.moves, (view.plane.low, view.plane.high)
    assert moves is not None
    colors = steps_scale([view])
    axis.scatter(
        moves.chosen, moves.rejected, c=colors.to_rgba(moves.steps), s=6, linewidths=0, alpha=0.45, zorder=2.5
    )
    for path in moves.paths:
        _path(axis, path, colors, linewidth=0.9, alpha=0.9, zorder=2.8)
    mean = moves.mean_path()
    if mean is not None:
        axis.plot(mean[:, 1], mean[:, 2], color="black", linewidth=4.2, zorder=6.5, solid_capstyle="round")
        _path(axis, mean, colors, linewidth=2.6, zorder=6.6)
        style: dict[str, Any] = {"s": 26, "edgecolors": "black", "linewidths": 0.9, "zorder": 6.7}
        axis.scatter(mean[:, 1], mean[:, 2], c=colors.to_rgba(mean[:, 0]), **style)
    outside = int(is_outside(moves.coordinates, limits).sum())
    if outside:
        axis.text(
            1.0, 1.01, f"{outside} of {len(moves.coordinates)} places lie outside", transform=axis.transAxes,
            ha="right", va="bottom", fontsize=8, color=GREY,
        )  # fmt: skip


def _path(axis: Axes, path: np.ndarray, colors: ScalarMappable, **style: Any) -> None:
    places = path[:, 1:]
    segments = np.stack([places[:-1], places[1:]], axis=1)
    axis.add_collection(
        LineCollection(list(segments), colors=colors.to_rgba(path[1:, 0]), **style), autolim=False
    )
