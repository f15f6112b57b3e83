"""The trained weights of a moment, kept in one file to go back to."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate.utils import broadcast, broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from minordpo.errors import InputError
from minordpo.run_folder.files import sync, written_whole


def keep_trainable(model: nn.Module, file: Path, *, step: int) -> None:
    """Write the trainable weights in place of those kept before, whole or not at all.

    Raises:
        InputError: they cannot be written.
    """
    weights = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    with written_whole(file) as aside:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_file(weights, aside, metadata={"step": str(step)})
        except SafetensorError as error:  # its words for a full disk
            raise OSError(str(error)) from error
        sync(aside)


def bring_back(model: nn.Module, file: Path, *, main: bool) -> int:
    """Put the kept weights into the model, on every process; the step they are of. Only the main one reads the file.

    Raises:
        InputError: they cannot be read, or are of another model.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = [_read_into(trained, file) if main else 0]
    broadcast_object_list(found)
    broadcast([parameter.data for parameter in trained.values()])
    return found[0]


def _read_into(trained: dict[str, nn.Parameter], file: Path) -> int:
    try:
        with safe_open(file, framework="pt") as kept, torch.no_grad():
            if set(kept.keys()) != set(trained):
                raise InputError(
                    f"{file} holds the weights of another model. Remove it and start the run anew"
                )
            for name, parameter in trained.items():
                parameter.copy_(kept.get_tensor(name))
            return int(kept.metadata()["step"])
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{file}, the last sound weights, cannot be read ({error}). Go on with --resume from a checkpoint before "
            "the collapse (remove the later ones), or start the run anew"
        ) from error
