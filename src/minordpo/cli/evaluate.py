"""`minordpo evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minordpo.cli.command import DTYPE, argument, command, flag
from minordpo.evaluate.known_tasks import tasks_in_words


@command(
    "accuracy, format and loops of models on questions",
    argument("models", "run folder, model folder, adapter folder or hub id", nargs="+", metavar="MODEL"),
    argument(
        "--task",
        lambda: f"{tasks_in_words()}, or a .jsonl, .json or .parquet file with questions and answers",
        required=True,
        metavar="TASK",
    ),
    argument("--n", "ask so many questions (default: all; of a generator 200)", type=int),
    argument("--seed", "which questions, and which samples (default 0)", default=0),
    argument("--out", "keep answers and results here", type=Path, metavar="DIR"),
    argument("--reference", "model to measure the answers' log-ratios against", metavar="REF"),
    argument(
        "--samples",
        "also draw N answers a question: pass@k, votes, and with --reference KL and best of k (default 0)",
        default=0,
        metavar="N",
    ),
    argument("--max-new-tokens", "longest answer (default 512)", default=512, metavar="N"),
    argument("--batch-size", "answers at a time, at most (default 32, on a GPU 128)", type=int, metavar="N"),
    argument(
        "--temperature",
        "of the samples (default 1); without --samples draw the one answer at it (default 0: greedy)",
        type=float,
        metavar="T",
    ),
    argument(
        "--prompt",
        "prompt with {question} in it (default: the MinorDPO paper's)",
        metavar="TEXT",
        default=argparse.SUPPRESS,
    ),
    flag("--plain-text", "ask without a chat template"),
    DTYPE,
    goes_on=lambda options: "" if options["out"] is None else "the same command goes on",
)
def evaluate(models: list[str], out: Path | None, batch_size: int | None, **options: Any) -> None:
    """Ask every MODEL the same questions and compare the others with the first. Answers are read twice: by the
    asked line "So the answer is: 42", strictly, and by the last number. Tells accuracy with 95 % intervals, the
    share in the asked format, repetition, loops, how many end by themselves, length, accuracy by the steps of
    the reference solution, exact paired tests, and an answer of each kind. docs/evaluate.md has the rules.

    --out DIR keeps every answer as it comes (DIR/MODEL/answers.jsonl, samples.jsonl), results.json and
    results.md, with --samples and --reference also reward against KL as a figure (kl.png, kl.svg); the same
    command goes on where it was stopped.

    Examples:
      minordpo evaluate base runs/dpo runs/minordpo --task gsm8k --out evaluation
      minordpo evaluate runs/first --task problems --n 50 --max-new-tokens 256
      minordpo evaluate base runs/minordpo --task gsm8k --n 200 --samples 8 --reference base --out evaluation
    """
    from minordpo.evaluate.evaluation import EvaluationConfig, evaluate
    from minordpo.evaluate.kl_plot import kl_figure
    from minordpo.evaluate.tables import examples, table
    from minordpo.run_folder import names

    results = evaluate(models, EvaluationConfig(**options), out=out, batch_size=batch_size)
    print(f"{examples(results)}\n\n{table(results)}")
    if out is not None:
        figure = (
            ", reward against KL as kl.png and kl.svg" if kl_figure(results, out / names.KL_FIGURE) else ""
        )
        print(f"\n{out}: results.md, results.json and every answer{figure}")
