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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minordpo.errors import InputError
from minordpo.objectives import OBJECTIVES
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
    "no_rejected_gradient",
    "saturated",
    "chosen_below_reference",
    "rejected_at_or_below_reference",
    *sorted({name for spec in OBJECTIVES.values() for name in spec.reports}),
)


def _columns(record: StepRecord, beta: float) -> dict[str, Tensor]:
    logps, coefficients = record.logps, record.gradient.sequences
    if logps.are_single:
        chosen, rejected = (logps.grades > 0).nonzero()[:, 0], (logps.grades <= 0).nonzero()[:, 0]
    else:
        chosen, rejected = logps.best, logps.worst
    columns = {
        "loss": record.gradient.losses,
        "logps/chosen": logps.logps[chosen],
        "logps/rejected": logps.logps[rejected],
        "coefficient/chosen": coefficients[chosen],
        "coefficient/rejected": coefficients[rejected],
        "no_rejected_gradient": (coefficients[rejected] == 0).double(),
    }
    if record.at_start is not None:
        push = logps.per_prompt(coefficients.abs())
        at_start = logps.per_prompt(record.at_start.sequences.abs())
        columns["saturated"] = (push <= SATURATED * at_start).double()
    if logps.ref_logps is None:
        return columns
    up, down = logps.logratios[chosen], logps.logratios[rejected]
    columns |= {
        "logratios/chosen": up,
        "logratios/rejected": down,
        "rewards/chosen": beta * up,
        "rewards/rejected": beta * down,
        "chosen_below_reference": (up < 0).double(),
        "rejected_at_or_below_reference": (down <= 0).double(),
    }
    if not logps.are_single:
        columns |= {
            "logratios/margin": up - down,
            "rewards/margins": beta * (up - down),
            "rewards/accuracies": (up > down).double(),
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
