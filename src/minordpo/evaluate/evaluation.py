"""Models × questions → answers and what they are worth. Read this first.

task   ─► questions                what is asked, told apart by a digest
models ─► prompts                  every config, tokenizer and template is tried before anything slow happens
       ─► answers.jsonl            each model in turn, written as they come; the same command goes on
       ─► samples.jsonl            several more a question, where they are asked for
       ─► logps.jsonl              of the answers under model and reference, where there is a reference
       ─► sample_logps.jsonl       of the samples
→ results.json  results.md
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from minordpo.data.make.close_pairs import PAPER_PROMPT
from minordpo.engine.models import load_model, load_tokenizer, model_config, model_folder
from minordpo.errors import InputError
from minordpo.evaluate.answer_logps import Against
from minordpo.evaluate.compare import compare_models, summarize_model
from minordpo.evaluate.folder import Contender, EvaluationFolder, contenders, model_identity
from minordpo.evaluate.samples import compare_samples, samples_against_reference, summarize_samples
from minordpo.evaluate.scoring import refuse_other_vocabulary
from minordpo.evaluate.tables import markdown
from minordpo.evaluate.tasks import Task, load_task
from minordpo.generate.generation import Answer, Sampling, refuse_prompts, stream_answers
from minordpo.generate.prompts import question_prompts
from minordpo.run_folder.lock import only_here
from minordpo.version import __version__

# Answers at a time, by device: at every token of a small model a GPU waits for Python, with 32 answers as with 128.
# A large one is held back by the budget below.
BATCH_SIZE = {"cpu": 32, "cuda": 128}
# Of a batch's cache: a 7B model keeps about half a MiB a token in bfloat16, so some 16 GiB.
TOKEN_BUDGET = 32768
LOGPS, SAMPLE_LOGPS = "logps.jsonl", "sample_logps.jsonl"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What the answers of a model depend on."""

    task: str
    n: int | None = None
    seed: int = 0
    prompt: str = PAPER_PROMPT
    plain_text: bool = False
    max_new_tokens: int = 512
    samples: int = 0  # a question, beside the one answer
    temperature: float | None = (
        None  # of the samples (1 unless told); without samples of the answer (0, greedy)
    )
    dtype: str = "float32"
    reference: str | None = None

    @property
    def answered(self) -> Sampling | None:
        """How the one answer to a question is drawn; None: the most likely token, again and again."""
        greedy = self.samples > 0 or not self.temperature
        return None if greedy else Sampling(temperature=cast(float, self.temperature), seed=self.seed)

    @property
    def sampled(self) -> Sampling | None:
        """How the samples are drawn; None: there are none.

        Raises:
            InputError: fewer than no samples, or a temperature that draws none.
        """
        if self.samples < 0:
            raise InputError(
                f"--samples is {self.samples}, but at least 0 is needed, which draws none. Raise it."
            )
        if self.samples == 0:
            return None
        return Sampling(temperature=1.0 if self.temperature is None else self.temperature, seed=self.seed)


