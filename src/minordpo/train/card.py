"""The model card of a tuned model: what it was made from and how, and what was measured, in words with units."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minordpo.config import RunConfig, dump_config
from minordpo.config.yaml import write_yaml
from minordpo.engine.models import REFERENCE_ADAPTER
from minordpo.generate.generation import Answer
from minordpo.generate.text_measures import summarize
from minordpo.monitor.summary import for_card
from minordpo.run_folder import records
from minordpo.version import __version__

if TYPE_CHECKING:
    from minordpo.train.trainer import PreferenceTrainer

SHOWN_ANSWERS = 2
_PROMPT_CHARACTERS, _ANSWER_CHARACTERS = 1200, 1000  # of a sample on the card; samples.jsonl has all of it
_ASKED = "So the answer is:"

# Kinds of data: what their examples are called, and the better and the worse response.
_WORDS = {
    "labelled": ("labelled responses", "desirable", "undesirable"),
    "pairs": ("pairs", "chosen", "rejected"),
    "ranked": ("prompts with ranked responses", "best", "worst"),
}

_TOLD = (
    records.LOSS,
    records.CHOSEN_LOGRATIO,
    records.REJECTED_LOGRATIO,
    records.CHOSEN_LOGP,
    records.REJECTED_LOGP,
    records.CHOSEN_BELOW,
    records.ACCURACY,
)


def model_card(
    config: RunConfig, trainer: PreferenceTrainer, samples: Sequence[Mapping[str, Any]] = ()
) -> str:
    """README.md of the model folder; `samples` are the rows of the run's samples.jsonl.

    Whatever a model wrote stands in fenced blocks that it cannot end.
    """
    name = Path(config.model.path).name
    parts = [
        f"---\n{write_yaml(_front_matter(config, trainer))}---",
        f"# {_code(name)} tuned with {_code(config.objective.name)}",
        _made_from(config, trainer),
        "## Objective",
        _objective(trainer),
        "## What was measured",
        _measured(trainer),
        _watched(trainer),
        _samples(samples, config.samples.max_new_tokens),
        "Nothing else was measured: what is not said here of correctness, safety or other tasks is not known.",
        "## Use",
        _use(config, trainer),
        "## The whole configuration",
        _fenced(dump_config(config), "yaml"),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(config: RunConfig, trainer: PreferenceTrainer) -> dict[str, Any]:
    is_folder = Path(config.model.path).expanduser().exists()
    terms = [term.name for term in trainer.objective.terms]
    return {
        "library_name": "transformers" if config.lora is None else "peft",
        **({} if is_folder else {"base_model": config.model.path}),
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(["preference-tuning", *terms, "minordpo"])),
    }


# ---- what it was made from ----
def _made_from(config: RunConfig, trainer: PreferenceTrainer) -> str:
    model, args = config.model, trainer.args
    what, *_ = _words(trainer)
    revision = f" (revision {_code(model.revision)})" if model.revision else ""
    tuned = "every weight was tuned"
    if config.lora is not None:
        tuned = f"a LoRA adapter of rank {config.lora.get('r', 8)} was tuned on top of it"
    reference = "the same model before training" if model.reference is None else _code(model.reference)
    if trainer.reference is None:
        reference = "none"
    others = f"of {_code(config.data.eval)} were" if isinstance(config.data.eval, str) else "others were"
    held_out = f"; {len(trainer.held_out)} {others} held out" if trainer.held_out else ""
    per_step = min(trainer.sampler.per_step, len(trainer.examples))
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    return "\n".join(
        [
            f"Tuned on preferences with minordpo {__version__}.",
            "",
            f"- Model: {_code(model.path)}{revision}; {tuned}.",
            f"- Reference: {reference}.",
            f"- Data: {len(trainer.examples)} {what} of {_code(config.data.train)}{held_out}.",
            f"- Training: {trainer.state.global_step} steps of {per_step} {what} (passes over the data: "
            f"{trainer.state.epoch or 0:.3g}), learning rate {args.learning_rate:g}, {schedule} schedule, "
            f"seed {args.seed}.",
        ]
    )


def _objective(trainer: PreferenceTrainer) -> str:
    parts = []
    for term in trainer.objective.terms:
        hyper = ", ".join(f"{key} = {str(value).lower()}" for key, value in term.hyper.items())
        weight = f"{term.weight:g} × " if len(trainer.objective.terms) > 1 else ""
        parts += [
            f"{weight}{_code(term.name)}{f' with {hyper}' if hyper else ''}, a loss for each prompt:",
            f"    {term.spec.formula.rstrip('.')}",
            f"Source: {term.spec.source}.",
        ]
    parts.append(
        "A log-ratio is log π/π_ref of a response, summed over its tokens, in nats: how much likelier the tuned model "
        "π finds it than the reference π_ref. logp is log π, m is log π a token, σ the logistic function."
    )
    return "\n\n".join(parts)


# ---- what was measured ----
def _measured(trainer: PreferenceTrainer) -> str:
    """The held-out measurement of the weights that are saved; without held-out examples the last step's."""
    what, better, worse = _words(trainer)
    state, step = trainer.state, trainer.state.global_step
    if not trainer.held_out:
        row: records.Row | None
        row, count = trainer.last_step, 0
        where = f"No {what} were held out. On those that the last step trained on, before its update"
    else:
        best = state.best_global_step if trainer.args.load_best_model_at_end else None
        step, count = best or step, len(trainer.held_out)
        row = trainer.metrics_file.evaluation(step) or trainer.last_evaluation
        kept = f", whose weights are kept as the best by {trainer.args.metric_for_best_model}" if best else ""
        where = f"On the {count} held-out {what}, after step {step}{kept}"
    measured = {} if row is None else row.values
    values = {name: float(measured[name]) for name in _TOLD if name in measured}
    lines = [
        _likelihood(values, name, side)
        for name, side in (("chosen", better), ("rejected", worse))
        if f"{records.LOGPS}/{name}" in values
    ]
    if records.CHOSEN_BELOW in values:
        share = _share(values[records.CHOSEN_BELOW], count if better != "desirable" else 0)
        lines.append(f"{share} of the {better} responses are less likely than under the reference.")
    if records.ACCURACY in values:
        share = _share(values[records.ACCURACY], count)
        lines.append(
            f"{share} of the {what} are ranked right: the {better} response has a larger log-ratio than the {worse} "
            "one."
        )
    if records.LOSS in values:
        lines.append(f"The mean loss is {values[records.LOSS]:.4g}.")
    return f"{where}:\n\n" + "\n".join(f"- {line}" for line in lines)


