"""Gates that rounding may have opened: a warning, once a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from minordpo.run_folder import records as keys

SAID_ABOVE = 0.01  # share of the open gates


@dataclass
class GateWarning:
    """Says once that more than `SAID_ABOVE` of a step's open gates are open by less than rounding."""

    said: bool
    rounding: float = 0.0  # of a response's log-prob, in nats, once it is measured

    def look(self, metrics: Mapping[str, float], step: int) -> None:
        """Look at a step's metrics."""
        share = metrics.get(keys.GATES_WITHIN_ROUNDING, 0.0)
        if share <= SAID_ABOVE or self.said:
            return
        self.said = True
        print(
            f"step {step}: {share:.0%} of the open gates were opened by log-ratios below the rounding of a log-prob, "
            f"{self.rounding:.2g} nats. metrics.jsonl has the share of each step as {keys.GATES_WITHIN_ROUNDING}",
            flush=True,
        )
