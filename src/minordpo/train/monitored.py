"""The monitor's place in our trainer: among its callbacks, it sees every step, logged or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers.trainer_utils import TrainOutput

from minordpo.engine.reference_pass import ReferencePass
from minordpo.monitor.callback import MonitorCallback, Watched
from minordpo.monitor.probe import Reference
from minordpo.objectives import Objective
from minordpo.run_folder.records import StepRow, of_kind
from minordpo.train.checkpoints import StagedCheckpoints
from minordpo.train.refusals import refuse_first


class Monitored(StagedCheckpoints, Watched):
    """A Trainer whose monitor sees every step."""

    objective: Objective  # transformers.Trainer has another of that name
    reference: ReferencePass | None
    last_step: StepRow | None
    _seen = -1

    def monitor(self) -> MonitorCallback | None:
        """The monitor, joined to this trainer; None where there is none.

        Raises:
            InputError: there are two, or it cannot roll back.
        """
        found = [each for each in self.callback_handler.callbacks if isinstance(each, MonitorCallback)]
        refuse_first({"two_monitors": len(found) > 1}, count=len(found))
        if not found:
            return None
        found[0].join(self)
        return found[0]

    def reference_beside_the_policy(self) -> Reference | None:
        """Fully tuned, the reference is gone with the first step, unless it is another model."""
        reference = self.reference
        if reference is None or (reference.is_policy and not reference.new_adapter):
            return None
        return reference.logps_alone

    def stopped_by_monitor(self) -> bool:
        """Whether the run that metrics.jsonl tells of was stopped at its last step."""
        monitor = self.monitor()
        if monitor is None:
            return False
        (rows,) = broadcast_object_list([self.metrics_file.rows()])
        monitor.replay(rows)
        return monitor.has_stopped

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train, and be at the step whose weights the model ends with."""
        self.monitor()
        self._seen = -1 if self.last_step is None else self.last_step.step
        output = super().train(*args, **kwargs)
        self._go_back()
        return output

    def load_finished(self, checkpoint: Path) -> TrainOutput:
        """Also of a run that the monitor had stopped."""
        output = super().load_finished(checkpoint)
        monitor = self.monitor()
        if monitor is not None:
            monitor.end(self.state.global_step, self.accelerator.unwrap_model(self.model))
            self._go_back()
        return output

    def _go_back(self) -> None:
        monitor = self.monitor()
        if monitor is not None and monitor.came_back_to is not None:
            self.state.global_step = monitor.came_back_to
            steps = of_kind(self.metrics_file.rows(), StepRow)
            self.last_step = next((row for row in reversed(steps) if row.step <= monitor.came_back_to), None)

    def after_step(self, grad_norm: float) -> None:
        """Show the monitor the step that was just written down."""
        monitor, step = self.monitor(), self.state.global_step
        if monitor is not None and self.last_step is not None and self.last_step.step == step > self._seen:
            self._seen = step
            # Before a checkpoint of this step is written, so that a resumed run finds these rows.
            model = self.accelerator.unwrap_model(self.model)
            self.control = monitor.see(self.last_step, self.state, self.control, self.args, model)
        super().after_step(grad_norm)
