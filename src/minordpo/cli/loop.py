"""`minordpo loop`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from minordpo.cli.command import argument, command, flag


def _parts() -> Mapping[str, str]:
    from minordpo.config.schema import describe_keys
    from minordpo.onpolicy.loop.config import LoopConfig

    return {"keys": describe_keys(LoopConfig)}


@command(
    "rounds of own answers, pairs, training and questions",
    argument("config", type=Path, metavar="LOOP.yaml"),
    argument(
        "overrides",
        "keys set over LOOP.yaml, as rounds=3 or run.objective.beta=0.05",
        nargs="*",
        metavar="key=value",
    ),
    flag("--dry-run", "say what the loop will take, and run nothing"),
    flag(
        "--allow-code",
        "run the code that LOOP.yaml names: an objective or verifier module:function, or command:…",
    ),
    parts=_parts,
    goes_on=lambda options: "" if options["dry_run"] else "the same command goes on",
)
def loop(config: Path, overrides: list[str], dry_run: bool, allow_code: bool) -> None:
    """Make a model better by its own answers, in rounds: the model answers prompts, a verifier scores the answers,
    a better and a worse answer make a pair, the pairs train the model, questions that were held out say what came of
    it, and the next round starts from there.

    The output folder gets, for each round N, prompts/round-N.jsonl, pairs/round-N.jsonl (with every answer beside it)
    and the run folder round-N; further evaluation/, loop.json, loop.csv and loop.png. The same command goes on where
    it was stopped; with more rounds it goes on from the last one.

    The keys of LOOP.yaml:

    <keys>

    Examples:
      minordpo loop recipes/loops/gsm8k.yaml --dry-run
      minordpo loop recipes/loops/gsm8k.yaml rounds=3 output=runs/loop
    """
    from minordpo.onpolicy.loop.config import load_loop
    from minordpo.onpolicy.loop.cost import estimate
    from minordpo.onpolicy.loop.loop import loop as run_loop

    read = load_loop(config, overrides)
    if dry_run:
        print(estimate(read, allow_code=allow_code))
        return
    folder = run_loop(read, allow_code=allow_code)
    print(f"{folder}: loop.csv, loop.png, and a run folder a round")
