"""`minordpo data`: sample, problems, corrupt, symbolic."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minordpo.cli.command import CommandGroup, argument, command, flag
from minordpo.cli.sample import sample

_OTHER_PROBLEMS = argument("--seed", "another seed, other problems (default 0)", default=0)
_OVERWRITE = flag("--overwrite", "replace OUT if it exists")
_SIZES = {"sft": 20000, "pairs": 3000, "held_out": 96, "validation": 256, "test": 512}


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(",") if each.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 10,20,48") from None


@command(
    "worked word problems, seeded",
    argument("out", type=Path, metavar="OUT.jsonl"),
    argument("--n", "how many (default 1000)", default=1000),
    _OTHER_PROBLEMS,
    _OVERWRITE,
)
def problems(out: Path, n: int, **options: Any) -> None:
    """Write word problems with worked solutions in GSM8K's format, made from some two dozen templates."""
    from minordpo.data.make.problems import write_problems

    write_problems(out, n=n, **options)
    print(f"{out}: {n} problems")


@command(
    "close pairs from worked solutions",
    argument("source", type=Path, metavar="IN"),
    argument("out", type=Path, metavar="OUT.jsonl"),
    argument("--seed", "which result changes, and to what (default 0)", default=0),
    argument(
        "--ending",
        "the last line of both responses (default %(default)r)",
        default="So the answer is: {answer}",
    ),
    flag("--propagate", "carry the changed number through the later steps and the answer"),
    flag("--text", "plain text columns instead of chat messages", action="store_false", dest="chat"),
    _OVERWRITE,
)
def corrupt(source: Path, out: Path, **options: Any) -> None:
    """Make close pairs, as the MinorDPO paper trains on: chosen is the worked solution, rejected the same with
    one non-final result changed. IN has a question and a solution a row, with results marked <<48/2=24>> as in
    GSM8K or written as plain "a + b = c" steps.
    """
    from minordpo.data.make.close_pairs import corrupt_file

    print(corrupt_file(source, out, **options))


@command(
    "easy problems in two styles: teach one, then tune on pairs of the other",
    argument("folder", type=Path, metavar="DIR"),
    *(
        argument(
            f"--{part.replace('_', '-')}",
            f"problems of it (default {count})",
            default=count,
            metavar="N",
        )
        for part, count in _SIZES.items()
    ),
    argument(
        "--templates",
        "numbers of the templates to draw from, for a smaller model or fewer hours (default: the 17 easy ones)",
        type=_numbers,
        default=argparse.SUPPRESS,
        metavar="N,N,...",
    ),
    _OTHER_PROBLEMS,
    flag("--overwrite", "replace files that exist"),
)
def symbolic(folder: Path, **options: Any) -> None:
    """Write to DIR what an experiment on accuracy with a small model needs, from easy templates of gsm_symbolic
    (extra symbolic). sft.jsonl, to be imitated first, answers in bare equations. pairs.jsonl and held_out.jsonl
    are close pairs: solutions worked in sentences, the rejected one with a non-final result changed.
    validation.jsonl and test.jsonl are questions for `minordpo evaluate --task FILE`. No sums of one file occur
    in another. For recipes/smollm2-sft-symbolic.yaml and recipes/paper/smollm2-accuracy.yaml.
    """
    from minordpo.data.make.symbolic import write_symbolic

    sizes = {part: options.pop(part) for part in _SIZES}
    for part, file in write_symbolic(folder, sizes, **options).items():
        print(f"{file}: {sizes[part]} problems")


DATA = CommandGroup(
    name="data",
    help="make data: a model's own answers, worked problems, close pairs",
    description="Make data to train on.",
    metavar="KIND",
    commands=(sample, problems, corrupt, symbolic),
)
