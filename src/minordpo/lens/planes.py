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
from minordpo.lens.run_pairs import Moves
from minordpo.objectives import Objective

ARROWS = 12  # a side; even, so that none starts on an axis, where minordpo's push jumps
# Blues that stay light enough for black arrows, and for the run's steps from yellow to dark red.
STRENGTH = LinearSegmentedColormap.from_list("strength", ["#ffffff", "#cfe1f2", "#93c4de", "#5ba3cf"])
STEPS = LinearSegmentedColormap.from_list("steps", ["#ffe08a", "#f98e3c", "#d4342c", "#7a0a2a"])
_HALO = [patheffects.withStroke(linewidth=3, foreground="white")]
# Words lie on white, so that arrows below them do not disturb.
_ON_WHITE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}


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
    plane, limits = view.plane, (view.plane.low, view.plane.high)
    axis.grid(False)
    strength = view.push.strength
    shade = axis.imshow(strength, extent=(*limits, *limits), cmap=STRENGTH, vmin=0, vmax=strongest, zorder=0)
    line: dict[str, Any] = {"color": GREY, "zorder": 1.5}
    if plane.low < 0 < plane.high:
        axis.axhline(0, linewidth=0.9, **line)
        axis.axvline(0, linewidth=0.9, **line)
    axis.plot(limits, limits, linewidth=0.9, dashes=(6, 3), **line)
    axis.plot(*plane.on_line(np.diff(limits) * [-1, 1]), linestyle=":", linewidth=1.5, **line)
    where = plane.low + 0.83 * (plane.high - plane.low)
    words: dict[str, Any] = {"rotation": 45, "ha": "center", "va": "center", "zorder": 4}
    axis.text(where, where, "margin 0", path_effects=_HALO, **words)
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
    axis.tick_params(labelsize=8.5)
    return shade


def _draw_regions(axis: Axes, view: View) -> None:
    """Hatch where neither response is pushed, dot where the rejected one is left alone, and say so."""
    centres, chosen, alone = view.plane.centres(), view.push.chosen, view.push.rejected == 0
    regions = (
        (alone & (chosen == 0), "////", "no push"),
        (alone & (chosen != 0), "..", "no push on the rejected"),
    )
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "fontweight": "bold", "zorder": 4}
    for region, hatch, words in regions:
        if region.any():
            drawn = axis.contourf(
                centres, centres, region, levels=[0.5, 1.5], colors="none", hatches=[hatch], zorder=0.5
            )
            drawn.set(edgecolor="#6a6a6a", linewidth=0.0)
            axis.text(*_place_for_words(region, view), words, bbox=_ON_WHITE, **style)


def _draw_turn(axis: Axes, view: View) -> None:
    """A line where the push on the chosen response turns round, if it does."""
    chosen, centres = view.push.chosen, view.plane.centres()
    if chosen.min() < 0 < chosen.max():
        style: dict[str, Any] = {"levels": [0.0], "colors": "black", "linewidths": 1.1, "zorder": 1.6}
        line = axis.contour(centres, centres, chosen, **style)
        places = np.asarray(line.get_paths()[0].vertices)
        place = places[int(0.75 * len(places))]
        axis.clabel(line, fmt={0.0: "the push turns"}, zorder=4, manual=[tuple(place)])


def _place_for_words(region: np.ndarray, view: View) -> tuple[float, float]:
    """The middle of a region; with a run, the place in it that is farthest from the run's pairs."""
    centres = view.plane.centres()
    rows, columns = np.nonzero(region)
    if view.moves is not None and len(view.moves.coordinates):
        # Words are wide, so they keep to the middle half of the plane.
        fits = (np.abs(columns / len(centres) - 0.5) < 0.25) & (rows > 0.1 * len(centres))
        if fits.any():
            places = np.stack([centres[columns[fits]], centres[rows[fits]]], axis=1)[::7]
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
    head: dict[str, Any] = {"headwidth": 4.2, "headlength": 4.4, "headaxislength": 4.0}
    style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "pivot": "mid", "minlength": 0}
    axis.quiver(
        across[seen],
        up[seen],
        pushed.chosen[seen] * length,
        pushed.rejected[seen] * length,
        width=0.0052,
        color="#222222" if view.moves is None else "#6d7f8d",
        zorder=2,
        **head,
        **style,
    )


def _draw_words(axis: Axes, view: View) -> None:
    """The start, and what the corners of the plane mean."""
    fell, rose = "both unlikely", "both likely"
    if view.plane.kind == "logratios":
        fell, rose = "both fell", "both rose"
        axis.plot([0], [0], marker="o", markersize=7, color="white", markeredgecolor="black", zorder=6)
        # A run's pairs go right or down, the arrows of a plane alone leave room there.
        away, side = ((7, -8), "left") if view.moves is None else ((-7, 9), "right")
        start: dict[str, Any] = {"textcoords": "offset points", "ha": side, "va": "center", "zorder": 6}
        start |= {"fontsize": 8.5, "fontweight": "bold", "path_effects": _HALO}
        axis.annotate("start", (0, 0), away, **start)
    style: dict[str, Any] = {"transform": axis.transAxes, "fontstyle": "italic", "zorder": 5}
    for right, top, words in ((0, 0, fell), (1, 0, "the aim"), (0, 1, "the wrong way"), (1, 1, rose)):
        style |= {"ha": "right" if right else "left", "va": "top" if top else "bottom"}
        axis.text(0.015 + 0.97 * right, 0.015 + 0.97 * top, words, bbox=_ON_WHITE, **style)


def draw_moves(axis: Axes, view: View) -> None:
    """A run's pairs over a plane: training pairs as dots, held-out ones as paths, and the mean of these."""
    moves, plane = view.moves, view.plane
    assert moves is not None
    colors = steps_scale([view])
    style: dict[str, Any] = {"s": 6, "linewidths": 0, "alpha": 0.45, "zorder": 2.5}
    axis.scatter(moves.dots[:, 1], moves.dots[:, 2], c=colors.to_rgba(moves.dots[:, 0]), **style)
    for path in moves.paths:
        _path(axis, path, colors, linewidth=0.9, alpha=0.9, zorder=2.8)
    mean = moves.mean_path()
    if mean is not None:
        axis.plot(*mean[:, 1:].T, color="black", linewidth=4.2, zorder=6.5)
        _path(axis, mean, colors, linewidth=2.6, zorder=6.6)
        style = {"s": 26, "edgecolors": "black", "linewidths": 0.9, "zorder": 6.7}
        axis.scatter(mean[:, 1], mean[:, 2], c=colors.to_rgba(mean[:, 0]), **style)
    places = moves.coordinates
    outside = ((places < plane.low) | (places > plane.high)).any(axis=1).sum()
    if outside:
        style = {"transform": axis.transAxes, "ha": "right", "va": "bottom", "color": GREY}
        axis.text(1.0, 1.01, f"{outside} of {len(places)} places lie outside", **style)


def _path(axis: Axes, path: np.ndarray, colors: ScalarMappable, **style: Any) -> None:
    segments = np.stack([path[:-1, 1:], path[1:, 1:]], axis=1)
    lines = LineCollection(list(segments), colors=colors.to_rgba(path[1:, 0]), **style)
    axis.add_collection(lines, autolim=False)
