"""`minordpo demo`: DPO breaks a small real model, MinorDPO at the same rate does not.

Three runs on the same close pairs in the same order, each an ordinary run folder, then a table, answers and a report.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minordpo.config import RunConfig, read_mapping
from minordpo.config.build import build
from minordpo.data.make.close_pairs import ClosePair, corrupt_row
from minordpo.data.make.problems import generate_problems
from minordpo.engine.smollm2 import smollm2_folder
from minordpo.errors import InputError
from minordpo.evaluate.evaluation import EvaluationConfig, evaluate
from minordpo.evaluate.folder import EvaluationFolder
from minordpo.report.page import report
from minordpo.run_folder import names
from minordpo.run_folder.files import write_jsonl, written_whole
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.records import CHOSEN_LOGRATIO, REJECTED_LOGRATIO, EvaluationRow, last_of
from minordpo.train.run import finished, run

PROMPT = "{question}\nSolve it step by step. End with a line of the form: So the answer is: 7"
ENDING = "So the answer is: {answer}"
PAIRS_PER_STEP = 4
# Problems that every model answers, and whose pairs are measured at the end of each run; few after a few steps.
HELD_OUT, FEW_HELD_OUT = 12, 4
BETA = 0.1
HIGH, LOW = 1e-4, 2e-6
MAX_NEW_TOKENS, FEW_NEW_TOKENS = 96, 32  # of an answer; few after runs too short to change it
FEWEST_MONITORED = 6  # steps of a run that the monitor probes


@dataclass(frozen=True)
class Arm:
    """One of the demo's runs."""

    folder: str
    label: str
    objective: str
    learning_rate: float


ARMS = (
    Arm("dpo-low", f"DPO, rate {LOW:g}", "dpo", LOW),
    Arm("dpo-high", f"DPO, rate {HIGH:g}", "dpo", HIGH),
    Arm("minordpo-high", f"MinorDPO, rate {HIGH:g}", "minordpo", HIGH),
)


def demo(output: Path, *, steps: int | None, minutes: float, seed: int) -> None:
    """Run the demo into `output`; an interrupted one goes on where it stopped.

    Raises:
        InputError: the model's wheel is missing, or `output` holds something else.
    """
    if steps is not None and steps < 1:
        raise InputError(f"--steps is {steps}; at least 1 is needed")
    model = str(smollm2_folder(names.cache_folder() / "models"))
    steps = _steps(output, steps, seed, minutes)
    texts = read_mapping(Path(__file__).with_suffix(".yaml"))
    print(texts["introduction"].format(low=LOW, high=HIGH), flush=True)
    few = steps < FEWEST_MONITORED
    questions = _write_data(output, steps, FEW_HELD_OUT if few else HELD_OUT, seed)
    print(f"Each run: {steps} steps of {PAIRS_PER_STEP} pairs, full tuning in float32\n", flush=True)
    for arm in ARMS:
        print(f"\n{arm.label}", flush=True)
        if not finished(output / arm.folder):
            run(_config(arm, output, model, steps, seed), resume=True, quiet=True)
    metrics = {arm.label: output / arm.folder / names.METRICS for arm in ARMS}
    limit = FEW_NEW_TOKENS if few else MAX_NEW_TOKENS
    asked = EvaluationConfig(task=str(output / "questions.jsonl"), prompt=PROMPT, max_new_tokens=limit)
    models = [model, *(str(output / arm.folder) for arm in ARMS)]
    measured = evaluate(models, asked, out=output / names.EVALUATION)["models"]
    labels = dict(zip(("untuned", *metrics), measured, strict=True))  # as the evaluation calls the models
    table = _table({label: measured[name] for label, name in labels.items()}, metrics)
    _show_answers(output / names.EVALUATION, labels, questions)
    print(f"\n{table}\n")
    facts = {"limit": limit, "held_out": len(questions), "steps": steps, "pairs": PAIRS_PER_STEP}
    print(texts["explanation"].format(**facts))
    (output / "table.txt").write_text(table + "\n", encoding="utf-8")
    page = report(
        [output / each for each in (*(arm.folder for arm in ARMS), names.EVALUATION)], out=output / "report"
    )
    print(
        f"{page}/index.html shows them side by side; each other folder in {output} is a run with its model."
    )


def _steps(output: Path, steps: int | None, seed: int, minutes: float) -> int:
    """The steps of each run, written down once so that an interrupted demo goes on with as many."""
    file = output / "demo.json"
    if file.exists():
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["seed"] != seed or (steps is not None and known["steps"] != steps):
            raise InputError(
                f"{output} holds a demo of {known['steps']} steps with seed {known['seed']}. Name another --output, "
                "or delete it"
            )
        return int(known["steps"])
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output} exists and holds no demo. Name another --output")
    output.mkdir(parents=True, exist_ok=True)
    steps = steps or _affordable_steps(minutes)
    with written_whole(file) as aside:
        aside.write_text(json.dumps({"steps": steps, "seed": seed}) + "\n", encoding="utf-8")
    return steps


