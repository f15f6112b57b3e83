"""Small runs with FSDP2 in two processes: `fork_ranks("helpers.sharded_runs:main", FOLDER, …)`.

FSDP2 itself shards on a CPU, but accelerate (1.15) turns it on for GPUs and their like only, so `shard_on_cpu` does for
a CPU what accelerate does for a GPU. All else is theirs and ours as it stands.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, gather_object
from peft import LoraConfig
from safetensors.torch import save_file

from helpers.tiny_runs import tiny_model, token_pairs, trainer
from minordpo import cli
from minordpo.train.sharding import whole_weights

PER_STEP = 8  # pairs, over all processes
ADAPTER = {"r": 4, "target_modules": ["q_proj", "v_proj"]}

# What the first argument of `tiny_model` and the trainer get; 9 pairs in steps of 8 and 1, as in distributed_runs.
RUNS: dict[str, dict[str, Any]] = {
    "whole": {},
    "untied": {
        "model": {"tie_word_embeddings": False},
        "max_grad_norm": 0.0,
        "optim": "sgd",
        "learning_rate": 0.1,
    },
    "cringe": {"objective": "pairwise_cringe"},
    "adapter": {"lora": True, "objective": "kto"},
    "bfloat16": {"bf16": True},
    "bfloat16_base": {"lora": True, "bf16": True, "dtype": "bfloat16"},
    # The largest loss is called the best, so that an early step's weights are what the run ends with.
    "best_adapter": {
        "lora": True,
        "learning_rate": 1e-2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": True,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
    },
    "checkpointing": {"fsdp": {"activation_checkpointing": True}},
}


def shard_on_cpu() -> None:
    """Let accelerate take FSDP on where its processes have no GPU."""
    stock = AcceleratorState.__init__

    def init(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **keywords: Any) -> None:
        stock(self, *args, fsdp_plugin=fsdp_plugin, **keywords)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)
            self.fsdp_plugin = fsdp_plugin
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init  # type: ignore[method-assign]


def run(folder: Path, name: str, *, world: int) -> None:
    """One run; what it ends with is in FOLDER/<name>.safetensors, what each process holds in FOLDER/<name>.json."""
    settings = dict(RUNS[name])
    fsdp = {"version": 2, **settings.pop("fsdp", {})}
    model = tiny_model(**settings.pop("model", {})).to(getattr(torch, settings.pop("dtype", "float32")))
    pairs = token_pairs(12)
    settings = {"max_steps": 3, "adam_epsilon": 1e-4, **settings}
    if world > 1:
        settings |= {"fsdp": True, "fsdp_config": fsdp, "ddp_backend": "gloo"}
    made = trainer(
        folder / name,
        model=model,
        pairs=pairs[:9],
        eval_dataset=pairs[9:],
        objective=settings.pop("objective", "dpo"),
        peft_config=LoraConfig(**ADAPTER) if settings.pop("lora", False) else None,
        per_device_train_batch_size=PER_STEP // world,
        lr_scheduler_type="constant",
        token_budget=60,
        cache=folder / "cache",
        **settings,
    )
    made.train()
    made.evaluate()
    weights = whole_weights(made.model, made.accelerator)
    trained = [p for group in made.optimizer.param_groups for p in group["params"]]
    held = [sum(getattr(p, "_local_tensor", p).numel() for p in trained)]
    held = gather_object(held) if world > 1 else held
    if made.is_world_process_zero():
        weights = made.model.state_dict() if weights is None else weights
        names = {
            n.replace("_checkpoint_wrapped_module.", "")
            for n, p in made.model.named_parameters()
            if p.requires_grad
        }
        save_file({n: weights[n].clone() for n in names}, folder / f"{name}.safetensors")
        facts = {"held": held, "all": sum(p.numel() for p in trained), "kind": type(made.model).__name__}
        (folder / f"{name}.json").write_text(json.dumps(facts))


def command(folder: Path, name: str) -> None:
    """A whole run by the command line; then its second half again; then its end alone, without a step."""
    made = folder / name
    for kept, then_lost in (
        ("whole", ("model", "figures", "checkpoints/checkpoint-4")),
        ("resumed", ("model", "figures")),
        ("ended", ()),
    ):
        again = () if kept == "whole" else ("--resume",)
        assert cli.main(["train", str(folder / f"{name}.yaml"), *again]) == 0
        torch.distributed.barrier()
        if not torch.distributed.get_rank():
            shutil.copytree(made, folder / f"{name}-{kept}")
            for each in then_lost:
                shutil.rmtree(made / each)
        torch.distributed.barrier()


def main(target: Path) -> None:
    """All runs, as one of two processes."""
    shard_on_cpu()
    processes = int(os.environ["WORLD_SIZE"])
    for each in [*RUNS, *sorted(each.stem for each in target.glob("*.yaml"))]:
        if each in RUNS:
            run(target, each, world=processes)
        else:
            command(target, each)
