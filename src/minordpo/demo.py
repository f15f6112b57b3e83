"""`minordpo demo`: DPO breaks a small real model, MinorDPO at the same rate does not.

Three runs on the same close pairs in the same order, each an ordinary run folder, then a table, answers and a figure.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minordpo.config import (
    DataConfig,
    ModelConfig,
    MonitorConfig,
    ObjectiveConfig,
    RunConfig,
    SamplesConfig,
    TrainingConfig,
)
from minordpo.data.checks import prepare_examples
from minordpo.data.make.close_pairs import ClosePair, corrupt_row
from minordpo.data.make.problems import Problem, generate_problems
from minordpo.data.read.examples import load_examples
from minordpo.data.tokens import TokenOptions
from minordpo.engine.models import load_model, load_tokenizer, smollm2_folder
from minordpo.engine.reference import cache_folder
from minordpo.errors import InputError
from minordpo.figures.training_curves import compare_figure
from minordpo.generate.generation import Answer, generate_answers
from minordpo.generate.text_measures import asked_line, looping, summarize
from minordpo.run_folder.files import write_jsonl
from minordpo.run_folder.metrics_file import MetricsFile
from minordpo.run_folder.records import CHOSEN_LOGRATIO, REJECTED_LOGRATIO, EvaluationRow, last_of
from minordpo.train.run import finished, run

PROMPT = "{question}\nSolve it step by step. End with a line of the form: So the answer is: 7"
ENDING = "So the answer is: {answer}"
PAIRS_PER_STEP = 4
HELD_OUT, FEW_HELD_OUT = (
    12,
    4,
)  # problems answered by every model; their pairs are measured at the end of each run
BETA = 0.1
HIGH, LOW = 1e-4, 2e-6
MAX_NEW_TOKENS, FEW_NEW_TOKENS = 96, 32  # of an answer; few after runs too short to change it
FEWEST_WATCHED = 6  # steps of a run that the monitor watches


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

_INTRODUCTION = f"""\
What you are about to see
  A model of 135 million weights (SmolLM2-135M-Instruct; its weights are dequantised from Q4_1, so near the original
  and not equal to it) is tuned on close pairs: a worked solution of a word problem, and the same solution with one
  number wrong. Three runs see the same pairs in the same order:
    DPO       at a learning rate of {LOW:g}, where it works;
    DPO       at {HIGH:g}, above the rates of the MinorDPO paper (1e-6 and 1e-5), so that a few steps suffice;
    MinorDPO  at {HIGH:g}, with everything else equal.
  Watch the chosen log-ratio: log π/π_ref of the good solution, in nats. Below zero, the tuned model finds the good
  solution less likely than before.
"""

_EXPLANATION = """\
How to read it
  stops       answers that end by themselves; the others ran into the limit of {limit} tokens
  format      answers with the line that was asked for ("So the answer is: …")
  loops       answers that end by repeating themselves
  log-ratio   of the {held_out} held-out pairs after the last step, in nats a response
  right       answers whose asked line holds the right number; few problems and a small model, so this says little
  One seed and {steps} steps of {pairs} pairs: a demonstration, not a measurement.
