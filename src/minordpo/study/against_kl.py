"""Eq. 1 of the MinorDPO paper drawn: what each model of an evaluation earns, against how far it went for that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import PercentFormatter

from minordpo.study.canvas import COLORS, new_figure, write_figure

_MARKERS = "os^Dv"
FILE = "kl.png"


def kl_figure(results: Mapping[str, Any], out: Path) -> bool:
    """Draw the share of right samples against KL(π‖π_ref), a point a model; False, and no file, where none has both.

    Both are means over the same samples, so reward − β · KL of a point is Eq. 1 with the reward 1 for a right sample.
    `results` are those of `minordpo evaluate`, with any models.

    Raises:
        InputError: nothing can be written there.
    """
    points = {label: each for label, model in results["models"].items() if (each := _point(model))}
    if not points:
        return False
    with new_figure() as figure:
        figure.set_size_inches(8, 4.6 + 0.2 * (len(points) // 3))
        axis = figure.subplots()
        for place, (label, (share, kl)) in enumerate(points.items()):
            marker, color = _MARKERS[place // len(COLORS) % len(_MARKERS)], COLORS[place % len(COLORS)]
            bars = [[share["share"] - share["low"]], [share["high"] - share["share"]]]
            error = kl["per_sequence_error"] or 0.0  # one question has none
            x, y = [kl["per_sequence"]], [share["share"]]
            axis.errorbar(x, y, yerr=bars, xerr=[error], linestyle="", color=color, alpha=0.35)
            cut = f" ({kl['cut']:.0%} cut)" if kl["cut"] >= 0.005 else ""
            axis.plot(
                x, y, linestyle="", marker=marker, color=color, markeredgecolor="white", label=f"{label}{cut}"
            )
        axis.set_xlabel("KL(π‖π_ref) of samples (nats per sequence)", parse_math=False)
        axis.set_ylabel("samples that are right by the asked line")
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        legend = figure.legend(loc="outside lower left", ncols=3, fontsize=9)
        for text in legend.get_texts():
            text.set_parse_math(False)  # a "$" begins no formula
        figure.suptitle(
            "Reward against KL: 95 % intervals, one standard error", x=0.01, ha="left", fontweight="bold"
        )
        for suffix in (".png", ".svg"):
            write_figure(figure, out.with_suffix(suffix))
    return True


def _point(model: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The model's reward and KL; None where its samples were not drawn from π, or met no reference."""
    samples = model.get("samples") or {}
    return (samples["strict_accuracy"], samples["kl"]) if samples.get("kl") else None
