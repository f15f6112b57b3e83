"""What a run ran on, for environment.json: versions, machine, digests of data and weights."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import xxhash

from minordpo.train.trainer import PreferenceTrainer
from minordpo.version import __version__


def environment(trainer: PreferenceTrainer) -> dict[str, Any]:
    """The facts of a run that is about to start."""
    digest = xxhash.xxh3_128()  # of every token and mask
    for examples in (trainer.examples, trainer.held_out):
        digest.update(examples.keys.tobytes())
    packages = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "numpy")
    return {
        "minordpo": __version__,
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "pairs": len(trainer.examples),
        "held_out_pairs": len(trainer.held_out),
        "data_digest": digest.hexdigest(),
        "weights_digest": trainer.initial_weights.run,
        "command": " ".join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv)),
    }
