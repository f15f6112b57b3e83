"""`minordpo evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minordpo.cli.command import DTYPE, argument, command, flag
from minordpo.cli.verifying import ALLOW_VERIFIER_CODE, take_verifier, verifier_options, verify_argument
from minordpo.evaluate.known_tasks import tasks_in_words


@command(
    "accuracy, format and loops of models on questions, or what a verifier says of their answers",
    argument("models", "run folder, model folder, adapter folder or hub id", nargs="+", metavar="MODEL"),
    argument(
        "--task",
        lambda: (
            f"{tasks_in_words()}, or a .jsonl, .json, .parquet or .csv file with questions and right numbers; with "
            "--verify with any prompts: prompt (text or messages), messages or question, and an answer if need be"
        ),
        required=True,
        metavar="TASK",
    ),
    verify_argument(required=False, otherwise=" (default: answers are read as numbers)"),
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
        "prompt with {question} in it (default: the MinorDPO paper's; with --verify the question alone, where a right "
        "answer is no number)",
        metavar="TEXT",
        default=argparse.SUPPRESS,
    ),
    flag("--plain-text", "ask without a chat template"),
    *verifier_options(),
    DTYPE,
    ALLOW_VERIFIER_CODE,
    goes_on=lambda options: "" if options["out"] is None else "the same command goes on",
)
def evaluate(
    models: list[str],
    verify: str | None,
    allow_code: bool,
    out: Path | None,
    batch_size: int | None,
    **options: Any,
) -> None:
    """Ask every MODEL the same questions and compare the others with the first. Answers are read twice: by the
    asked line "So the answer is: 42", strictly, and by the last number. Tells accuracy with 95 % intervals, the
    share in the asked format, repetition, loops, how many end by themselves, length, accuracy by the steps of
    the reference solution, exact paired tests, and an answer of each kind. docs/evaluate.md has the rules.

    With --verify V a verifier scores every answer, and the questions may be of any kind. Tells the mean score and the
    share that passes, and on how many questions each further MODEL is better, the same or worse than the first. A
    judge with --judge-mode pairwise compares each further MODEL's answer with the first one's, both ways round. Where
    the right answers are numbers, what is read from the answers is told beside. docs/verify.md has the verifiers.

    --out DIR keeps every answer and verdict as it comes (DIR/MODEL/answers.jsonl, samples.jsonl, verdicts.jsonl),
    results.json and results.md, with --samples and --reference also reward against KL as a figure (kl.png, kl.svg).
    The same command goes on where it was stopped. Another --verify scores the answers in DIR anew, without a model.

    Examples:
      minordpo evaluate base runs/dpo runs/minordpo --task gsm8k --out evaluation
      minordpo evaluate runs/first --task problems --n 50 --max-new-tokens 256
      minordpo evaluate base runs/minordpo --task gsm8k --n 200 --samples 8 --reference base --out evaluation
      minordpo evaluate base runs/dpo --task chats.jsonl --verify judge:http://localhost:8000 \\
          --judge-model NAME --judge-mode pairwise --out evaluation
      minordpo evaluate base runs/dpo --task capitals.jsonl --verify 'regex:(?i){answer}' --max-new-tokens 32
    """
    from minordpo.evaluate.evaluation import EvaluationConfig, evaluate
    from minordpo.evaluate.kl_plot import kl_figure
    from minordpo.evaluate.tables import examples, table
    from minordpo.evaluate.verified_tasks import usual_prompt
    from minordpo.run_folder import names

    verifier = take_verifier(verify, allow_code, options)
    if verifier is not None and "prompt" not in options:
        options["prompt"] = usual_prompt(options["task"])
    config = EvaluationConfig(**options)
    results = evaluate(models, config, verifier=verifier, out=out, batch_size=batch_size)
    print(f"{examples(results)}\n\n{table(results)}")
    if out is not None:
        figure = (
            ", reward against KL as kl.png and kl.svg" if kl_figure(results, out / names.KL_FIGURE) else ""
        )
        print(f"\n{out}: results.md, results.json and every answer{figure}")