def evaluate(
    models: Sequence[str],
    config: EvaluationConfig,
    *,
    out: Path | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """The results as in results.json: every model on the same questions, the others against the first.

    With `out`, a folder gets evaluation.json, LABEL/answers.jsonl and samples.jsonl as they come, results.json and
    results.md; the same call goes on where one was stopped. Answers are made `batch_size` at a time, unless told as
    many as suit the device.

    Raises:
        InputError: a task, model, reference or folder that cannot be used. What shows without reading weights is
            refused before the first model answers.
    """
    if not models:
        raise InputError("no model is named, but at least one is needed. Name a model folder or a hub id.")
    answered, sampled = config.answered, config.sampled
    task = load_task(config.task, n=config.n, seed=config.seed)
    folder = EvaluationFolder(out)
    with contextlib.nullcontext() if out is None else only_here(out, doing="evaluating"):
        named = contenders(list(models), folder.known().get("models", {}))
        prompts = {
            each.label: _prompts(each, task, config, 1 if batch_size is None else batch_size)
            for each in named
        }
        against = None
        if config.reference is not None:
            path = model_folder(config.reference)
            model_config(path)
            against = Against(path, model_identity(path), config.dtype, out)
        settings = asdict(config) | {
            "temperature": 0.0 if answered is None else answered.temperature,
            "samples_temperature": None if sampled is None else sampled.temperature,
            "questions": task.source,
            "questions_digest": task.digest,
            "reference_identity": None if against is None else against.identity,
        }
        folder.begin(settings, named)
        for each in named:
            _answer(each, task, prompts[each.label], config, folder, batch_size)
        answers = {each.label: _in_order(folder.answers(each.label), task) for each in named}
        results = _results(task, settings, named, answers)
        for each in named:
            asked, model = prompts[each.label], results["models"][each.label]
            if against is not None:
                model["reference"] = _logratios(each, task, asked, answers[each.label], against)
            if config.samples:
                model["samples"] = _samples(each, task, asked, config, folder, against)
        if config.samples:
            drawn = {each.label: _drawn(each, task, config, folder) for each in named}
            results["sample_comparisons"] = compare_samples(task.questions, drawn)
        text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
        folder.finish({"results.json": text, "results.md": markdown(results)})
    return results


def _prompts(each: Contender, task: Task, config: EvaluationConfig, batch_size: int) -> list[np.ndarray]:
    """What a model is asked; refused here, and not when its turn comes after hours of another's answers."""
    tokenizer = load_tokenizer(each.path)
    if config.reference is not None:
        name = config.reference
        refuse_other_vocabulary(tokenizer, load_tokenizer(model_folder(name)), model=each.given, name=name)
    questions = [question.text for question in task.questions]
    prompts = question_prompts(tokenizer, questions, prompt=config.prompt, plain_text=config.plain_text)
    sizes = {"max_new_tokens": config.max_new_tokens, "batch_size": batch_size}
    try:
        refuse_prompts(model_config(each.path), prompts, sizes)
    except InputError as error:
        raise InputError(f"{each.given}: {error}") from error
    return prompts


def _answer(
    each: Contender,
    task: Task,
    prompts: list[np.ndarray],
    config: EvaluationConfig,
    folder: EvaluationFolder,
    batch_size: int | None,
) -> None:
    """Have a model give the answers, and draw the samples, that it has not given yet."""
    count, questions = config.samples, task.questions
    given, drawn = folder.answers(each.label), folder.samples(each.label) if count else {}
    unanswered = [i for i, question in enumerate(questions) if question.row not in given]
    short = [i for i, q in enumerate(questions) if any((q.row, s) not in drawn for s in range(count))]
    if not unanswered and not short:
        return
    model = load_model(each.path, dtype=config.dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cast(nn.Module, model).to(device)
    stream = functools.partial(
        stream_answers,
        model,
        load_tokenizer(each.path),
        max_new_tokens=config.max_new_tokens,
        batch_size=BATCH_SIZE[device] if batch_size is None else batch_size,
        token_budget=TOKEN_BUDGET,
    )
    if unanswered:
        rows = stream([prompts[i] for i in unanswered], sampling=config.answered)
        for row, answer in _watched(rows, len(unanswered), len(questions), each.label):
            folder.add(each.label, questions[unanswered[row]], answer)
    if short:
        there = {
            place * count + s
            for place, i in enumerate(short)
            for s in range(count)
            if (questions[i].row, s) in drawn
        }
        rows = stream([prompts[i] for i in short], sampling=config.sampled, samples=count, done=there)
        left = len(short) * count - len(there)
        for row, answer in _watched(rows, left, len(questions) * count, f"{each.label}, samples"):
            folder.add(each.label, questions[short[row // count]], answer, sample=row % count)
    del model, stream, rows
    gc.collect()  # before the next model is loaded, which may need the room


def _watched(
    rows: Iterable[tuple[int, Answer]], left: int, total: int, label: str
) -> Iterator[tuple[int, Answer]]:
    """The rows, counted on a bar that begins where an earlier start ended."""
    with tqdm(total=total, initial=total - left, desc=label, unit="answer") as bar:
        for row in rows:
            yield row
            bar.update()


def _in_order(given: dict[int, Answer], task: Task) -> list[Answer]:
    return [given[question.row] for question in task.questions]


def _results(
    task: Task, settings: dict[str, Any], named: list[Contender], answers: dict[str, list[Answer]]
) -> dict[str, Any]:
    return {
        "minordpo": __version__,
        "settings": settings,
        "models": {
            each.label: {"path": each.path, **summarize_model(task.questions, answers[each.label])}
            for each in named
        },
        "comparisons": compare_models(task.questions, answers),
    }


def _logratios(
    each: Contender, task: Task, prompts: list[np.ndarray], answers: list[Answer], against: Against
) -> dict[str, float]:
    """Of a model's own answers, in nats: how much likelier than under the reference, and how likely there.

    Greedy answers, so this is no KL divergence; text that has broken down is what the reference finds unlikely.
    """
    keys = [{"row": question.row} for question in task.questions]
    rows = against.measure(each, LOGPS, prompts, [[answer] for answer in answers], keys)
    tokens = sum(row["tokens"] for row in rows)
    logp, ref_logp = (sum(row[name] for row in rows) for name in ("logp", "ref_logp"))
    return {
        "logratio": (logp - ref_logp) / len(rows),
        "logratio_per_token": (logp - ref_logp) / tokens,
        "ref_logp_per_token": ref_logp / tokens,
    }


def _drawn(
    each: Contender, task: Task, config: EvaluationConfig, folder: EvaluationFolder
) -> list[list[Answer]]:
    """A model's samples, those of each question together."""
    drawn = folder.samples(each.label)
    return [[drawn[question.row, s] for s in range(config.samples)] for question in task.questions]


def _samples(
    each: Contender,
    task: Task,
    prompts: list[np.ndarray],
    config: EvaluationConfig,
    folder: EvaluationFolder,
    against: Against | None,
) -> dict[str, Any]:
    """What the samples of a model show, and against the reference where there is one."""
    count, sampled = config.samples, cast(Sampling, config.sampled)
    samples = _drawn(each, task, config, folder)
    summary = summarize_samples(task.questions, samples)
    if against is not None:
        keys = [{"row": question.row, "sample": s} for question in task.questions for s in range(count)]
        rows = against.measure(each, SAMPLE_LOGPS, prompts, samples, keys)
        ratios = [row["logp"] - row["ref_logp"] for row in rows]
        grouped = [ratios[start : start + count] for start in range(0, len(ratios), count)]
        summary |= samples_against_reference(
            task.questions, samples, grouped, temperature=sampled.temperature
        )
    return summary
