"""Models × questions → answers and what they are worth. Read this first.

task   ─► questions                what is asked, told apart by a digest
models ─► prompts                  every config, tokenizer and template is tried before anything slow happens
       ─► answers.jsonl            each model in turn, written as they come; the same command goes on
       ─► samples.jsonl            several more a question, where they are asked for
       ─► logps.jsonl              of the answers under model and reference, where there is a reference
       ─► sample_logps.jsonl       of the samples
verifier ─► verdicts.jsonl         a score to each answer, and to each sample, where there is a verifier
→ results.json  results.md
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from minordpo.data.make.close_pairs import PAPER_PROMPT
from minordpo.engine.models import load_model, load_tokenizer, model_config, model_folder
from minordpo.engine.vocabulary import refuse_other_vocabulary
from minordpo.errors import InputError
from minordpo.evaluate.answer_logps import ReferenceModel
from minordpo.evaluate.compare import compare_models, summarize_model
from minordpo.evaluate.folder import Answers, EvaluatedModel, EvaluationFolder, name_models
from minordpo.evaluate.samples import compare_samples, samples_and_reference, summarize_samples
from minordpo.evaluate.tables import markdown
from minordpo.evaluate.tasks import Question, Task, load_task
from minordpo.evaluate.verification import PassAnswers, ScoredAnswers, Verification
from minordpo.evaluate.verified import (
    compare_verdicts,
    summarize_passes,
    summarize_verdicts,
    verified_examples,
    which_pass,
)
from minordpo.evaluate.verified_tasks import load_verified_task
from minordpo.generate.generation import Answer, GenerationOptions, Sampling, refuse_prompts, stream_answers
from minordpo.generate.prompts import question_prompts
from minordpo.run_folder import names
from minordpo.run_folder.files import write_text
from minordpo.run_folder.lock import only_here
from minordpo.verify.verifier import Verifier
from minordpo.version import __version__

# Answers at a time, by device: at every token of a small model a GPU waits for Python, with 32 answers as with 128.
# A large one is held back by the budget below.
BATCH_SIZE = {"cpu": 32, "cuda": 128}
# Of a batch's cache: a 7B model keeps about half a MiB a token in bfloat16, so some 16 GiB.
TOKEN_BUDGET = 32768


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
    # Of the samples (1 unless told); without samples of the answer (0, greedy).
    temperature: float | None = None
    dtype: str = "float32"
    reference: str | None = None

    def drawn(self) -> tuple[Sampling | None, Sampling | None]:
        """How the one answer to a question is drawn (None: greedily), and how the samples are (None: there are none).

        Raises:
            InputError: fewer than no samples, or a temperature that draws none.
        """
        if self.samples < 0:
            raise InputError(
                f"--samples is {self.samples}, but at least 0 is needed, which draws none. Raise it."
            )
        temperature = 1.0 if self.samples and self.temperature is None else self.temperature
        if not self.samples and not temperature:
            return None, None
        drawn = Sampling(temperature=cast(float, temperature), seed=self.seed)
        return (None, drawn) if self.samples else (drawn, None)

    def settings(self) -> dict[str, Any]:
        """The keys as they are kept: temperatures as they are used."""
        answered, sampled = self.drawn()
        return asdict(self) | {
            "temperature": 0.0 if answered is None else answered.temperature,
            "samples_temperature": None if sampled is None else sampled.temperature,
        }


@dataclass(frozen=True)
class _Pass:
    """One way in which every question is answered, and the files of a model that keep it."""

    answers: str
    logps: str
    verdicts: str
    options: GenerationOptions
    questions: list[Question]

    def asked(self) -> list[tuple[Question, int]]:
        """The question and the number of every answer, from 0, in the order in which they are asked for."""
        return [(question, number) for question in self.questions for number in range(self.options.samples)]

    def given(self, kept: Answers) -> list[list[Answer]]:
        """The answers that are kept, those to each question together; all of them must be there."""
        samples = range(self.options.samples)
        return [[kept[question.row, number] for number in samples] for question in self.questions]

    def so_far(self, kept: Answers) -> list[list[Answer | None]]:
        """The answers that are kept, those to each question together; None where one is to be made."""
        samples = range(self.options.samples)
        return [[kept.get((question.row, number)) for number in samples] for question in self.questions]


def evaluate(
    models: Sequence[str],
    config: EvaluationConfig,
    *,
    verifier: Verifier | None = None,
    out: Path | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """The results as in results.json: every model on the same questions, the others compared with the first.

    With a `verifier` the task may be any file of prompts, and the verifier scores the answers.

    With `out`, a folder gets evaluation.json, LABEL/answers.jsonl, samples.jsonl and verdicts as they come,
    results.json and results.md; the same call goes on where one was stopped, and another verifier scores the answers
    anew. Answers are made `batch_size` at a time, unless told as many as suit the device.

    Raises:
        InputError: a task, model, reference, verifier or folder that cannot be used, or a verdict that cannot be had.
            What shows without reading weights is refused before the first model answers.
    """
    if not models:
        raise InputError("no model is named, but at least one is needed. Name a model folder or a hub id.")
    settings = config.settings()
    task = _task(config, verifier)
    passes = _passes(config, task.questions, batch_size)
    folder = EvaluationFolder(out)
    with contextlib.nullcontext() if out is None else only_here(out, doing="evaluating"):
        named = name_models(list(models), folder.known().get("models", {}))
        prompts = {model.label: _prompts(model, task, config) for model in named}
        reference = (
            None if config.reference is None else ReferenceModel.of(config.reference, config.dtype, out)
        )
        settings |= {
            "questions": task.source,
            "questions_digest": task.digest,
            "reference_identity": None if reference is None else reference.identity,
        }
        folder.refuse_other(settings, defaults=type(config)(task=config.task).settings())
        verification = None if verifier is None else Verification(verifier, task, named, folder)
        if verification is not None:
            verification.check([_so_far(each, named, folder) for each in passes])
            verification.say_another()
        folder.begin(settings, named, None if verification is None else verification.record)
        for model in named:
            _answer(model, prompts[model.label], passes, config.dtype, folder, alike=named[0])
            gc.collect()  # a model hangs in cycles, and the next one may need the room
        scored = None
        if verification is not None:
            scored = verification.score([_so_far(each, named, folder) for each in passes])
        results = _results(prompts, passes, settings, named, folder, reference, scored)
        if verification is not None and scored is not None:
            answers = {m.label: passes[0].given(folder.answers(m.label, names.ANSWERS)) for m in named}
            _add_verified(results, scored, verification.record, task.questions, answers)
        if out is not None:
            write_text(out / names.RESULTS, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
            write_text(out / names.RESULTS_PAGE, markdown(results))
    return results


def _task(config: EvaluationConfig, verifier: Verifier | None) -> Task:
    if verifier is None:
        return load_task(config.task, n=config.n, seed=config.seed).asked_by(config.prompt)
    return load_verified_task(
        config.task, n=config.n, seed=config.seed, prompt=config.prompt, plain_text=config.plain_text
    )


def _so_far(each: _Pass, named: Sequence[EvaluatedModel], folder: EvaluationFolder) -> PassAnswers:
    kept = {model.label: folder.answers(model.label, each.answers) for model in named}
    return each.verdicts, {label: each.so_far(answers) for label, answers in kept.items()}


def _passes(config: EvaluationConfig, questions: list[Question], batch_size: int | None) -> list[_Pass]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    answered, sampled = config.drawn()
    options = GenerationOptions(
        max_new_tokens=config.max_new_tokens,
        batch_size=BATCH_SIZE[device] if batch_size is None else batch_size,
        token_budget=TOKEN_BUDGET,
        sampling=answered,
    )
    passes = [_Pass(names.ANSWERS, names.ANSWER_LOGPS, names.VERDICTS, options, questions)]
    if config.samples:
        several = replace(options, sampling=sampled, samples=config.samples)
        passes.append(_Pass(names.SAMPLES, names.SAMPLE_LOGPS, names.SAMPLE_VERDICTS, several, questions))
    return passes


def _prompts(model: EvaluatedModel, task: Task, config: EvaluationConfig) -> list[np.ndarray]:
    """What a model is asked; refused here, and not when its turn comes after hours of another's answers."""
    tokenizer = load_tokenizer(model.path)
    if config.reference is not None:
        name = config.reference
        refuse_other_vocabulary(tokenizer, load_tokenizer(model_folder(name)), model=model.given, name=name)
    if task.prompts is not None:
        prompts = task.prompts.tokens(tokenizer)
    else:
        questions = [question.text for question in task.questions]
        prompts = question_prompts(tokenizer, questions, prompt=config.prompt, plain_text=config.plain_text)
    try:
        where = [f"question {question.row} of {task.source}" for question in task.questions]
        refuse_prompts(model_config(model.path), prompts, config.max_new_tokens, where=where)
    except InputError as error:
        raise InputError(f"{model.given}: {error}") from error
    return prompts


