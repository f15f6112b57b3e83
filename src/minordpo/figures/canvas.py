"""What every figure shares: one style, and a file that is either whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from minordpo.errors import InputError
from minordpo.run_folder.files import written_whole

# Okabe and Ito's colours, told apart by the colour-blind too; their yellow is left out, too light on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#5f5f5f"
MARKERS = "os^Dv"

_STYLE = ["default", str(Path(__file__).with_name("style.mplstyle"))]
# What a file says of itself is no date and no version, so that the same data gives the same bytes.
_METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}
# Dots of held-out pairs.
HELD_OUT: dict[str, Any] = {"linestyle": "", "marker": "o", "markeredgecolor": "white"}


@contextlib.contextmanager
def new_figure() -> Iterator[Figure]:
    """A figure without pyplot's state, drawn in our style whatever the user's matplotlibrc says."""
    with matplotlib.style.context(_STYLE):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def add_legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str], **where: Any) -> None:
    """Add a legend with the labels as they stand: matplotlib drops "_label", and reads "$" as a formula."""
    legend = figure.legend(handles, [" "] * len(labels), **where)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)
        text.set_text(label)


def prepare_panel(axis: Axes, heading: str, *, zero: bool) -> None:
    """Make the axis a panel of curves over optimizer steps, with a line at zero where log-ratios are drawn."""
    axis.set_title(heading, loc="left")
    axis.set_xlabel("optimizer step")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
    if zero:
        axis.axhline(0, color=GREY, linewidth=1.0, zorder=1.5)


def refuse_format(out: Path, formats: Sequence[str]) -> str:
    """The format that `out` is named by; raise InputError if it is none of those."""
    kind = out.suffix.lower().removeprefix(".")
    if kind not in formats:
        kinds = " or ".join(f".{each}" for each in formats)
        are = " or ".join(each.upper() for each in formats)
        raise InputError(f"{out} is not a {kinds} file, but figures are {are}. Name a {kinds} file.")
    return kind


def write_figure(figure: Figure, out: Path, *, formats: Sequence[str] = ("png", "svg")) -> None:
    """Write the figure in the format that its name says, whole or not at all, without dates.

    Raises: InputError for a name of no such format, and where nothing can be written there.
    """
    kind = refuse_format(out, formats)
    with written_whole(out) as aside:
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(aside, format=kind, dpi=150, metadata=_METADATA[kind])
