"""What the trainer writes of its steps: rows of metrics.jsonl and responses.jsonl, and means for the log."""

from __future__ import annotations

from typing import Any

import numpy as np
from accelerate.utils import gather_object
from torch import Tensor

from minordpo.data.mixture import SourceOf
from minordpo.data.stored import StoredExamples
from minordpo.run_folder import records as keys
from minordpo.run_folder.metrics_file import MetricsFile, StepLines
from minordpo.run_folder.records import StepRow
from minordpo.train.gates import GateWarning
from minordpo.train.metrics import response_metrics, response_rows
from minordpo.train.monitored import Monitored
from minordpo.train.row_splitting import stop_unless_finite
from minordpo.train.source_metrics import source_metrics
from minordpo.train.step import StepRecord


class Written(Monitored):
    """A Trainer that writes down what every step's responses did."""

    metrics_file: MetricsFile
    responses_file: StepLines
    last_step: StepRow | None = None
    gates: GateWarning
    sources: dict[str, SourceOf | None]  # of the examples of each split, where there are several
    _pending: tuple[dict[str, Any], dict[str, Any]] | None = None
    _since_log: tuple[dict[str, float], ...] = ()

    def after_step(self, grad_norm: float) -> None:
        """Write down the step, whose metrics are whole with the gradient's norm."""
        if self._pending is not None:
            metrics, responses = self._pending
            step = self.state.global_step
            row = StepRow(step, {keys.EPOCH: self.state.epoch, **metrics, keys.GRAD_NORM: grad_norm})
            self._pending, self.last_step = None, row
            self.metrics_file.write(row)
            self.responses_file.append({keys.STEP: step, **responses})
            stop_unless_finite("gradient norm", grad_norm, step)
        super().after_step(grad_norm)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the objective's metrics, as means over the steps since the last log."""
        if self._since_log and keys.LOSS in logs:
            for name in dict.fromkeys(name for metrics in self._since_log for name in metrics):
                values = [metrics[name] for metrics in self._since_log if name in metrics]
                logs[name] = float(np.mean(values))
            self._since_log = ()
        super().log(logs, *args, **kwargs)

    def _reduced(self, records: list[StepRecord], split: str) -> dict[str, float]:
        found = response_metrics(
            records,
            beta=self.objective.beta,
            reduce=self._sum_over_ranks,
            device=self.args.device,
            reports=self.objective.report_names,
            rounding=self.gates.rounding,
        )
        sources = self.sources[split]
        if sources is None:
            return found
        device, beta = self.args.device, self.objective.beta
        return found | source_metrics(records, sources, beta=beta, reduce=self._sum_over_ranks, device=device)

    def _sum_over_ranks(self, sums: Tensor) -> Tensor:
        return self.accelerator.reduce(sums, reduction="sum") if self.args.world_size > 1 else sums

    def _responses(self, records: list[StepRecord], examples: StoredExamples, split: str) -> dict[str, Any]:
        """What each example's responses did, over all ranks: a row of `responses.jsonl` without its step."""
        rows = response_rows(records, examples.rows)
        gathered = gather_object(rows) if self.args.world_size > 1 else rows
        gathered.sort(key=lambda row: row["rows"])
        return {"split": split, **{name: [row[name] for row in gathered] for name in gathered[0]}}