def _answer(
    model: EvaluatedModel,
    prompts: list[np.ndarray],
    passes: list[_Pass],
    dtype: str,
    folder: EvaluationFolder,
    alike: EvaluatedModel,
) -> None:
    """Have a model give, in each pass, the answers that it has not given yet; those of a model alike make it quick."""
    begun = []
    for each in passes:
        kept, asked = folder.answers(model.label, each.answers), each.asked()
        done = {place for place, (question, number) in enumerate(asked) if (question.row, number) in kept}
        if len(done) < len(asked):
            begun.append((each, done))
    if not begun:
        return
    loaded, tokenizer = load_model(model.path, dtype=dtype), load_tokenizer(model.path)
    cast(nn.Module, loaded).to("cuda" if torch.cuda.is_available() else "cpu")
    for each, done in begun:
        asked, named = each.asked(), model.label + (", samples" if each.answers == names.SAMPLES else "")
        # The bar begins where an earlier start ended.
        with tqdm(total=len(asked), initial=len(done), desc=named, unit="answer") as bar:
            known = {} if each.options.samples > 1 else folder.answers(alike.label, each.answers)
            there = (known.get((question.row, 0)) for question in each.questions)
            likely = [() if answer is None else answer.response_ids for answer in there]
            options = replace(each.options, likely=likely)
            for place, answer in stream_answers(loaded, tokenizer, prompts, options, done=done):
                folder.add(model.label, each.answers, *asked[place], answer)
                bar.update()


