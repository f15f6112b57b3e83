"""Figures that runs end with, of which a test makes many and looks at none."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def copy_those_of_runs() -> None:
    """A run's figure gets the file of one that had the same panels: to draw it is most of what a tiny run takes.

    What figures look like is tested by others, which have other names.
    """
    from matplotlib.figure import Figure  # not by the process that hands tests out

    draw = Figure.savefig
    drawn: dict[Any, bytes] = {}

    def savefig(figure: Figure, path: Path, **options: Any) -> None:
        panels = tuple((axes.get_title("left"), len(axes.lines), len(axes.patches)) for axes in figure.axes)
        ends_a_run = "rewards.png" in path.name
        if ends_a_run and panels in drawn:
            path.write_bytes(drawn[panels])
            return
        draw(figure, path, **options)
        if ends_a_run:
            drawn[panels] = path.read_bytes()

    Figure.savefig = savefig  # type: ignore[method-assign,assignment]