def _watched(trainer: PreferenceTrainer) -> str:
    monitor = trainer.monitor()
    return "" if monitor is None else for_card(monitor)


def _likelihood(values: Mapping[str, float], name: str, side: str) -> str:
    logratio = values.get(f"{records.LOGRATIOS}/{name}")
    if logratio is None:
        return f"The {side} responses have a mean log-prob of {values[f'{records.LOGPS}/{name}']:.2f} nats."
    than = "more" if logratio > 0 else "less"
    if not math.isfinite(logratio) or f"{logratio:.2f}" in ("0.00", "-0.00"):
        return f"The {side} responses have a mean log-ratio of {abs(logratio):.2f} nats."
    return (
        f"On average the {side} responses are {than} likely than under the reference: log-ratio "
        f"{logratio:+.2f} nats."
    )


def _share(share: float, count: int) -> str:
    return f"{share:.0%} ({round(share * count)} of {count})" if count else f"{share:.0%}"


def _words(trainer: PreferenceTrainer) -> tuple[str, str, str]:
    grades = [tuple(example.grades) for example in trainer.examples]
    if all(len(each) == 1 for each in grades):
        return _WORDS["labelled"]
    return _WORDS["pairs" if all(each == (1.0, 0.0) for each in grades) else "ranked"]


# ---- sample answers ----
def _samples(rows: Sequence[Mapping[str, Any]], limit: int) -> str:
    before, after = ([row for row in rows if row["when"] == when] for when in ("before", "after"))
    if not before or not after:
        return ""
    summaries = [summarize(list(map(_answer, each))) for each in (before, after)]
    measures = [
        ("ended by themselves", "stopped", "{:.0%}"),
        ("ended in a loop", "looping", "{:.0%}"),
        ("4-grams repeated within the answer, mean share", "repeated_4grams", "{:.0%}"),
        ("tokens, mean", "tokens", "{:.0f}"),
    ]
    if any(_ASKED in text for row in rows for text in (row["prompt"], row["answer"])):
        measures.append((f'with a line "{_ASKED} N"', "asked_format", "{:.0%}"))
    table = [
        f"| {label} | {' | '.join(form.format(summary[key]) for summary in summaries)} |"
        for label, key, form in measures
    ]
    later = {row["row"]: row for row in after}
    shown = [(row, later[row["row"]]) for row in before if row["row"] in later][:SHOWN_ANSWERS]
    return "\n\n".join(
        [
            f"Greedy answers to {len(after)} held-out prompts, of at most {limit} tokens, to be read rather than "
            f"counted: one answer is {1 / len(after):.0%} of a share.",
            "\n".join(["| answers | before | after |", "|---|---|---|", *table]),
            "The first of them, as they came:",
            *(part for pair in shown for part in _shown_sample(*pair)),
        ]
    )


def _shown_sample(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    prompt = before["prompt"]
    cut = len(prompt) > _PROMPT_CHARACTERS
    yield f"**Row {before['row']}: the {'end of the ' if cut else ''}prompt**"
    yield _fenced(f"…{prompt[-_PROMPT_CHARACTERS:]}" if cut else prompt)
    for when, row in (("before", before), ("after", after)):
        yield f"**The answer {when}**" + ("" if row["stopped"] else " (ran into the limit)")
        text = row["answer"]
        yield _fenced(text if len(text) <= _ANSWER_CHARACTERS else f"{text[:_ANSWER_CHARACTERS]}…")


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(row["answer"], tuple(row["token_ids"]), row["stopped"], row["tokens"])


# ---- use ----
def _use(config: RunConfig, trainer: PreferenceTrainer) -> str:
    export = "`minordpo export RUN OUT` makes a plain model folder of the run, adapters merged."
    if config.lora is None:
        return "A plain model folder: `AutoModelForCausalLM.from_pretrained` of transformers loads it."
    adapters: Any = getattr(trainer.policy, "peft_config", {})
    if REFERENCE_ADAPTER in adapters:
        return (
            f"Two adapters: the tuned one, and in `{REFERENCE_ADAPTER}/` the one that was there before and belongs "
            f"below it. {export}"
        )
    return f"An adapter: `AutoPeftModelForCausalLM.from_pretrained` of peft loads it on its base. {export}"


# ---- Markdown ----
# What a terminal would obey, line ends that only some readers know, and what reverses the text after it.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _fenced(text: str, language: str = "") -> str:
    """A block whose fence is longer than any row of backticks in it, so that the text cannot end it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    plain = _CONTROLS.sub("�", text.replace("\r\n", "\n").rstrip("\n"))
    return f"{fence}{language}\n{plain}\n{fence}"


def _code(text: str) -> str:
    """The text as code within a line."""
    line = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"
