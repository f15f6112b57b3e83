"""What the monitor called a run as it went, in sentences: for the run's last lines and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from minordpo.monitor.callback import MonitorCallback

_LOOKED = (
    "A monitor watched log-ratios and short greedy answers during training; its thresholds are provisional."
)


def last_lines(watch: MonitorCallback) -> str:
    """The health at the end and where each other one began, for the terminal."""
    rows = watch.metrics.rows()
    reached = ", ".join(f"{row['health']} from step {row['step']}" for row in first_changes(rows))
    began = f"; it was {reached}" if reached else ""
    lines = [f"health at the end: {watch.health} ({watch.monitor.verdict.why}){began}"]
    lines += [f"the {cost}" for cost in _cost(rows)]
    back = _went_back(rows)
    if back is not None:
        lines.append(f"the model is that of step {back}, the last whose answers were sound")
    return "\n".join(lines)


def for_card(watch: MonitorCallback) -> str:
    """The same in Markdown; nothing that a model wrote is in it."""
    rows = watch.metrics.rows()
    lines = [f"- At the end it called the model {watch.health}: {watch.monitor.verdict.why}."]
    lines += [
        f"- Step {row['step']}: {row['health']}, after {row['was']}: {row['why']}."
        for row in first_changes(rows)
    ]
    lines += [f"- The {cost}." for cost in _cost(rows)]
    back = _went_back(rows)
    if back is not None:
        lines.append(
            f"- These weights are those of step {back}, the last whose answers were sound: training went back to "
            "them after the collapse."
        )
    elif watch.has_stopped:
        lines.append("- It ended the training there, with these weights.")
    return f"{_LOOKED}\n\n" + "\n".join(lines)


def _cost(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the looks at the text took, in words; nothing where there were none."""
    took = [(row.get("probe/seconds", 0.0), row.get("seconds", 0.0)) for row in rows]
    looks, steps = (sum(each) for each in zip(*took, strict=True)) if took else (0.0, 0.0)
    if not looks:
        return []
    return [
        f"monitor's looks at the text took {looks:.1f} s, {looks / (looks + steps):.1%} of looks and steps"
    ]


def first_changes(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The change that first led to each health, of a run's rows."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row.get("event") == "health":
            found.setdefault(row["health"], row)
    return list(found.values())


def _went_back(rows: Iterable[Mapping[str, Any]]) -> int | None:
    return next((row["to"] for row in rows if row.get("event") == "rollback"), None)
