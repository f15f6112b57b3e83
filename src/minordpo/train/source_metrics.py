"""A step's metrics by source, where several are trained on together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from minordpo.data.mixture import SourceOf
from minordpo.run_folder import records as keys
from minordpo.train.metrics import METRICS, Measured
from minordpo.train.step import Reduce, StepRecord

# What is measured of each source, and which prompts (one a value) its values are of.
_PROMPTS_OF: dict[str, Callable[[Measured], Tensor | None]] = {
    keys.LOSS: lambda measured: None,
    keys.CHOSEN_LOGRATIO: lambda measured: measured.record.logps.groups[measured.chosen],
    keys.REJECTED_LOGRATIO: lambda measured: measured.record.logps.groups[measured.rejected],
    keys.LOGRATIO_MARGIN: lambda measured: None,
    keys.ACCURACY: lambda measured: None,
}


def source_metrics(
    records: Iterable[StepRecord], sources: SourceOf, *, beta: float, reduce: Reduce, device: torch.device
) -> dict[str, float]:
    """Of each source that the records have prompts of: how many, and the means over them, over all ranks.

    `sources` says of which each example is, by the numbers that the records know them by.
    """
    names = list(_PROMPTS_OF)
    sums = torch.zeros(2, len(sources.names), len(names) + 1, dtype=torch.float64, device=device)
    for record in records:
        places = np.array(record.indices, np.int64)
        of_prompts = torch.from_numpy(sources.numbers[places].astype(np.int64)).to(device)
        measured = Measured(record, beta)
        _add(sums[:, :, -1], of_prompts, torch.ones(len(places), device=device))
        for place, name in enumerate(names):
            if METRICS[name].measured(record):
                prompts = _PROMPTS_OF[name](measured)
                own = of_prompts if prompts is None else of_prompts[prompts]
                _add(sums[:, :, place], own, METRICS[name].values(measured))
    sums = reduce(sums)
    found: dict[str, float] = {}
    for source, totals, counts in zip(sources.names, *sums.tolist(), strict=True):
        if not counts[-1]:
            continue
        found[keys.of_source(source, keys.PROMPTS)] = counts[-1]
        for name, total, count in zip(names, totals, counts, strict=False):
            if count:
                found[keys.of_source(source, name)] = total / count
    return found


def _add(sums: Tensor, sources: Tensor, values: Tensor) -> None:
    """Add values and their number, each to its source's."""
    values = values.double()
    sums[0].index_add_(0, sources, values)
    sums[1].index_add_(0, sources, torch.ones_like(values))
