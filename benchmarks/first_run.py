"""Tables and answers of docs/first-run.md from finished run folders.

    python benchmarks/first_run.py "DPO, 5e-6=runs/dpo-low" "MinorDPO, 5e-6=runs/minordpo-low" …

Prints Markdown: held-out log-ratios after the last step, measures of the sample answers, five answers of each run.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path

from minordpo.generate.text_measures import asked_line, looping, repeated_4grams
from minordpo.run_folder.files import read_jsonl


def main() -> None:
    """Print the tables and answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="LABEL=FOLDER")
    parser.add_argument("--answers", type=int, default=5)
    arguments = parser.parse_args()
    runs = {label: Path(folder) for label, folder in (run.rsplit("=", 1) for run in arguments.runs)}
    print(log_ratio_table(runs), "\n")
    print(answer_table(runs), "\n")
    print(answers(runs, arguments.answers))


def log_ratio_table(runs: dict[str, Path]) -> str:
    """Held-out pairs after the last step, and the seconds and tokens of the run."""
    lines = [
        "| run | chosen log-ratio | rejected | margin | pairs ranked right | tokens, padded rows / ours | s a step |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, folder in runs.items():
        rows = [row for _, row in read_jsonl(folder / "metrics.jsonl")]
        steps = [row for row in rows if "seconds" in row]
        last = [row for row in rows if "eval_loss" in row][-1]
        saved = sum(row["padded_tokens"] for row in steps) / sum(row["tokens"] for row in steps)
        seconds = sorted(row["seconds"] for row in steps)[len(steps) // 2]
        lines.append(
            f"| {label} | {last['eval_logratios/chosen']:+.1f} | {last['eval_logratios/rejected']:+.1f} | "
            f"{last['eval_logratios/margin']:+.1f} | {last['eval_rewards/accuracies']:.0%} | "
            f"{saved:.2f} | {seconds:.1f} |"
        )
    return "\n".join(lines)


def answer_table(runs: dict[str, Path]) -> str:
    """Measures of the greedy answers; what the untuned model answers is the same for all runs."""
    first = next(iter(runs.values()))
    lines = [
        "| model | answers | stop | asked format | loop | repeated 4-grams | tokens |",
        "|---|---|---|---|---|---|---|",
        _answer_row("untuned", samples(first, "before")),
    ]
    lines += [_answer_row(label, samples(folder, "after")) for label, folder in runs.items()]
    return "\n".join(lines)


def _answer_row(label: str, rows: list[dict]) -> str:
    def share(values: list) -> str:
        return f"{sum(values) / len(rows):.0%}"

    return (
        f"| {label} | {len(rows)} | {share([r['stopped'] for r in rows])} | "
        f"{share([asked_line(r['answer']) is not None for r in rows])} | "
        f"{share([looping(r['token_ids']) for r in rows])} | "
        f"{share([repeated_4grams(r['token_ids']) for r in rows])} | "
        f"{sum(r['tokens'] for r in rows) / len(rows):.0f} |"
    )


def answers(runs: dict[str, Path], number: int) -> str:
    """Question by question, what the untuned model and each run's answered."""
    first = next(iter(runs.values()))
    models = {"untuned": samples(first, "before")}
    models |= {label: samples(folder, "after") for label, folder in runs.items()}
    parts = []
    for place, asked in enumerate(models["untuned"][:number]):
        parts.append(
            f"**Row {asked['row']}**\n\n{textwrap.indent(textwrap.fill(question(asked), 116), '> ')}\n"
        )
        for label, rows in models.items():
            row = rows[place]
            text = row["answer"].strip() + ("" if row["stopped"] else " … (ran into the limit)")
            parts.append(f"- {label}\n\n" + textwrap.indent(f"```\n{text}\n```", "  ") + "\n")
    return "\n".join(parts)


def question(row: dict) -> str:
    """The question in a prompt of `minordpo data corrupt`, without the instruction and the chat template around it."""
    return row["prompt"].rpartition("Below is the question:")[2].partition("<|")[0].strip()


def samples(folder: Path, when: str) -> list[dict]:
    """The run's sample answers of one time."""
    lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["when"] == when]


if __name__ == "__main__":
    main()
