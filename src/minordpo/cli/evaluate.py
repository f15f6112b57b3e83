"""`minordpo evaluate`: its arguments and what it prints. What is slow to import is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from minordpo.evaluate.known_tasks import tasks_in_words


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command does and takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Ask every MODEL the same questions and compare the others with the first. Answers are read twice: by the\n"
        'asked line "So the answer is: 42", strictly, and by the last number. Tells accuracy with 95 % intervals, the\n'
        "share in the asked format, repetition, loops, how many end by themselves, length, accuracy by the steps of\n"
        "the reference solution, exact paired tests, and an answer of each kind. docs/evaluate.md has the rules.\n\n"
        "--out DIR keeps every answer as it comes (DIR/MODEL/answers.jsonl, samples.jsonl), results.json and\n"
        "results.md, with --samples and --reference also reward against KL as a figure (kl.png, kl.svg); the same\n"
        "command goes on where it was stopped."
    )
    parser.epilog = (
        "Examples:\n"
        "  minordpo evaluate base runs/dpo runs/minordpo --task gsm8k --out evaluation\n"
        "  minordpo evaluate runs/first --task problems --n 50 --max-new-tokens 256\n"
        "  minordpo evaluate base runs/minordpo --task gsm8k --n 200 --samples 8 --reference base --out evaluation"
    )
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="run folder, model folder, adapter folder or hub id"
    )
    parser.add_argument(
        "--task",
        required=True,
        metavar="TASK",
        help=f"{tasks_in_words()}, or a .jsonl, .json or .parquet file with questions and answers".replace(
            "%", "%%"
        ),
    )
    parser.add_argument("--n", type=int, help="ask so many questions (default: all; of a generator 200)")
    parser.add_argument("--seed", type=int, default=0, help="which questions, and which samples (default 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep answers and results here")
    parser.add_argument("--reference", metavar="REF", help="model to measure the answers' log-ratios against")
    parser.add_argument(
        "--samples",
        type=int,
        default=0,
        metavar="N",
        help="also draw N answers a question: pass@k, votes, and with --reference KL and best of k (default 0)",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=512, metavar="N", help="longest answer (default 512)"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="answers at a time, at most (default 32, on a GPU 128)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="of the samples (default 1); without --samples draw the one answer at it (default 0: greedy)",
    )
    parser.add_argument(
        "--prompt", metavar="TEXT", help="prompt with {question} in it (default: the MinorDPO paper's)"
    )
    parser.add_argument("--plain-text", action="store_true", help="ask without a chat template")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the weights"
    )


def evaluate_command(arguments: argparse.Namespace) -> None:
    """Evaluate, and print examples and tables."""
    from minordpo.data.make.close_pairs import PAPER_PROMPT
    from minordpo.evaluate.evaluation import EvaluationConfig, evaluate
    from minordpo.evaluate.kl_plot import kl_figure
    from minordpo.evaluate.tables import examples, table
    from minordpo.run_folder import names

    if arguments.out is not None:
        arguments.goes_on = "the same command goes on"
    config = EvaluationConfig(
        task=arguments.task,
        n=arguments.n,
        seed=arguments.seed,
        prompt=PAPER_PROMPT if arguments.prompt is None else arguments.prompt,
        plain_text=arguments.plain_text,
        max_new_tokens=arguments.max_new_tokens,
        samples=arguments.samples,
        temperature=arguments.temperature,
        dtype=arguments.dtype,
        reference=arguments.reference,
    )
    results = evaluate(arguments.models, config, out=arguments.out, batch_size=arguments.batch_size)
    print(f"{examples(results)}\n\n{table(results)}")
    if arguments.out is not None:
        drawn = kl_figure(results, arguments.out / names.KL_FIGURE)
        figure = ", reward against KL as kl.png and kl.svg" if drawn else ""
        print(f"\n{arguments.out}: results.md, results.json and every answer{figure}")
