"""The private methods of `transformers.Trainer` that this package overrides or calls: all of them stand here.

Each override hands over to a public method, so that the rest of the package names none of them. A release of
transformers may change a private method without a word: `tests/train/test_hooks.py` compares every signature with the
one that is written down here, and pyproject.toml bounds transformers by the version that was tested.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer

# Parameters after `self`, as transformers 5.17 to 5.23 have them.
OVERRIDDEN: dict[str, tuple[str, ...]] = {
    "_get_output_dir": ("trial",),
    "_load_best_model": (),
    "_load_from_checkpoint": ("resume_from_checkpoint", "model"),
    "_maybe_log_save_evaluate": (
        *("tr_loss", "grad_norm", "model", "trial", "epoch", "ignore_keys_for_eval", "start_time"),
        "learning_rate",
    ),
    "_save_checkpoint": ("model", "trial"),
}
CALLED: dict[str, tuple[str, ...]] = {"_get_learning_rate": ()}
ACCELERATE_CALLED: dict[str, tuple[str, ...]] = {
    "_set_sync_gradients": ("sync_gradients",)
}  # of GradientState


class HookedTrainer(Trainer):
    """`transformers.Trainer` with public methods in place of its private hooks; by itself it behaves as the Trainer."""

    def after_step(self, grad_norm: float) -> None:
        """Called once the optimizer has stepped, before the step is logged, saved or evaluated."""

    def checkpoints_folder(self, given: str) -> str:
        """The folder that checkpoints are written to; `given` is the Trainer's."""
        return given

    def write_checkpoint(self, write: Callable[[], None]) -> None:
        """Have the Trainer write a checkpoint by `write`."""
        write()

    def load_weights(self, checkpoint: Path) -> bool:
        """Load a checkpoint's weights; False leaves that to the Trainer."""
        return False

    @property
    def learning_rate_now(self) -> float:
        """The rate of the step that is being taken."""
        return self._get_learning_rate()

    def sync_gradients(self, last: bool) -> None:
        """Say whether gradients meet those of other ranks after this row."""
        self.accelerator.gradient_state._set_sync_gradients(last)

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: Any, *args: Any, **kwargs: Any
    ) -> None:
        self.after_step(float("nan") if grad_norm is None else float(grad_norm))
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return self.checkpoints_folder(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.write_checkpoint(lambda: super(HookedTrainer, self)._save_checkpoint(model, trial))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if not self.load_weights(Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def load_checkpoint(self, checkpoint: Path) -> None:
        """Load a checkpoint's weights into the model, as resuming does."""
        self._load_from_checkpoint(str(checkpoint))

    def _load_best_model(self) -> None:
        # The Trainer would load the weights into the first active adapter, which may be a frozen one.
        best = self.state.best_model_checkpoint
        if best is None or not self.load_weights(Path(best)):
            super()._load_best_model()

    def load_best(self) -> None:
        """Load the weights of the best checkpoint."""
        self._load_best_model()
