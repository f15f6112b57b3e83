"""The same small runs in one process or in several: `fork_ranks("helpers.distributed_runs:main", FOLDER, …)`.

Each writes FOLDER/<name>/metrics.jsonl and, by the first process, its weights before and after.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors.torch import save_file

from helpers.tiny_runs import token_pairs, trainer
from minordpo import cli

PER_STEP = 8  # pairs, over all processes

# 7 pairs a step; then 9 pairs in steps of 8 and 1, in which one process has nothing but a row of weight 0
RUNS: dict[str, dict[str, Any]] = {
    "sgd": {
        "pairs": 7,
        "held_out": 1,
        "optim": "sgd",
        "max_steps": 1,
        "learning_rate": 0.1,
        "max_grad_norm": 0.0,
    },
    # A tiny gradient is mostly rounding, which Adam would blow up to a whole step: its epsilon is raised.
    "adamw": {"pairs": 9, "held_out": 3, "token_budget": 60, "max_steps": 3, "adam_epsilon": 1e-4},
    "adapter": {"pairs": 9, "held_out": 0, "max_steps": 2, "adam_epsilon": 1e-4},
    # Whose baseline is the whole step's, and whose draws are each pair's own, wherever it runs.
    "kto": {
        "objective": "kto",
        "pairs": 9,
        "held_out": 3,
        "token_budget": 60,
        "max_steps": 3,
        "undesirable_weight": 0.1,  # so that responses get likelier after any prompt: a baseline above 0
        "adam_epsilon": 1e-4,
    },
    "cringe": {
        "objective": "pairwise_cringe",
        "pairs": 9,
        "held_out": 3,
        "max_steps": 2,
        "adam_epsilon": 1e-4,
    },
}


def run(folder: Path, name: str, *, world: int) -> None:
    settings = dict(RUNS[name])
    pairs = token_pairs(settings["pairs"] + settings.pop("held_out"))
    held_out = pairs[settings["pairs"] :]
    made = trainer(
        folder / name,
        pairs=pairs[: settings.pop("pairs")],
        eval_dataset=held_out or None,
        objective=settings.pop("objective", "dpo"),
        per_device_train_batch_size=PER_STEP // world,
        lr_scheduler_type="constant",
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if name == "adapter" else None,
        cache=folder / "cache",
        ddp_backend="gloo" if world > 1 else None,
        **settings,
    )
    made.train()
    if held_out:
        made.evaluate()
    if made.is_world_process_zero():
        trained = {n: p.detach().clone() for n, p in made.model.named_parameters() if p.requires_grad}
        save_file(trained, folder / f"{name}.safetensors")


def main(target: Path) -> int:
    """All runs, as one of two processes; and a whole one by the command line."""
    processes = int(os.environ["WORLD_SIZE"])
    for each in RUNS:
        run(target, each, world=processes)
    return cli.main(["train", str(target / "config.yaml")])
