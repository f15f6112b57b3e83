"""Step tensors → named floats, for metrics.jsonl and responses.jsonl.

Two names, two meanings: `logratios/*` are β-free, in nats, what the MinorDPO paper calls rewards; `rewards/*` are
β × log-ratio, as the ecosystem logs them. Chosen and rejected are the best and the worst response of a prompt; of
labelled responses, the desirable and the undesirable ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minordpo.run_folder import records as keys
from minordpo.train.step import Reduce, StepRecord

SATURATED = 0.01  # share of its coefficients before training below which a prompt is hardly pushed any more


@dataclass(frozen=True, eq=False)
class Measured:
    """A step's record as metrics see it, with the places of chosen and rejected among its responses."""

    record: StepRecord
    beta: float
    rounding: float = 0.0  # of a response's log-ratio, in nats

    @cached_property
    def chosen(self) -> Tensor:
        """Places of the chosen responses."""
        logps = self.record.logps
        return (logps.grades > 0).nonzero()[:, 0] if logps.are_single else logps.best

    @cached_property
    def rejected(self) -> Tensor:
        """Places of the rejected responses."""
        logps = self.record.logps
        return (logps.grades <= 0).nonzero()[:, 0] if logps.are_single else logps.worst

    @cached_property
    def up(self) -> Tensor:
        """Log-ratios of the chosen responses."""
        return self.record.logps.logratios[self.chosen]

    @cached_property
    def down(self) -> Tensor:
        """Log-ratios of the rejected responses."""
        return self.record.logps.logratios[self.rejected]

    @property
    def margins(self) -> Tensor:
        """Differences of log-ratios; pairs and ranked responses have them."""
        return self.up - self.down

    @property
    def coefficients(self) -> Tensor:
        """d loss / d log-prob of each response."""
        return self.record.gradient.sequences

    def gates_within_rounding(self) -> Tensor:
        """Whether the log-ratio that opened a gate is smaller than rounding; of each open gate."""
        gates = self.record.gates
        assert gates is not None
        return gates[gates > 0] < self.rounding

    def saturated(self) -> Tensor:
        """Whether a prompt is hardly pushed any more, against before training."""
        assert self.record.at_start is not None
        logps, before = self.record.logps, self.record.at_start.sequences
        return logps.per_prompt(self.coefficients.abs()) <= SATURATED * logps.per_prompt(before.abs())


@dataclass(frozen=True)
class Metric:
    """A value for each prompt or response, whose mean is logged, and what has to be there for it to be measured."""

    values: Callable[[Measured], Tensor]
    reference: bool = False
    both: bool = False  # a chosen and a rejected response to each prompt
    at_start: bool = False
    gates: bool = False

    def measured(self, record: StepRecord) -> bool:
        """Whether the record has what it needs."""
        return not (
            (self.reference and record.logps.ref_logps is None)
            or (self.both and record.logps.are_single)
            or (self.at_start and record.at_start is None)
            or (self.gates and record.gates is None)
        )


# What is logged, in the order of a row; a metric is added by its line here. An objective's own are in its `Spec`.
METRICS: dict[str, Metric] = {
    keys.LOSS: Metric(lambda m: m.record.gradient.losses),
    keys.CHOSEN_LOGRATIO: Metric(lambda m: m.up, reference=True),
    keys.REJECTED_LOGRATIO: Metric(lambda m: m.down, reference=True),
    keys.LOGRATIO_MARGIN: Metric(lambda m: m.margins, reference=True, both=True),
    keys.CHOSEN_REWARD: Metric(lambda m: m.beta * m.up, reference=True),
    keys.REJECTED_REWARD: Metric(lambda m: m.beta * m.down, reference=True),
    keys.REWARD_MARGIN: Metric(lambda m: m.beta * m.margins, reference=True, both=True),
    keys.ACCURACY: Metric(lambda m: m.up > m.down, reference=True, both=True),
    keys.CHOSEN_LOGP: Metric(lambda m: m.record.logps.logps[m.chosen]),
    keys.REJECTED_LOGP: Metric(lambda m: m.record.logps.logps[m.rejected]),
    keys.CHOSEN_COEFFICIENT: Metric(lambda m: m.coefficients[m.chosen]),
    keys.REJECTED_COEFFICIENT: Metric(lambda m: m.coefficients[m.rejected]),
    keys.NO_REJECTED_GRADIENT: Metric(lambda m: m.coefficients[m.rejected] == 0),
    keys.SATURATED: Metric(Measured.saturated, at_start=True),
    keys.GATES_WITHIN_ROUNDING: Metric(Measured.gates_within_rounding, gates=True),
    keys.CHOSEN_BELOW: Metric(lambda m: m.up < 0, reference=True),
    keys.REJECTED_AT_OR_BELOW: Metric(lambda m: m.down <= 0, reference=True),
}


def response_metrics(
    records: Iterable[StepRecord],
    *,
    beta: float,
    reduce: Reduce,
    device: torch.device,
    reports: Sequence[str] = (),
    rounding: float = 0.0,
) -> dict[str, float]:
    """Means over the prompts of all records and all ranks; names without any value are left out.

    `reports` are the names of the objective's own metrics; `rounding` is that of a response's log-ratio, in nats.
    """
    names = [*METRICS, *reports]
    sums = torch.zeros(2, len(names), dtype=torch.float64, device=device)
    for record in records:
        measured = Measured(record, beta, rounding)
        for place, name in enumerate(names):
            if name not in METRICS:  # every row of the step says the same
                values = record.reports[name].reshape(1)
            elif METRICS[name].measured(record):
                values = METRICS[name].values(measured)
            else:
                continue
            sums[0, place] += values.double().sum()
            sums[1, place] += len(values)
    sums = reduce(sums)
    return {name: total / count for name, total, count in zip(names, *sums.tolist(), strict=True) if count}


def response_rows(records: Iterable[StepRecord], rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
    """What each prompt's responses did, best first, for `responses.jsonl`; `rows` are those of the source."""
    found = []
    for record in records:
        logps = record.logps
        columns = {"logps": logps.logps, "tokens": logps.tokens}
        if logps.ref_logps is not None:
            columns["logratios"] = logps.logratios
        if logps.are_single:
            columns["grades"] = logps.grades
        counts = torch.bincount(logps.groups).tolist()
        parts = {name: _rounded(values).split(counts) for name, values in columns.items()}
        for place, index in enumerate(record.indices):
            values = {name: part[place].tolist() for name, part in parts.items()}
            found.append({"rows": int(rows[index]), **values})  # type: ignore[call-overload]  # none is None
    return found


def _rounded(values: Tensor) -> Tensor:
    return values.cpu().double().round(decimals=4) if values.is_floating_point() else values.cpu()