"""


def demo(output: Path, *, steps: int | None, minutes: float, seed: int) -> None:
    """Run the demo into `output`; an interrupted one goes on where it stopped.

    Raises:
        InputError: the model's wheel is missing, or `output` holds something else.
    """
    if steps is not None and steps < 1:
        raise InputError(f"--steps is {steps}; at least 1 is needed")
    model_folder = smollm2_folder(cache_folder() / "models")
    settings = _settings(output, steps, seed, model_folder, minutes)
    print(_INTRODUCTION, flush=True)
    few = settings["steps"] < FEWEST_WATCHED
    held_out = _write_data(output, settings["steps"], FEW_HELD_OUT if few else HELD_OUT, seed)
    print(
        f"Each run: {settings['steps']} steps of {PAIRS_PER_STEP} pairs, full tuning in float32\n", flush=True
    )
    limit = FEW_NEW_TOKENS if few else MAX_NEW_TOKENS
    answers = {"untuned": _answer(str(model_folder), output, "untuned", held_out, limit)}
    for arm in ARMS:
        print(f"\n{arm.label}", flush=True)
        folder = output / arm.folder
        if not finished(folder):
            run(_config(arm, output, str(model_folder), settings["steps"], seed), resume=True, quiet=True)
        answers[arm.label] = _answer(str(folder / "model"), output, arm.folder, held_out, limit)
    metrics = {arm.label: output / arm.folder / "metrics.jsonl" for arm in ARMS}
    compare_figure(
        metrics,
        output / "demo.png",
        title="Close pairs: DPO pulls the chosen answers down, MinorDPO does not",
        note=f"SmolLM2-135M-Instruct (dequantised Q4_1), β {BETA:g}, {settings['steps']} steps of {PAIRS_PER_STEP} "
        "pairs, one seed; the high rate is above the paper's",
    )
    table = _table(answers, metrics, held_out)
    _show_answers(answers, held_out)
    print("\n" + table)
    print(
        "\n"
        + _EXPLANATION.format(
            limit=limit, held_out=len(held_out), steps=settings["steps"], pairs=PAIRS_PER_STEP
        )
    )
    (output / "table.txt").write_text(table + "\n", encoding="utf-8")
    print(f"{output}/demo.png shows the log-ratios; each folder in {output} is a run with its model.")


def _settings(
    output: Path, steps: int | None, seed: int, model_folder: Path, minutes: float
) -> dict[str, Any]:
    """The demo's settings, written down once so that an interrupted demo goes on with the same."""
    file = output / "demo.json"
    if file.exists():
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["seed"] != seed or (steps is not None and known["steps"] != steps):
            raise InputError(
                f"{output} holds a demo of {known['steps']} steps with seed {known['seed']}. Name another --output, "
                "or delete it"
            )
        return known
    if output.exists() and any(output.iterdir()):
        raise InputError(f"{output} exists and holds no demo. Name another --output")
    output.mkdir(parents=True, exist_ok=True)
    known = {"steps": steps or _affordable_steps(model_folder, minutes), "seed": seed}
    aside = output / ".demo.json"
    aside.write_text(json.dumps(known) + "\n", encoding="utf-8")
    os.replace(aside, file)
    return known


def _affordable_steps(model_folder: Path, minutes: float) -> int:
    """Steps a run that fill the time on this machine, from the seconds of one large product.

    A step of 4 pairs is some 600 tokens: 6 × 135 million × 600 multiplications and additions, which run at about
    0.8 of the speed of a product of the model's own sizes. Answers, the monitor's looks and start-up take nearly half
    of the time.
    """
    x, w = torch.randn(600, 576), torch.randn(1536, 576)
    x @ w.t()
    started = time.perf_counter()
    for _ in range(20):
        x @ w.t()
    speed = 20 * 2 * 600 * 576 * 1536 / (time.perf_counter() - started)
    seconds = 6 * 135e6 * 600 / (0.8 * speed) * 4 / 3  # a third more for the reference
    return max(8, min(32, int(minutes * 60 * 0.5 / (len(ARMS) * seconds))))


def _write_data(output: Path, steps: int, held_out: int, seed: int) -> list[Problem]:
    """Write close pairs to two files, and return the problems of those held out."""
    wanted = held_out + steps * PAIRS_PER_STEP
    made = (
        p for p in generate_problems(wanted * 6, seed=seed) if len(p.steps) <= 3 and len(p.question) < 230
    )
    problems: list[Problem] = []
    rows: list[dict[str, Any]] = []
    for problem in made:
        pair = corrupt_row(problem.row(), seed=seed, ending=ENDING, propagate=False)
        if len(problems) < wanted and isinstance(pair, ClosePair):
            problems.append(problem)
            rows.append(pair.row(prompt=PROMPT, chat=True))
    write_jsonl(output / "held-out.jsonl", rows[:held_out])
    write_jsonl(output / "pairs.jsonl", rows[held_out:])
    return problems[:held_out]