def _results(
    prompts: Mapping[str, list[np.ndarray]],
    passes: Sequence[_Pass],
    settings: dict[str, Any],
    named: Sequence[EvaluatedModel],
    folder: EvaluationFolder,
    reference: ReferenceModel | None,
    scored: Sequence[ScoredAnswers] | None,
) -> dict[str, Any]:
    """What the answers are worth, as in results.json."""
    questions = passes[0].questions
    given = [{m.label: each.given(folder.answers(m.label, each.answers)) for m in named} for each in passes]
    answers = {label: [answer for (answer,) in those] for label, those in given[0].items()}
    samples = given[1] if len(given) > 1 else None
    entries = {m.label: {"path": m.path, **summarize_model(questions, answers[m.label])} for m in named}
    for model in named:
        entry, label, logps = entries[model.label], model.label, []
        if reference is not None:
            logps = [
                reference.measure(model, each.logps, prompts[label], those[label], each.asked())
                for each, those in zip(passes, given, strict=True)
            ]
            entry["reference"] = _logratios(logps[0])
        if samples is not None:
            entry["samples"] = summarize_samples(questions, samples[label])
            if logps:
                temperature = settings["samples_temperature"]
                passed = None if scored is None else which_pass(scored[1], label)
                entry["samples"] |= samples_and_reference(
                    questions, samples[label], logps[1], temperature=temperature, passed=passed
                )
    results = {
        "minordpo": __version__,
        "settings": settings,
        "models": entries,
        "comparisons": compare_models(questions, answers),
    }
    if samples is not None:
        results["sample_comparisons"] = compare_samples(questions, samples)
    return results


def _add_verified(
    results: dict[str, Any],
    scored: Sequence[ScoredAnswers],
    record: Mapping[str, Any],
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Sequence[Answer]]],
) -> None:
    """Add what the verifier says to the results; its examples stand in place of those that numbers give."""
    results["verifier"] = record
    for label, entry in results["models"].items():
        entry["verified"] = summarize_verdicts(scored[0], label)
        entry["examples"] = verified_examples(questions, [a for (a,) in answers[label]], scored[0], label)
        for each in scored[1:]:
            samples = entry["samples"]
            samples["verified"] = summarize_verdicts(each, label)
            for name, found in summarize_passes(each, label).items():
                samples[name]["passed"] = found
    results["verified_comparisons"] = compare_verdicts(scored[0])
    for each in scored[1:]:
        results["verified_sample_comparisons"] = compare_verdicts(each, several=True)


def _logratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of a model's own answers, in nats: how much likelier than under the reference, and how likely there.

    Greedy answers, so this is no KL divergence; text that has broken down is what the reference finds unlikely.
    """
    tokens = sum(row["tokens"] for row in rows)
    logp, ref_logp = (sum(row[name] for row in rows) for name in ("logp", "ref_logp"))
    return {
        "logratio": (logp - ref_logp) / len(rows),
        "logratio_per_token": (logp - ref_logp) / tokens,
        "ref_logp_per_token": ref_logp / tokens,
    }
