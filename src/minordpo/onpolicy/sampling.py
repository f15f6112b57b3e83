"""Models × prompts → answers, scores, pairs. Read this first.

prompts  ─► asked                    the verifier is tried on them before a model is loaded
models   ─► pairs.answers.jsonl      each model in turn, written as they come; the same command goes on
verifier ─► pairs.answers.jsonl      a score to each answer
         ─► pairs.jsonl              pairs, ranked or labelled responses
→ pairs.report.json, and what it says
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from tqdm import tqdm

from minordpo.engine.models import load_model, load_tokenizer, model_config
from minordpo.errors import InputError
from minordpo.evaluate.evaluation import BATCH_SIZE, TOKEN_BUDGET
from minordpo.evaluate.folder import EvaluatedModel, name_models
from minordpo.generate.generation import Answer, GenerationOptions, Sampling, refuse_prompts, stream_answers
from minordpo.generate.vllm_answers import VLLM_LEAST_TEMPERATURE, stream_vllm_answers
from minordpo.generate.vllm_server import servable
from minordpo.onpolicy.answers import SampledAnswer, SampledAnswers
from minordpo.onpolicy.pairing import PairingOptions, refuse_unlabelled
from minordpo.onpolicy.rows import make_rows, refuse_none
from minordpo.onpolicy.sample_files import SampleFiles, alone, known_settings, made_by, seconds_before
from minordpo.onpolicy.summary import Summary
from minordpo.run_folder.files import refuse_existing, write_jsonl, write_text
from minordpo.verify.prompts import Prompts, read_prompts
from minordpo.verify.verdict import Asked
from minordpo.verify.verifier import Verifier

# More samples of a prompt are its earlier ones and others, and more prompts likewise; a digest stands for the source.
# The digest has a message of its own.
_MAY_CHANGE = ("samples", "limit", "prompts", "split", "prompts_digest")
# What settings that an earlier version kept do not say.
_BEFORE = {"backend": "transformers"}
BACKENDS = ("transformers", "vllm")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """The settings of a sampling; answers follow from them and from the models.

    Raises:
        InputError: a size below 1, a temperature at which nothing is drawn, or an unknown backend.
    """

    prompts: str
    split: str = "train"
    limit: int | None = None  # prompts, the first ones
    prompt: str = "{question}"
    plain_text: bool = False
    samples: int = 8
    temperature: float = 1.0
    seed: int = 0
    max_new_tokens: int = 512
    dtype: str = "float32"
    backend: str = "transformers"  # what makes the answers, one of BACKENDS

    def __post_init__(self) -> None:
        for name in ("samples", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name} is {value}, but at least 1 is needed. Raise it")
        if self.backend not in BACKENDS:
            raise InputError(
                f"--backend is {self.backend!r}, but it is one of {', '.join(BACKENDS)}. Correct it"
            )
        if self.backend == "vllm" and 0 < self.temperature < VLLM_LEAST_TEMPERATURE:
            raise InputError(
                f"temperature is {self.temperature:g}, but vLLM draws at {VLLM_LEAST_TEMPERATURE} at least. Raise it"
            )
        Sampling(temperature=self.temperature, seed=self.seed)

    def read(self) -> Prompts:
        """The prompts that are asked.

        Raises:
            InputError: they cannot be read.
        """
        read = read_prompts(self.prompts, split=self.split, template=self.prompt, plain_text=self.plain_text)
        return read if self.limit is None else read.first(self.limit)


def sample(
    models: Sequence[str],
    config: SamplingConfig,
    verifier: Verifier,
    pairing: PairingOptions,
    out: Path,
    *,
    batch_size: int | None = None,
    say: Any = print,
    may_be_empty: bool = False,
) -> Summary:
    """Have the models answer, the verifier score, and write what training takes to `out`; returns what came of it.

    The same call goes on where one was killed, and makes no answer twice. Another verifier scores the answers anew;
    another pairing pairs them anew. That no row came of it is an error unless it `may_be_empty`.

    Raises:
        InputError: something cannot be used, the files beside `out` are of other settings, or no data came of it.
    """
    files = SampleFiles(out)
    if out.suffix != ".jsonl":
        raise InputError(f"{out} does not end in .jsonl, but rows are written to it. Name it so")
    if not models:
        raise InputError("no model is named, but at least one is needed. Name a model folder or a hub id")
    refuse_existing(out, overwrite=True)
    if not out.parent.is_dir():
        raise InputError(
            f"{out} cannot be written: there is no folder {out.parent}. Create it or name another file"
        )
    prompts = config.read()
    asked = [each.asked for each in prompts.prompts]
    refuse_unlabelled(pairing, verifier)
    verifier.check(asked)
    if out.is_file() and not files.settings.exists():
        raise InputError(
            f"{out} exists already, and there is no {files.settings} that says of what it was made. Name another "
            "--out, or move the file away"
        )
    with alone(files):
        known = known_settings(files)
        named = name_models(list(models), known.get("models", {}))
        pair_from = _labels(pairing, named)
        for model in named:
            _refuse_impossible(model, prompts, config)
        answers = _begin(files, known, named, config, prompts, verifier, say=say)
        left = sum(not _scored(named, row.row, config.samples, answers) for row in asked)
        if left and (cost := verifier.cost(left, config.samples * len(named))):
            say(cost)
        seconds = seconds_before(files) if known else {"sampling": 0.0, "scoring": 0.0}
        for model in named:
            started = time.perf_counter()
            _answer(model, prompts, config, answers, batch_size, version=functools.partial(made_by, files))
            gc.collect()  # a model hangs in cycles, and the next one may need the room
            seconds["sampling"] += time.perf_counter() - started
        started = time.perf_counter()
        _score(named, asked, config.samples, answers, verifier)
        answers.finish()
        seconds["scoring"] += time.perf_counter() - started
        rows = make_rows(prompts, named, config.samples, answers, pair_from)
        summary = Summary.of(
            prompts, named, config.samples, answers, rows, verifier=verifier.spec, seconds=seconds
        )
        write_text(files.report, json.dumps(summary.facts, indent=2, ensure_ascii=False) + "\n")
        if not rows.rows and not may_be_empty:
            say(str(summary))
            refuse_none(rows, verifier.spec, out)
        write_jsonl(out, rows.rows)
    return summary


def _begin(
    files: SampleFiles,
    known: Mapping[str, Any],
    named: Sequence[EvaluatedModel],
    config: SamplingConfig,
    prompts: Prompts,
    verifier: Verifier,
    *,
    say: Any,
) -> SampledAnswers:
    """The answers so far; the settings are kept, and are those that the answers were made with."""
    settings = asdict(config) | {"prompts_digest": prompts.digest}
    if known:
        before = _BEFORE | known["settings"]
        other = [
            f"{name} was {json.dumps(before.get(name))}, not {json.dumps(value)}"
            for name, value in settings.items()
            if before.get(name) != value and name not in _MAY_CHANGE
        ]
        if before.get("prompts_digest") != prompts.digest:
            raise InputError(
                f"{files.answers} holds answers to other prompts: the prompts or right answers of {config.prompts} are "
                "not those of the first start. Give the file as it was (--limit asks more or fewer of it), or name "
                "another --out"
            )
        if other:
            raise InputError(
                f"{files.answers} holds answers of other settings: {'; '.join(other)}. Give them as they were, or name "
                "another --out"
            )
    answers = SampledAnswers(files.answers)
    judged = {"spec": verifier.spec, **verifier.settings(), "facts_digest": prompts.facts_digest}
    if known and known["verifier"] != judged and any(each.verdict for each in answers.found.values()):
        before_and_now = {known["verifier"]["spec"], verifier.spec}
        why = "" if len(before_and_now) > 1 else ", its code or a column that it is given was another"
        say(
            f"the answers were scored by {known['verifier']['spec']} before{why}; {verifier.spec} scores them anew"
        )
        answers.without_scores()
    models = dict(known.get("models", {}))
    models |= {model.label: {"path": model.path, "identity": model.identity} for model in named}
    kept = {"settings": settings, "models": models, "verifier": judged}
    kept |= {name: known[name] for name in ("vllm",) if name in known}
    write_text(files.settings, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    return answers


def _labels(pairing: PairingOptions, named: Sequence[EvaluatedModel]) -> PairingOptions:
    """The options with `pair_from` as labels of models."""
    if pairing.pair_from is None:
        return pairing
    found = []
    for given in pairing.pair_from:
        label = next((each.label for each in named if given in (each.given, each.path, each.label)), None)
        if label is None:
            known = ", ".join(each.given for each in named)
            raise InputError(f"--pair-from names {given}, but the models are {known}. Name one of them")
        found.append(label)
    if found[0] == found[1]:
        raise InputError(
            f"--pair-from names the model {pairing.pair_from[0]} twice, but chosen answers of one model and rejected "
            "ones of another are needed. Name two models, or leave --pair-from out"
        )
    others = [each.given for each in named if each.label not in found]
    if others:
        raise InputError(
            f"--pair-from takes answers of {' and '.join(pairing.pair_from)} alone, so those of {', '.join(others)} "
            f"would be of no use. Leave {', '.join(others)} out"
        )
    return replace(pairing, pair_from=(found[0], found[1]))


def _refuse_impossible(model: EvaluatedModel, prompts: Prompts, config: SamplingConfig) -> None:
    """Refuse what a model or the backend cannot answer, before another has answered for hours."""
    if config.backend == "vllm":
        servable(model.path)
    tokens = prompts.tokens(load_tokenizer(model.path))
    try:
        refuse_prompts(
            model_config(model.path),
            tokens,
            config.max_new_tokens,
            where=[each.asked.where for each in prompts.prompts],
        )
    except InputError as error:
        raise InputError(f"{model.given}: {error}") from error


def _answer(
    model: EvaluatedModel,
    prompts: Prompts,
    config: SamplingConfig,
    answers: SampledAnswers,
    batch_size: int | None,
    *,
    version: Callable[[str], None],
) -> None:
    """Have a model give the answers that it has not given yet."""
    asked = [(each.asked.row, number) for each in prompts.prompts for number in range(config.samples)]
    done = {place for place, (row, number) in enumerate(asked) if (row, model.label, number) in answers.found}
    if len(done) == len(asked):
        return
    tokenizer = load_tokenizer(model.path)
    tokens = prompts.tokens(tokenizer)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = GenerationOptions(
        max_new_tokens=config.max_new_tokens,
        batch_size=BATCH_SIZE[device] if batch_size is None else batch_size,
        token_budget=TOKEN_BUDGET,
        sampling=Sampling(temperature=config.temperature, seed=config.seed),
        samples=config.samples,
    )
    made: Generator[tuple[int, Answer], None, None]
    if config.backend == "vllm":
        made = stream_vllm_answers(
            model.path, tokenizer, tokens, options, dtype=config.dtype, done=done, version=version
        )
    else:
        loaded = load_model(model.path, dtype=config.dtype)
        cast(nn.Module, loaded).to(device)
        made = stream_answers(loaded, tokenizer, tokens, options, done=done)
    with (
        contextlib.closing(made),  # a server ends with it, also where an answer cannot be kept
        tqdm(total=len(asked), initial=len(done), desc=f"{model.label} answers", unit="answer") as bar,
    ):
        for place, answer in made:
            row, number = asked[place]
            answers.add(SampledAnswer(row=row, model=model.label, sample=number, answer=answer))
            bar.update()


def _scored(named: Sequence[EvaluatedModel], row: int, samples: int, answers: SampledAnswers) -> bool:
    """Whether every answer to a prompt is there with its score."""
    places = ((row, model.label, sample) for model in named for sample in range(samples))
    return all(place in answers.found and answers.found[place].verdict is not None for place in places)


def _score(
    named: Sequence[EvaluatedModel],
    asked: Sequence[Asked],
    samples: int,
    answers: SampledAnswers,
    verifier: Verifier,
) -> None:
    """Have the verifier score the answers that have no score yet, all answers to a prompt together."""
    left = [
        (one, [each for model in named for each in answers.of(one.row, model.label, samples)])
        for one in asked
        if not _scored(named, one.row, samples, answers)
    ]

    def groups() -> Iterator[tuple[int, Asked, Sequence[str]]]:
        for key, (one, given) in enumerate(left):
            yield key, one, [each.answer.text for each in given]

    with tqdm(total=len(left), desc=f"{verifier.spec} scores", unit="prompt", disable=not left) as bar:
        for key, verdicts in verifier.verdicts(groups()) if left else ():
            answers.score(left[key][1], verdicts)
            bar.update()
