"""`minordpo train`."""

from __future__ import annotations

from pathlib import Path

from minordpo.cli.command import Command, argument, flag


def _train(config: Path, overrides: list[str], resume: bool, dry_run: bool) -> None:
    from minordpo.config import load_config

    loaded = load_config(config, overrides)
    if dry_run:
        from minordpo.train.dry_run import estimate

        estimate.dry_run(loaded, resume=resume)
        return
    from minordpo.train.run import run

    run(loaded, resume=resume)


def _description() -> str:
    from minordpo.config import describe_config
    from minordpo.data.read.examples import describe_layouts
    from minordpo.objectives.describe import describe_objectives

    return (
        "Train as CONFIG.yaml says; the output folder gets the model, metrics.jsonl, samples.jsonl, probes.jsonl\n"
        "and figures/rewards.png. Several processes: torchrun --nproc_per_node N -m minordpo train CONFIG.yaml\n\n"
        f"data.train may be in any of these layouts, recognised by itself:\n{describe_layouts()}\n\n"
        f"The keys of CONFIG.yaml:\n\n{describe_config()}\n\n"
        "The objectives (objective.name); their hyper-parameters are keys of the same section, and weighted sums\n"
        f'are written objective.name="minordpo + 0.1*sft":\n\n{describe_objectives()}'
    )


COMMAND = Command(
    name="train",
    help="tune a model on preferences",
    description=_description,
    arguments=(
        argument("config", "the run's configuration", type=Path, metavar="CONFIG.yaml"),
        argument("overrides", "override a key", nargs="*", metavar="section.key=value"),
        flag("--resume", "go on with the run in the output folder"),
        flag("--dry-run", "check config, data, template and model; estimate time and memory"),
    ),
    run=_train,
    goes_on=lambda options: "go on with the same command and --resume",
)
