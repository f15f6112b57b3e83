"""One progress bar for a run: step, time left, loss and log-ratios as they are."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.training_args import TrainingArguments

from minordpo.run_folder.records import LOGPS, LOGRATIOS, LOSS


def show_progress(trainer: Trainer) -> None:
    """Replace the Trainer's own bar, which prints a line of numbers each step."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_Bar())


class _Bar(TrainerCallback):
    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and not args.disable_tqdm:
            self._bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._bar is not None and logs and LOSS in logs:
            kind = LOGRATIOS if any(name.startswith(f"{LOGRATIOS}/") for name in logs) else LOGPS
            values = [
                f"{side} {logs[f'{kind}/{side}']:+.1f}"
                for side in ("chosen", "rejected")
                if f"{kind}/{side}" in logs
            ]
            what = "log-ratio" if kind == LOGRATIOS else "log-prob"
            self._bar.set_postfix_str(f"loss {logs[LOSS]:.3f}, {what} {' '.join(values)} nats")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()
