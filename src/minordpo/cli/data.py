"""`minordpo data`: the arguments of its kinds. What is slow to import is imported when one runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what each kind does and takes."""
    kinds = parser.add_subparsers(required=True, metavar="KIND")
    _add_problems(kinds)
    _add_corrupt(kinds)
    _add_symbolic(kinds)


def _kind(kinds: Any, name: str, help: str, description: str) -> argparse.ArgumentParser:
    return kinds.add_parser(
        name, help=help, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


# ---- problems ----
def _add_problems(kinds: Any) -> None:
    parser = _kind(
        kinds,
        "problems",
        "worked word problems, seeded",
        "Write word problems with worked solutions in GSM8K's format, made from some two dozen templates.",
    )
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--n", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other problems (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.set_defaults(run=_problems)


def _problems(arguments: argparse.Namespace) -> None:
    from minordpo.data.make.problems import write_problems

    write_problems(arguments.out, n=arguments.n, seed=arguments.seed, overwrite=arguments.overwrite)
    print(f"{arguments.out}: {arguments.n} problems")


# ---- corrupt ----
def _add_corrupt(kinds: Any) -> None:
    parser = _kind(
        kinds,
        "corrupt",
        "close pairs from worked solutions",
        "Make close pairs, as the MinorDPO paper trains on: chosen is the worked solution, rejected the same with\n"
        "one non-final result changed. IN has a question and a solution a row, with results marked <<48/2=24>> as in\n"
        'GSM8K or written as plain "a + b = c" steps.',
    )
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--seed", type=int, default=0, help="which result changes, and to what (default 0)")
    parser.add_argument(
        "--ending",
        default="So the answer is: {answer}",
        help="the last line of both responses (default %(default)r)",
    )
    parser.add_argument(
        "--propagate",
        action="store_true",
        help="carry the changed number through the later steps and the answer",
    )
    parser.add_argument("--text", action="store_true", help="plain text columns instead of chat messages")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.set_defaults(run=_corrupt)


def _corrupt(arguments: argparse.Namespace) -> None:
    from minordpo.data.make.close_pairs import corrupt_file

    report = corrupt_file(
        arguments.source,
        arguments.out,
        seed=arguments.seed,
        ending=arguments.ending,
        propagate=arguments.propagate,
        chat=not arguments.text,
        overwrite=arguments.overwrite,
    )
    print(report)


# ---- symbolic ----
def _add_symbolic(kinds: Any) -> None:
    parser = _kind(
        kinds,
        "symbolic",
        "easy problems in two styles: teach one, then tune on pairs of the other",
        "Write to DIR what an experiment on accuracy with a small model needs, from easy templates of gsm_symbolic\n"
        "(extra symbolic). sft.jsonl, to be imitated first, answers in bare equations. pairs.jsonl and held_out.jsonl\n"
        "are close pairs: solutions worked in sentences, the rejected one with a non-final result changed.\n"
        "validation.jsonl and test.jsonl are questions for `minordpo evaluate --task FILE`. No sums of one file occur\n"
        "in another. For recipes/smollm2-sft-symbolic.yaml and recipes/sweeps/paper-smollm2-accuracy.yaml.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR")
    for part, count in (
        ("sft", 20000),
        ("pairs", 3000),
        ("held-out", 96),
        ("validation", 256),
        ("test", 512),
    ):
        parser.add_argument(
            f"--{part}", type=int, default=count, metavar="N", help=f"problems of it (default {count})"
        )
    parser.add_argument(
        "--templates",
        type=_numbers,
        metavar="N,N,...",
        help="numbers of the templates to draw from, for a smaller model or fewer hours (default: the 17 easy ones)",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, other problems (default 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.set_defaults(run=_symbolic)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(",") if each.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 10,20,48") from None


def _symbolic(arguments: argparse.Namespace) -> None:
    from minordpo.data.make.symbolic import EASY, PARTS, write_symbolic

    sizes = {part: getattr(arguments, part) for part in PARTS}
    files = write_symbolic(
        arguments.folder,
        sizes,
        seed=arguments.seed,
        templates=EASY if arguments.templates is None else arguments.templates,
        overwrite=arguments.overwrite,
    )
    for part, file in files.items():
        print(f"{file}: {sizes[part]} problems")
