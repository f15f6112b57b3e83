"""`minordpo train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minordpo.cli.command import ALLOW_CODE, argument, command, flag


def _parts() -> dict[str, str]:
    from minordpo.config import describe_keys
    from minordpo.data.read.recognise import describe_layouts
    from minordpo.objectives.describe import describe_objectives

    return {"layouts": describe_layouts(), "keys": describe_keys(), "objectives": describe_objectives()}


@command(
    "tune a model on preferences",
    argument("config", "the run's configuration", type=Path, metavar="CONFIG.yaml"),
    argument("overrides", "override a key", nargs="*", metavar="section.key=value"),
    flag("--resume", "go on with the run in the output folder"),
    flag("--dry-run", "check config, data, template and model; estimate time and memory"),
    ALLOW_CODE,
    parts=_parts,
    goes_on=lambda options: "go on with the same command and --resume",
)
def train(config: Path, overrides: list[str], dry_run: bool, **options: Any) -> None:
    """Train as CONFIG.yaml says; the output folder gets the model, metrics.jsonl, samples.jsonl, probes.jsonl
    and figures/rewards.png. Several processes: torchrun --nproc_per_node N -m minordpo train CONFIG.yaml

    data.train may be in any of these layouts, recognised by itself:
    <layouts>

    The keys of CONFIG.yaml:

    <keys>

    The objectives (objective.name); their hyper-parameters are keys of the same section, and weighted sums
    are written objective.name="minordpo + 0.1*sft":

    <objectives>
    """
    from minordpo.config import load_config

    loaded = load_config(config, overrides)
    if dry_run:
        from minordpo.train.dry_run import estimate

        estimate.dry_run(loaded, **options)
        return
    from minordpo.train.run import run

    run(loaded, **options)
