"""Eq. 1 of the MinorDPO paper drawn: what each model of an evaluation earns, and the KL that it pays for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter

from minordpo.figures.canvas import COLORS, MARKERS, add_legend, new_figure, write_figure

REWARDS = {"flexible_accuracy": "Right by the last number", "strict_accuracy": "Right by the asked line"}


def kl_figure(results: Mapping[str, Any], out: Path) -> bool:
    """Draw the share of right samples against KL(π‖π_ref), a point a model; False, and no file, where none has both.

    Both are means over the same samples, so reward − β · KL of a point is Eq. 1 with the reward 1 for a right sample.
    What a verifier says of the samples has a panel of its own: the share that passes, or the mean score.
    `results` are those of `minordpo evaluate`, with any models.

    Raises:
        InputError: nothing can be written there.
    """
    sampled = {label: model.get("samples") or {} for label, model in results["models"].items()}
    points = {label: samples for label, samples in sampled.items() if samples.get("kl")}
    if not points:
        return False
    panels = _panels(points)
    if not panels:
        return False
    with new_figure() as figure:
        figure.set_size_inches(max(6, 5 * len(panels)), 4.4 + 0.2 * (len(points) // 3))
        shares = all(panel.is_share for panel in panels)
        axes = figure.subplots(1, len(panels), sharex=True, sharey=shares, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            axis.set_title(panel.title, loc="left")
            for place, (label, samples) in enumerate(points.items()):
                reward = panel.of(samples)
                if reward is None:
                    continue
                kl = samples["kl"]
                marker, color = MARKERS[place // len(COLORS) % len(MARKERS)], COLORS[place % len(COLORS)]
                cut = f" ({kl['cut']:.0%} cut)" if kl["cut"] >= 0.005 else ""
                _draw_point(axis, reward, kl, marker=marker, color=color, label=f"{label}{cut}")
            scale_kl(axis)
            if panel.is_share:
                axis.yaxis.set_major_formatter(PercentFormatter(1))
        axes[0].set_ylabel("samples that are right" if panels[0].title in REWARDS.values() else "")
        labelled = max((axis.get_legend_handles_labels() for axis in axes), key=lambda each: len(each[0]))
        add_legend(figure, *labelled, loc="outside lower left", ncols=3, fontsize=9)
        figure.suptitle(
            "Reward against KL: 95 % intervals, one standard error", x=0.01, ha="left", fontweight="bold"
        )
        for suffix in (".png", ".svg"):
            write_figure(figure, out.with_suffix(suffix))
    return True


@dataclass(frozen=True)
class _Panel:
    """A reward that samples earn."""

    title: str
    of: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]  # share, low and high; the ends may be None
    is_share: bool = True


def _panels(points: Mapping[str, Mapping[str, Any]]) -> list[_Panel]:
    """What there is of the models' samples: the verifier's first."""
    said = [samples.get("verified", {}) for samples in points.values()]
    found = []
    if any(each.get("passed") for each in said):
        found.append(_Panel("Passes the verifier", lambda samples: samples["verified"]["passed"]))
    elif any("score" in each for each in said):
        found.append(_Panel("Mean score", _score_of, is_share=False))
    elif any("win_rate" in each for each in said):
        found.append(
            _Panel("Win rate against the first", lambda samples: samples["verified"].get("win_rate"))
        )
    for name, title in REWARDS.items():
        if all(name in samples for samples in points.values()):
            found.append(_Panel(title, itemgetter(name)))
    return found


def _score_of(samples: Mapping[str, Any]) -> Mapping[str, Any]:
    score = samples["verified"]["score"]
    return {**score, "share": score["mean"]}


def scale_kl(axis: Axes) -> None:
    """An axis of KL, drawn last: by its square root, so that models at one nat and at a hundred are told apart."""
    axis.set_xscale("function", functions=(_root, _square))
    low, high = axis.get_xlim()
    ticks, apart = [0.0], (_root(high) - _root(low)) / 14
    for tick in (digit * 10.0**power for power in range(-4, 9) for digit in (1, 2, 5)):
        if low <= tick <= high and _root(tick) - _root(ticks[-1]) >= apart:
            ticks.append(tick)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_xlabel("KL(π‖π_ref) of samples (nats per sequence, root scale)", parse_math=False)


def _root(x: Any) -> Any:
    return np.sign(x) * np.sqrt(np.abs(x))  # an average of samples may fall below 0


def _square(x: Any) -> Any:
    return np.sign(x) * np.square(x)


def _draw_point(
    axis: Axes, share: Mapping[str, Any], kl: Mapping[str, Any], *, color: str, **style: Any
) -> None:
    low, high = (share["share"] if share[end] is None else share[end] for end in ("low", "high"))
    bars = [[share["share"] - low], [high - share["share"]]]
    error = kl["per_sequence_error"] or 0.0  # one question has none
    x, y = [kl["per_sequence"]], [share["share"]]
    axis.errorbar(x, y, yerr=bars, xerr=[error], linestyle="", color=color, alpha=0.35)
    axis.plot(x, y, linestyle="", markeredgecolor="white", color=color, **style)
