"""Step tensors → named floats; `metrics.jsonl` and `responses.jsonl`.

Two names, two meanings: `logratios/*` are β-free, in nats, what the MinorDPO paper calls rewards; `rewards/*` are
β × log-ratio, as the ecosystem logs them. Chosen and rejected are the best and the worst response of a prompt; of
labelled responses, the desirable and the undesirable ones.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minordpo.errors import InputError
from minordpo.train.step import Reduce, StepRecord

SATURATED = 0.01  # share of its coefficients before training below which a prompt is hardly pushed any more


@dataclass(frozen=True, eq=False)
class Measured:
    """A step's record as metrics see it, with the places of chosen and rejected among its responses."""

    record: StepRecord
    beta: float

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

    def measured(self, record: StepRecord) -> bool:
        """Whether the record has what it needs."""
        return not (
            (self.reference and record.logps.ref_logps is None)
            or (self.both and record.logps.are_single)
            or (self.at_start and record.at_start is None)
        )


# What is logged, in the order of a row; a metric is added by its line here. An objective's own are in its `Spec`.
METRICS: dict[str, Metric] = {
    "loss": Metric(lambda m: m.record.gradient.losses),
    "logratios/chosen": Metric(lambda m: m.up, reference=True),
    "logratios/rejected": Metric(lambda m: m.down, reference=True),
    "logratios/margin": Metric(lambda m: m.margins, reference=True, both=True),
    "rewards/chosen": Metric(lambda m: m.beta * m.up, reference=True),
    "rewards/rejected": Metric(lambda m: m.beta * m.down, reference=True),
    "rewards/margins": Metric(lambda m: m.beta * m.margins, reference=True, both=True),
    "rewards/accuracies": Metric(lambda m: m.up > m.down, reference=True, both=True),
    "logps/chosen": Metric(lambda m: m.record.logps.logps[m.chosen]),
    "logps/rejected": Metric(lambda m: m.record.logps.logps[m.rejected]),
    "coefficient/chosen": Metric(lambda m: m.coefficients[m.chosen]),
    "coefficient/rejected": Metric(lambda m: m.coefficients[m.rejected]),
    "no_rejected_gradient": Metric(lambda m: m.coefficients[m.rejected] == 0),
    "saturated": Metric(Measured.saturated, at_start=True),
    "chosen_below_reference": Metric(lambda m: m.up < 0, reference=True),
    "rejected_at_or_below_reference": Metric(lambda m: m.down <= 0, reference=True),
}


def response_metrics(
    records: Iterable[StepRecord],
    *,
    beta: float,
    reduce: Reduce,
    device: torch.device,
    reports: Sequence[str] = (),
) -> dict[str, float]:
    """Means over the prompts of all records and all ranks; names without any value are left out.

    `reports` are the names of the objective's own metrics.
    """
    names = [*METRICS, *reports]
    sums = torch.zeros(2, len(names), dtype=torch.float64, device=device)
    for record in records:
        measured = Measured(record, beta)
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


def largest_logratio(records: Iterable[StepRecord]) -> tuple[float, float]:
    """The largest |log-ratio| of a response in nats, and the largest over √(its scored tokens)."""
    largest, per_root = 0.0, 0.0
    for record in records:
        ratios = record.logps.logratios.abs()
        largest = max(largest, ratios.max().item())
        per_root = max(per_root, (ratios / record.logps.tokens.sqrt()).max().item())
    return largest, per_root


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


class MetricsFile:
    """A JSON object a line, each of a step, appended as the run goes; only the main process has a path."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._begun = False

    def begin(self, step: int) -> None:
        """Make the file ready for the steps after `step`; training anew is for a file of none, or of its own.

        Raises:
            InputError: training begins at step 0, and the rows of an earlier run would go.
        """
        if step == 0 and not self._begun and any(row["step"] > 0 for _, row in self._lines()):
            raise InputError(
                f"{self.path} holds the steps of an earlier run, and training from step 0 would replace them. Name "
                "another output_dir, delete this one, or go on with that run by train(resume_from_checkpoint=True)"
            )
        self._begun = True
        self.cut_back(step)

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
        return next((row for row in reversed(self.rows()) if "loss" in row), {})

    def evaluation(self, step: int) -> dict[str, Any]:
        """The row of the held-out examples after that step; empty where they were not measured."""
        return next((row for row in self.rows() if row["step"] == step and "eval_loss" in row), {})

    def missing(self, step: int) -> list[int]:
        """The training steps up to `step` that have no row; what a lost or cut file leaves out."""
        there = {row["step"] for row in self.rows() if "loss" in row}
        return [] if self.path is None else [each for each in range(1, step + 1) if each not in there]

    def rows(self) -> list[dict[str, Any]]:
        """All rows; none on other processes than the main one."""
        return [row for _, row in self._lines()]

    def append_evaluation(self, row: Mapping[str, Any]) -> None:
        """Append, in place of the same measurement at the same step: a resumed run repeats its last one."""
        self._keep(
            lambda kept: (
                (kept["step"], kept.get("split"), kept.keys()) != (row["step"], row.get("split"), row.keys())
            )
        )
        self.append(row)

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        if self.path is None or not self.path.exists():
            return
        kept = [line for line, row in self._lines() if wanted(row)]
        aside = self.path.with_suffix(".writing")
        with self._writable():
            aside.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            os.replace(aside, self.path)

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each line with its row, but for a last one that a kill cut short."""
        if self.path is None or not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                whole = isinstance(row["step"], int)
            except (ValueError, TypeError, KeyError):
                whole = False
            if whole:
                yield line, row
            elif number < len(lines):
                raise InputError(
                    f"line {number} of {self.path} is no row of a step. Take the line out, or name another output"
                )

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written: {error.strerror}. Free some space or rights, then go on with --resume"
            ) from error


def _finite(value: Any) -> Any:
    """JSON knows no NaN; a metric that is not finite is written as its name in words."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
