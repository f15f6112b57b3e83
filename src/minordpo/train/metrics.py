"""Step tensors → named floats, for metrics.jsonl and responses.jsonl.

Two names, two meanings: `logratios/*` are β-free, in nats, what the MinorDPO paper calls rewards; `rewards/*` are
β × log-ratio, as the ecosystem logs them. Chosen and rejected are the best and the worst response of a prompt; of
labelled responses, the desirable and the undesirable ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from minordpo.objectives import OBJECTIVES
from minordpo.run_folder import records as keys
from minordpo.train.step import Reduce, StepRecord

SATURATED = 0.01  # share of its coefficients before training below which a prompt is hardly pushed any more


def response_metrics(
    records: Iterable[StepRecord], *, beta: float, reduce: Reduce, device: torch.device
) -> dict[str, float]:
    """Means over the prompts of all records and all ranks; names without any value are left out."""
    sums = torch.zeros(2, len(NAMES), dtype=torch.float64, device=device)
    for record in records:
        columns = _columns(record, beta)
        for place, name in enumerate(NAMES):
            if name in columns:
                sums[0, place] += columns[name].double().sum()
                sums[1, place] += len(columns[name])
            elif name in record.reports:  # every row of the step says the same
                sums[0, place] += record.reports[name].double()
                sums[1, place] += 1
    sums = reduce(sums)
    return {name: total / count for name, total, count in zip(NAMES, *sums.tolist(), strict=True) if count}


def largest_logratio(records: Iterable[StepRecord]) -> tuple[float, float]:
    """The largest |log-ratio| of a response in nats, and the largest over √(its scored tokens)."""
    largest, per_root = 0.0, 0.0
    for record in records:
        ratios = record.logps.logratios.abs()
        largest = max(largest, ratios.max().item())
        per_root = max(per_root, (ratios / record.logps.tokens.sqrt()).max().item())
    return largest, per_root


NAMES = (
    keys.LOSS,
    keys.CHOSEN_LOGRATIO,
    keys.REJECTED_LOGRATIO,
    keys.LOGRATIO_MARGIN,
    keys.CHOSEN_REWARD,
    keys.REJECTED_REWARD,
    keys.REWARD_MARGIN,
    keys.ACCURACY,
    keys.CHOSEN_LOGP,
    keys.REJECTED_LOGP,
    keys.CHOSEN_COEFFICIENT,
    keys.REJECTED_COEFFICIENT,
    keys.NO_REJECTED_GRADIENT,
    keys.SATURATED,
    keys.CHOSEN_BELOW,
    keys.REJECTED_AT_OR_BELOW,
    *sorted({name for spec in OBJECTIVES.values() for name in spec.reports}),
)


def _columns(record: StepRecord, beta: float) -> dict[str, Tensor]:
    logps, coefficients = record.logps, record.gradient.sequences
    if logps.are_single:
        chosen, rejected = (logps.grades > 0).nonzero()[:, 0], (logps.grades <= 0).nonzero()[:, 0]
    else:
        chosen, rejected = logps.best, logps.worst
    columns = {
        keys.LOSS: record.gradient.losses,
        keys.CHOSEN_LOGP: logps.logps[chosen],
        keys.REJECTED_LOGP: logps.logps[rejected],
        keys.CHOSEN_COEFFICIENT: coefficients[chosen],
        keys.REJECTED_COEFFICIENT: coefficients[rejected],
        keys.NO_REJECTED_GRADIENT: (coefficients[rejected] == 0).double(),
    }
    if record.at_start is not None:
        push = logps.per_prompt(coefficients.abs())
        at_start = logps.per_prompt(record.at_start.sequences.abs())
        columns[keys.SATURATED] = (push <= SATURATED * at_start).double()
    if logps.ref_logps is None:
        return columns
    up, down = logps.logratios[chosen], logps.logratios[rejected]
    columns |= {
        keys.CHOSEN_LOGRATIO: up,
        keys.REJECTED_LOGRATIO: down,
        keys.CHOSEN_REWARD: beta * up,
        keys.REJECTED_REWARD: beta * down,
        keys.CHOSEN_BELOW: (up < 0).double(),
        keys.REJECTED_AT_OR_BELOW: (down <= 0).double(),
    }
    if not logps.are_single:
        columns |= {
            keys.LOGRATIO_MARGIN: up - down,
            keys.REWARD_MARGIN: beta * (up - down),
            keys.ACCURACY: (up > down).double(),
        }
    return columns


def response_rows(records: Iterable[StepRecord], rows: Sequence[int]) -> list[dict[str, Any]]:
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
            found.append({"rows": rows[index], **values})  # type: ignore[call-overload]  # none is None
    return found


def _rounded(values: Tensor) -> Tensor:
    return values.cpu().double().round(decimals=4) if values.is_floating_point() else values.cpu()
