"""Checkpoints written aside and renamed: one that has its name is whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import TrainOutput, get_last_checkpoint, rotate_checkpoints

from minordpo.errors import InputError
from minordpo.run_folder.files import sync
from minordpo.train.hooks import HookedTrainer
from minordpo.train.refusals import refuse_first

_ASIDE = ".writing"


class StagedCheckpoints(HookedTrainer):
    """A Trainer whose checkpoints are written in a folder of their own first."""

    _staging = False

    def find_checkpoint(self, resume: str | os.PathLike[str] | bool | None) -> Path | None:
        """The checkpoint to go on from: a named one, or with True the last whole one.

        Raises:
            InputError: there is none, it is damaged, or it lacks the optimizer's state.
        """
        if resume is None or resume is False:
            return None
        if isinstance(resume, str | os.PathLike):
            found = Path(resume)
            whole = re.fullmatch(r"checkpoint-\d+", found.name) and (found / "trainer_state.json").exists()
            refuse_first({"no_checkpoint": not whole}, given=resume)
        else:
            folder = self.args.output_dir or ""
            last = get_last_checkpoint(folder) if os.path.isdir(folder) else None
            refuse_first({"nothing_to_resume": last is None}, folder=folder)
            found = Path(str(last))
        _refuse_damaged(found)
        state = TrainerState.load_from_json(str(found / "trainer_state.json"))
        needed = self._needed_to_go_on(going_on=state.global_step < state.max_steps)
        lacking = [name for name in needed if not (found / name).exists()]
        refuse_first({"checkpoint_lacks": lacking}, checkpoint=found, lacking=" and ".join(lacking))
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

    def checkpoints_folder(self, given: str) -> str:
        """The folder that a checkpoint is staged in while it is written."""
        return os.path.join(given, _ASIDE) if self._staging else given

    def write_checkpoint(self, write: Callable[[], None]) -> None:
        """Stage the checkpoint in a folder of its own, and rename it once it is whole.

        Raises:
            InputError: the checkpoint cannot be written.
        """
        folder = Path(self.args.output_dir or "")
        aside = folder / _ASIDE
        name = f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._staging = True
        try:
            write()
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
            sync(aside / name)
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

    def load_weights(self, checkpoint: Path) -> bool:
        """Load the trained adapter from a checkpoint; False where every weight is trained, or FSDP loads by name."""
        if not isinstance(self.model, PeftModel) or self.is_fsdp_enabled:
            return False
        weights = load_file(checkpoint / "adapter_model.safetensors")
        set_peft_model_state_dict(self.model, weights, adapter_name=self.model.active_adapter)
        return True

    def load_finished(self, checkpoint: Path) -> TrainOutput:
        """Weights and state of a run that had taken its last step; the Trainer's own resumption may take another."""
        model: Any = self.model
        model.to(self.args.device)  # one that is to be sharded is not there yet, and stays whole here
        self.load_checkpoint(checkpoint)
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self.load_best()
        return TrainOutput(self.state.global_step, float("nan"), {})

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
    # FSDP and DeepSpeed keep weights in folders of their own.
    weights = any(each.suffix == ".safetensors" or each.is_dir() for each in folder.iterdir())
    lacks_state = not (folder / "trainer_state.json").exists()
    refuse_first({"no_state": lacks_state, "no_weights": not weights}, checkpoint=folder)
