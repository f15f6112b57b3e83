"""Checkpoints written aside and renamed: one that has its name is whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import Trainer
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput, get_last_checkpoint, rotate_checkpoints

from minordpo.errors import InputError
from minordpo.train.adapters import load_adapter_weights

_ASIDE = ".writing"


class StagedCheckpoints(Trainer):
    """Mixin over `transformers.Trainer`: `_save_checkpoint` goes through a folder of its own."""

    _staging = False

    def find_checkpoint(self, resume: str | os.PathLike[str] | bool | None) -> Path | None:
        """The checkpoint to go on from: a named one, or with True the last whole one.

        Raises:
            InputError: there is none, it is damaged, or it lacks the optimizer's state.
        """
        if resume is None or resume is False:
            return None
        found = self._named_or_last(resume)
        _refuse_damaged(found)
        state = TrainerState.load_from_json(str(found / "trainer_state.json"))
        needed = self._needed_to_go_on(going_on=state.global_step < state.max_steps)
        lacking = [name for name in needed if not (found / name).exists()]
        if lacking:
            raise InputError(
                f"{found} lacks {' and '.join(lacking)}, as after training.save_only_model, so going on from it would "
                "not be the same run. Train anew under another output, or start from its weights by model.path"
            )
        return found

    def _needed_to_go_on(self, *, going_on: bool) -> list[str]:
        """What must be in a checkpoint; the Trainer starts a missing optimizer's state anew without a word."""
        if self.is_deepspeed_enabled:
            return []  # its engine reads its own folders, and fails where one is missing
        if not self.is_fsdp_enabled:
            return ["optimizer.pt", "scheduler.pt"] if going_on else []
        whole = "FULL" in str(self.accelerator.state.fsdp_plugin.state_dict_type)
        weights = "pytorch_model_fsdp.bin" if whole else "pytorch_model_fsdp_0"
        optimizer = "optimizer.bin" if whole else "optimizer_0"
        return [weights, optimizer, "scheduler.pt"] if going_on else [weights]

    def _named_or_last(self, resume: str | os.PathLike[str] | Literal[True]) -> Path:
        if isinstance(resume, str | os.PathLike):
            named = Path(resume)
            if not re.fullmatch(r"checkpoint-\d+", named.name) or not (named / "trainer_state.json").exists():
                raise InputError(f"{resume} is no checkpoint. Name a folder checkpoint-N")
            return named
        folder = self.args.output_dir or ""
        found = get_last_checkpoint(folder) if os.path.isdir(folder) else None
        if found is None:
            raise InputError(f"{folder} holds no checkpoint to resume from")
        return Path(found)

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, _ASIDE) if self._staging else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial))
        aside = folder / _ASIDE
        name = f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise  # of torch's runtime errors only its file writer's say that a disk is full
            shutil.rmtree(aside, ignore_errors=True)
            said = getattr(error, "strerror", None) or "the disk seems to be full"
            raise InputError(
                f"{folder / name} cannot be written: {said}. Free some space, then go on with --resume"
            ) from error
        finally:
            self._staging = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._point_at_final_names(aside / name, folder)
            _sync_to_disk(aside / name)
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(aside / name, folder / name)
            shutil.rmtree(aside, ignore_errors=True)
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if isinstance(self.model, PeftModel) and not self.is_fsdp_enabled:
            load_adapter_weights(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def load_finished(self, checkpoint: Path) -> TrainOutput:
        """Weights and state of a run that had taken its last step; the Trainer's own resumption may take another."""
        model: Any = self.model
        model.to(self.args.device)  # one that is to be sharded is not there yet, and stays whole here
        self._load_from_checkpoint(str(checkpoint))
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()
        return TrainOutput(self.state.global_step, float("nan"), {})

    def _load_best_model(self) -> None:
        # The Trainer would load the weights into the first active adapter, which is a frozen one below; under FSDP it
        # loads every trainable weight by its name.
        best = self.state.best_model_checkpoint
        if isinstance(self.model, PeftModel) and best is not None and not self.is_fsdp_enabled:
            load_adapter_weights(self.model, Path(best))
        else:
            super()._load_best_model()

    def _point_at_final_names(self, written: Path, folder: Path) -> None:
        """The best checkpoint was looked for where this one was being written."""
        if self.state.best_global_step:
            best = folder / f"checkpoint-{self.state.best_global_step}"
            if best.exists() or best.name == written.name:
                self.state.best_model_checkpoint = str(best)
            state = TrainerState.load_from_json(str(written / "trainer_state.json"))
            state.best_model_checkpoint = self.state.best_model_checkpoint
            state.save_to_json(str(written / "trainer_state.json"))


def _refuse_damaged(folder: Path) -> None:
    """Whether every file can be opened for what it is; reads no weights."""
    for file in sorted(folder.iterdir()):
        try:
            if file.name in ("trainer_state.json", "config.json", "adapter_config.json"):
                json.loads(file.read_text(encoding="utf-8"))
            elif file.suffix == ".safetensors":
                with safe_open(file, framework="pt"):
                    pass
            elif file.suffix in (".pt", ".pth", ".bin"):
                zipfile.ZipFile(file).close()
        except (OSError, ValueError, SafetensorError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{file} is damaged ({error}). Remove {folder}; --resume then goes on from the checkpoint before it, "
                "or from the start"
            ) from error
    if not (folder / "trainer_state.json").exists():
        raise InputError(
            f"{folder} lacks trainer_state.json. Remove it; --resume then goes on from the one before"
        )
    # FSDP and DeepSpeed keep weights in folders of their own.
    if not any(each.suffix == ".safetensors" or each.is_dir() for each in folder.iterdir()):
        raise InputError(f"{folder} holds no weights. Remove it; --resume then goes on from the one before")


def _sync_to_disk(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