def _config(arm: Arm, output: Path, model: str, steps: int, seed: int) -> RunConfig:
    return RunConfig(
        model=ModelConfig(path=model),
        data=DataConfig(train=str(output / "pairs.jsonl"), eval=str(output / "held-out.jsonl")),
        objective=ObjectiveConfig(name=arm.objective, hyper={"beta": BETA}),
        training=TrainingConfig(
            arguments={
                "learning_rate": arm.learning_rate,
                "per_device_train_batch_size": PAIRS_PER_STEP,
                "max_steps": steps,
                "warmup_steps": 0.1,
                "save_strategy": "no",
                "seed": seed,
            }
        ),
        samples=SamplesConfig(prompts=0),
        # A look at the text takes nearly as long as a step (4.6 and 5.9 s on two EPYC cores, 2026-11-21), so a run of
        # a few steps has none, and others two.
        monitor=MonitorConfig(
            enabled=steps >= FEWEST_WATCHED, probe_every=steps, prompts=2, max_new_tokens=32
        ),
        output=str(output / arm.folder),
    )


def _answer(model: str, output: Path, name: str, problems: list[Problem], limit: int) -> list[Answer]:
    """The model's answers to the held-out problems, kept in a file of their own."""
    file = output / f"answers-{name}.jsonl"
    if file.exists():
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [Answer(r["answer"], tuple(r["token_ids"]), r["stopped"], r["tokens"]) for r in rows]
    tokenizer = load_tokenizer(model)
    loaded = load_examples(str(output / "held-out.jsonl"))
    pairs = prepare_examples(loaded, tokenizer, TokenOptions(), progress=False).examples
    answers = generate_answers(
        load_model(model),
        tokenizer,
        [pair.prompt_ids for pair in pairs],
        max_new_tokens=limit,
        batch_size=len(problems),
        progress=f"answers, {name}",
    )
    write_jsonl(
        file,
        [
            {
                "question": problem.question,
                "right": problem.answer,
                "answer": answer.text,
                "stopped": answer.stopped,
                "loops": looping(answer.token_ids),
                "tokens": answer.tokens,
                "token_ids": list(answer.token_ids),
            }
            for problem, answer in zip(problems, answers, strict=True)
        ],
    )
    return answers


def _table(answers: dict[str, list[Answer]], metrics: dict[str, Path], problems: list[Problem]) -> str:
    right = [str(problem.answer) for problem in problems]
    lines = [
        f"{'':24}{'stops':>7}{'format':>8}{'loops':>7}   {'log-ratio: chosen':>17}{'rejected':>10}{'right':>8}"
    ]
    for label, given in answers.items():
        said = summarize(given)
        accuracy = sum(asked_line(a.text) == n for a, n in zip(given, right, strict=True)) / len(given)
        ratios = f"{'':>17}{'':>10}"
        if label in metrics:
            last = last_of(MetricsFile(metrics[label]).rows(), EvaluationRow)
            if last is not None:
                ratios = f"{last.values[CHOSEN_LOGRATIO]:>+17.1f}{last.values[REJECTED_LOGRATIO]:>+10.1f}"
        lines.append(
            f"{label:24}{said['stopped']:>7.0%}{said['asked_format']:>8.0%}{said['looping']:>7.0%}   {ratios}"
            f"{accuracy:>8.0%}"
        )
    return "\n".join(lines)


def _show_answers(answers: dict[str, list[Answer]], problems: list[Problem]) -> None:
    for i in range(min(2, len(problems))):
        print(f"\nQuestion: {problems[i].question}   (right: {problems[i].answer})")
        for label, given in answers.items():
            text = given[i].text.strip()
            shown = text if len(text) <= 320 else text[:317] + "…"
            print(f"  {label}:\n" + "\n".join(f"    {line}" for line in shown.splitlines()))
