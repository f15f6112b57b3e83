"""Models × questions → answers and what they are worth. Read this first.

task   ─► questions                what is asked, told apart by a digest
models ─► prompts                  every tokenizer and template is tried before anything slow happens
       ─► answers.jsonl            each model in turn, written as they come; the same command goes on
       ─► logps.jsonl              of the answers under model and reference, where there is a reference
→ results.json  results.md
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from minordpo import __version__
from minordpo.data.corrupt import PAPER_PROMPT
from minordpo.data.files import read_jsonl, write_jsonl
from minordpo.engine.models import load_model, load_tokenizer, model_folder
from minordpo.errors import InputError
from minordpo.evaluate.folder import Contender, EvaluationFolder, contenders, model_identity
from minordpo.evaluate.generation import Answer, Sampling, stream_answers
from minordpo.evaluate.prompts import question_prompts
from minordpo.evaluate.results import compare_models, summarize_model
from minordpo.evaluate.scores import answer_examples, refuse_other_vocabulary, token_logps
from minordpo.evaluate.tables import markdown
from minordpo.evaluate.tasks import Task, load_task
from minordpo.train.folder import only_here

BATCH_SIZE = 32
# Of a batch's cache: a 7B model keeps about half a MiB a token in bfloat16, so some 16 GiB.
TOKEN_BUDGET = 32768
LOGPS = "logps.jsonl"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What the answers of a model depend on."""

    task: str
    n: int | None = None
    seed: int = 0
    prompt: str = PAPER_PROMPT
    plain_text: bool = False
    max_new_tokens: int = 512
    temperature: float = 0.0  # 0: the most likely token
    dtype: str = "float32"
    reference: str | None = None


def evaluate(
    models: Sequence[str],
    config: EvaluationConfig,
    *,
    out: Path | None = None,
    batch_size: int = BATCH_SIZE,
) -> dict[str, Any]:
    """The results as in results.json: every model on the same questions, the others against the first.

    With `out`, a folder gets evaluation.json, LABEL/answers.jsonl as the answers come, results.json and results.md;
    the same call goes on where one was stopped.

    Raises:
        InputError: a task, model, reference or folder that cannot be used; nothing was generated then.
    """
    if not models:
        raise InputError("no model is named, but at least one is needed. Name a model folder or a hub id.")
    sampling = None if config.temperature == 0 else Sampling(temperature=config.temperature, seed=config.seed)
    task = load_task(config.task, n=config.n, seed=config.seed)
    folder = EvaluationFolder(out)
    with contextlib.nullcontext() if out is None else only_here(out, doing="evaluating"):
        named = contenders(list(models), folder.known().get("models", {}))
        prompts = {each.label: _prompts(each, task, config) for each in named}
        reference = None if config.reference is None else model_folder(config.reference)
        identity = None if reference is None else model_identity(reference)
        settings = asdict(config) | {
            "questions": task.source,
            "questions_digest": task.digest,
            "reference_identity": identity,
        }
        folder.begin(settings, named)
        for each in named:
            _answer(each, task, prompts[each.label], config, sampling, folder, batch_size)
        answers = {each.label: _in_order(folder.answers(each.label), task) for each in named}
        results = _results(task, settings, named, answers)
        if reference is not None:
            for label, measured in _logratios(task, named, reference, prompts, answers, config, out).items():
                results["models"][label]["reference"] = measured
        text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
        folder.finish({"results.json": text, "results.md": markdown(results)})
    return results


def _prompts(each: Contender, task: Task, config: EvaluationConfig) -> list[np.ndarray]:
    tokenizer = load_tokenizer(each.path)
    if config.reference is not None:
        name = config.reference
        refuse_other_vocabulary(tokenizer, load_tokenizer(model_folder(name)), model=each.given, name=name)
    questions = [question.text for question in task.questions]
    return question_prompts(tokenizer, questions, prompt=config.prompt, plain_text=config.plain_text)


def _answer(
    each: Contender,
    task: Task,
    prompts: list[np.ndarray],
    config: EvaluationConfig,
    sampling: Sampling | None,
    folder: EvaluationFolder,
    batch_size: int,
) -> None:
    """Have a model answer the questions that it has not answered yet."""
    given = folder.answers(each.label)
    missing = [i for i, question in enumerate(task.questions) if question.row not in given]
    if not missing:
        return
    model = load_model(each.path, dtype=config.dtype)
    cast(nn.Module, model).to("cuda" if torch.cuda.is_available() else "cpu")
    rows = stream_answers(
        model,
        load_tokenizer(each.path),
        [prompts[i] for i in missing],
        max_new_tokens=config.max_new_tokens,
        batch_size=batch_size,
        token_budget=TOKEN_BUDGET,
        sampling=sampling,
    )
    done = len(task.questions) - len(missing)
    with tqdm(total=len(task.questions), initial=done, desc=each.label, unit="answer") as bar:
        for row, answer in rows:
            folder.add(each.label, task.questions[missing[row]], answer)
            bar.update()
    del model, rows
    gc.collect()  # before the next model is loaded, which may need the room


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
    task: Task,
    named: list[Contender],
    reference: str,
    prompts: dict[str, list[np.ndarray]],
    answers: dict[str, list[Answer]],
    config: EvaluationConfig,
    out: Path | None,
) -> dict[str, dict[str, float]]:
    """Of each model's own answers, in nats: how much likelier than under the reference, and how likely there.

    Greedy answers, so this is no KL divergence; text that has broken down is what the reference finds unlikely.
    """
    measured = {}
    for each in named:
        file = None if out is None else out / each.label / LOGPS
        if file is not None and file.exists():
            rows = [row for _, row in read_jsonl(file)]
        else:
            examples = answer_examples(prompts[each.label], [[answer] for answer in answers[each.label]])
            both = [token_logps(path, examples, dtype=config.dtype) for path in (each.path, reference)]
            rows = [
                {"row": question.row, "tokens": len(own), "logp": _sum(own), "ref_logp": _sum(other)}
                for question, own, other in zip(task.questions, *both, strict=True)
            ]
            if file is not None:
                write_jsonl(file, rows)
        tokens = sum(row["tokens"] for row in rows)
        logp, ref_logp = (sum(row[name] for row in rows) for name in ("logp", "ref_logp"))
        measured[each.label] = {
            "logratio": (logp - ref_logp) / len(rows),
            "logratio_per_token": (logp - ref_logp) / tokens,
            "ref_logp_per_token": ref_logp / tokens,
        }
    return measured


def _sum(logps: np.ndarray) -> float:
    return float(logps.sum(dtype=np.float64))
