"""What the monitor said of a run: for the run's last lines and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from minordpo.monitor.callback import MonitorCallback
from minordpo.run_folder.records import HealthRow, ProbeRow, Row, StepRow, of_kind


def last_lines(monitor: MonitorCallback) -> str:
    """The health at the end and where each other one began, for the terminal."""
    rows = monitor.metrics.rows()
    reached = ", ".join(f"{row.health} from step {row.step}" for row in first_changes(rows))
    began = f"; it was {reached}" if reached else ""
    lines = [f"health at the end: {monitor.health} ({monitor.monitor.verdict.why}){began}"]
    lines += [f"the {each}" for each in cost(rows)]
    if monitor.came_back_to is not None:
        lines.append(f"the model is that of step {monitor.came_back_to}, the last whose answers were sound")
    return "\n".join(lines)


def cost(rows: Sequence[Row]) -> list[str]:
    """What the probes took, in words; nothing if there were none."""
    probes = sum(row.seconds for row in of_kind(rows, ProbeRow))
    steps = sum(row.seconds for row in of_kind(rows, StepRow))
    if not probes:
        return []
    return [
        f"monitor's looks at the text took {probes:.1f} s, {probes / (probes + steps):.1%} of looks and steps"
    ]


def first_changes(rows: Iterable[Row]) -> list[HealthRow]:
    """The change that first led to each health, of a run's rows."""
    found: dict[str, HealthRow] = {}
    for row in of_kind(rows, HealthRow):
        found.setdefault(row.health, row)
    return list(found.values())
