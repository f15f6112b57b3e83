"""One progress bar for a run: step, time left, loss and log-ratios as they are."""

from __future__ import annotations

from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer

from minordpo.run_folder.records import LOGPS, LOGRATIOS, LOSS


def show_progress(trainer: Trainer) -> None:
    """Replace the Trainer's own bar, which prints a line of numbers each step."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(_Bar())


class _Bar(ProgressCallback):
    training_bar: Any

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.current_step = state.global_step
        if self.training_bar is not None:
            self.training_bar.unit = "step"
            self.training_bar.initial = self.training_bar.n = state.global_step
            self.training_bar.set_description("training")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and logs and LOSS in logs:
            kind = LOGRATIOS if any(name.startswith(f"{LOGRATIOS}/") for name in logs) else LOGPS
            values = [
                f"{side} {logs[f'{kind}/{side}']:+.1f}"
                for side in ("chosen", "rejected")
                if f"{kind}/{side}" in logs
            ]
            what = "log-ratio" if kind == LOGRATIOS else "log-prob"
            self.training_bar.set_postfix_str(f"loss {logs[LOSS]:.3f}, {what} {' '.join(values)} nats")
