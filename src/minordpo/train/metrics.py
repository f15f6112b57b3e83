"""Step tensors → named floats, and `metrics.jsonl`.

Two names, two meanings: `logratios/*` are β-free, in nats, what the MinorDPO paper calls rewards; `rewards/*` are
β × log-ratio, as the ecosystem logs them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minordpo.errors import InputError
from minordpo.train.step import PairRecord

Reduce = Callable[[Tensor], Tensor]  # sums a tensor over ranks


def pair_metrics(
    records: Iterable[PairRecord], *, beta: float, reduce: Reduce, device: torch.device
) -> dict[str, float]:
    """Means over the pairs of all records and all ranks."""
    columns = [_columns(record, beta) for record in records]
    names = list(_NAMES)
    sums = torch.zeros(len(names) + 1, dtype=torch.float64, device=device)
    for column in columns:
        sums[:-1] += torch.stack([column[name].double().sum() for name in names])
        sums[-1] += len(column[names[0]])
    sums = reduce(sums)
    means = (sums[:-1] / sums[-1]).tolist()
    return dict(zip(names, means, strict=True))


def largest_logratio(records: Iterable[PairRecord]) -> tuple[float, float]:
    """The largest |log-ratio| of a response in nats, and the largest over √(its scored tokens)."""
    largest, per_root = 0.0, 0.0
    for record in records:
        for ratios, tokens in (
            (record.logps.chosen_logratios, record.logps.chosen_tokens),
            (record.logps.rejected_logratios, record.logps.rejected_tokens),
        ):
            largest = max(largest, ratios.abs().max().item())
            per_root = max(per_root, (ratios.abs() / tokens.sqrt()).max().item())
    return largest, per_root


_NAMES = (
    "loss",
    "logratios/chosen",
    "logratios/rejected",
    "logratios/margin",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
    "coefficient/chosen",
    "coefficient/rejected",
    "chosen_below_reference",
    "rejected_at_or_below_reference",
)


def _columns(record: PairRecord, beta: float) -> dict[str, Tensor]:
    chosen, rejected = record.logps.chosen_logratios, record.logps.rejected_logratios
    return {
        "loss": record.losses,
        "logratios/chosen": chosen,
        "logratios/rejected": rejected,
        "logratios/margin": chosen - rejected,
        "rewards/chosen": beta * chosen,
        "rewards/rejected": beta * rejected,
        "rewards/margins": beta * (chosen - rejected),
        "rewards/accuracies": (chosen > rejected).double(),
        "logps/chosen": record.logps.chosen_logps,
        "logps/rejected": record.logps.rejected_logps,
        "coefficient/chosen": record.chosen_coefficients,
        "coefficient/rejected": record.rejected_coefficients,
        "chosen_below_reference": (chosen < 0).double(),
        "rejected_at_or_below_reference": (rejected <= 0).double(),
    }


class MetricsFile:
    """`metrics.jsonl`: a JSON object a line, appended as the run goes; only the main process has a path."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row through to the file."""
        if self.path is None:
            return
        with self._writable(), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_finite(row)) + "\n")

    def cut_back(self, step: int) -> None:
        """Drop the rows after `step`, and a last line that a kill cut short."""
        self._keep(lambda row: row["step"] <= step)

    def last_step(self) -> dict[str, Any]:
        """The last training step's row; empty where there is none."""
        if self.path is None or not self.path.exists():
            return {}
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return next((row for row in reversed(rows) if "loss" in row), {})

    def append_evaluation(self, row: Mapping[str, Any]) -> None:
        """Append, in place of the same measurement at the same step: a resumed run repeats its last one."""
        self._keep(lambda kept: kept["step"] != row["step"] or kept.keys() != row.keys())
        self.append(row)

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        if self.path is None or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            if wanted(row):
                kept.append(line)
        aside = self.path.with_suffix(".writing")
        with self._writable():
            aside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            os.replace(aside, self.path)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written: {error.strerror}. Free some space or rights, then go on with --resume"
            ) from error


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN; a metric that is not finite is written as its name in words."""
    return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