def _affordable_steps(minutes: float) -> int:
    """Steps a run that fill the time on this machine, from the seconds of one large product.

    A step of 4 pairs is some 600 tokens: 6 × 135 million × 600 multiplications and additions, which run at about
    0.8 of the speed of a product of the model's own sizes. Answers, the monitor's probes and start-up take nearly
    half of the time.
    """
    x, w = torch.randn(600, 576), torch.randn(1536, 576)
    x @ w.t()
    started = time.perf_counter()
    for _ in range(20):
        x @ w.t()
    speed = 20 * 2 * 600 * 576 * 1536 / (time.perf_counter() - started)
    seconds = 6 * 135e6 * 600 / (0.8 * speed) * 4 / 3  # a third more for the reference
    return max(8, min(32, int(minutes * 60 * 0.5 / (len(ARMS) * seconds))))


def _write_data(output: Path, steps: int, held_out: int, seed: int) -> list[dict[str, str]]:
    """Write close pairs to two files, and return the questions of those held out, which stand in a third."""
    wanted = held_out + steps * PAIRS_PER_STEP
    made = (
        p.row()
        for p in generate_problems(wanted * 6, seed=seed)
        if len(p.steps) <= 3 and len(p.question) < 230
    )
    pairs = ((row, corrupt_row(row, seed=seed, ending=ENDING, propagate=False)) for row in made)
    usable = [(row, pair.row(prompt=PROMPT, chat=True)) for row, pair in pairs if isinstance(pair, ClosePair)]
    questions = [row for row, _ in usable[:held_out]]
    write_jsonl(output / "questions.jsonl", questions)
    write_jsonl(output / "held-out.jsonl", (pair for _, pair in usable[:held_out]))
    write_jsonl(output / "pairs.jsonl", (pair for _, pair in usable[held_out:wanted]))
    return questions


def _config(arm: Arm, output: Path, model: str, steps: int, seed: int) -> RunConfig:
    sections = {
        "model": {"path": model},
        "data": {"train": str(output / "pairs.jsonl"), "eval": str(output / "held-out.jsonl")},
        "objective": {"name": arm.objective, "beta": BETA},
        "training": {
            "learning_rate": arm.learning_rate,
            "per_device_train_batch_size": PAIRS_PER_STEP,
            "max_steps": steps,
            "warmup_steps": 0.1,
            "save_strategy": "no",
            "seed": seed,
        },
        "samples": {"prompts": 0},
        # A probe takes nearly as long as a step (4.6 and 5.9 s on two EPYC cores, 2026-11-21), so a run of a few steps
        # has none, and others two.
        "monitor": {
            "enabled": steps >= FEWEST_MONITORED,
            "probe_every": steps,
            "prompts": 2,
            "max_new_tokens": 32,
        },
        "output": str(output / arm.folder),
    }
    return build(RunConfig, sections, "", lambda key: "the demo")


def _table(measured: dict[str, dict[str, Any]], metrics: dict[str, Path]) -> str:
    lines = [
        f"{'':24}{'stops':>7}{'format':>8}{'loops':>7}   {'log-ratio: chosen':>17}{'rejected':>10}{'right':>8}"
    ]
    for label, model in measured.items():
        ratios = f"{'':>17}{'':>10}"
        if label in metrics:
            last = last_of(MetricsFile(metrics[label]).rows(), EvaluationRow)
            assert last is not None  # every run measures the held-out pairs at its end
            ratios = f"{last.values[CHOSEN_LOGRATIO]:>+17.1f}{last.values[REJECTED_LOGRATIO]:>+10.1f}"
        stops, format_, loops, right = (
            model[name]["share"] for name in ("stopped", "asked_format", "looping", "strict_accuracy")
        )
        lines.append(f"{label:24}{stops:>7.0%}{format_:>8.0%}{loops:>7.0%}   {ratios}{right:>8.0%}")
    return "\n".join(lines)


def _show_answers(folder: Path, labels: dict[str, str], questions: list[dict[str, str]]) -> None:
    answers = {label: EvaluationFolder(folder).answers(name, names.ANSWERS) for label, name in labels.items()}
    for row, asked in enumerate(questions[:2], 1):
        right = asked["answer"].rpartition("#### ")[2]
        print(f"\nQuestion: {asked['question']}   (right: {right})")
        for label, given in answers.items():
            text = given[row, 0].text.strip()
            shown = text if len(text) <= 320 else text[:317] + "…"
            print(f"  {label}:\n" + "\n".join(f"    {line}" for line in shown.splitlines()))
