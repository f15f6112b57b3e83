"""The model card of a tuned model: what it was made from and how, and what was measured, in words with units."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from minordpo.config import RunConfig, dump_config
from minordpo.config.yaml import write_yaml
from minordpo.data.read.accounting import Unread
from minordpo.engine.models import REFERENCE_ADAPTER
from minordpo.generate.generation import Answer
from minordpo.generate.text_measures import asked_line, fenced, means, measure
from minordpo.monitor.summary import cost, first_changes
from minordpo.run_folder import records
from minordpo.version import __version__

if TYPE_CHECKING:
    from minordpo.train.trainer import PreferenceTrainer

SHOWN_ANSWERS = 2
_ASKED = "So the answer is:"

# Kinds of data: what their examples are called, and the better and the worse response.
_WORDS = {
    "labelled": ("labelled responses", "desirable", "undesirable"),
    "pairs": ("pairs", "chosen", "rejected"),
    "ranked": ("prompts with ranked responses", "best", "worst"),
}


def model_card(
    config: RunConfig,
    trainer: PreferenceTrainer,
    samples: Sequence[Mapping[str, Any]] = (),
    unread: Mapping[str, Mapping[Unread, int]] | None = None,
) -> str:
    """README.md of the model folder; `samples` are the rows of the run's samples.jsonl, `unread` what nothing read.

    Whatever a model wrote stands in fenced blocks that it cannot end.
    """
    args, state = trainer.args, trainer.state
    monitor, rows = trainer.monitor(), trainer.metrics_file.rows()
    best = state.best_global_step if trainer.held_out and args.load_best_model_at_end else None
    step = best or state.global_step
    # The held-out measurement of the saved weights; without held-out examples, the last step's own.
    row: records.Row | None = trainer.last_step
    if trainer.held_out:
        row = trainer.metrics_file.evaluation(step) or trainer.last_evaluation
    what, better, worse = _words(trainer)
    return _template().render(
        config=config,
        trainer=trainer,
        version=__version__,
        front_matter=write_yaml(_front_matter(config, trainer)),
        name=Path(config.model.path).name,
        what=what,
        better=better,
        worse=worse,
        count=len(trainer.held_out),
        per_step=min(trainer.sampler.per_step, len(trainer.examples)),
        schedule=getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type),
        terms=trainer.objective.terms,
        best=best,
        step=step,
        keys=records,
        values={} if row is None else row.values,
        monitor=monitor,
        changes=first_changes(rows),
        cost=cost(rows),
        answers=_answers(samples),
        adapters=getattr(trainer.policy, "peft_config", {}),
        reference_adapter=REFERENCE_ADAPTER,
        whole_config=dump_config(config),
        unread=unread or {},
        sources=_sources(trainer),
    )


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader(__package__, package_path="")
    made = jinja2.Environment(
        loader=loader,
        autoescape=False,  # Markdown; what a model or a path says passes through `code` or `fenced`
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"code": _code, "fenced": fenced}
    return made.get_template("card.md.jinja")


def _front_matter(config: RunConfig, trainer: PreferenceTrainer) -> dict[str, Any]:
    is_folder = Path(config.model.path).expanduser().exists()
    terms = [term.name for term in trainer.objective.terms]
    return {
        "library_name": "transformers" if config.lora is None else "peft",
        **({} if is_folder else {"base_model": config.model.path}),
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(["preference-tuning", *terms, "minordpo"])),
    }


def _sources(trainer: PreferenceTrainer) -> list[tuple[str, int]]:
    """Each source that was trained on and the number of its examples; nothing where there is one."""
    sources = trainer.sources["train"]
    return [] if sources is None else list(zip(sources.names, sources.counts.tolist(), strict=True))


def _words(trainer: PreferenceTrainer) -> tuple[str, str, str]:
    if (trainer.examples.counts == 1).all():
        return _WORDS["labelled"]
    return _WORDS["pairs" if trainer.examples.are_pairs else "ranked"]


# ---- sample answers ----
def _answers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Measures of the sample answers before and after, and the first answers; None without both."""
    before, after = ([row for row in rows if row["when"] == when] for when in ("before", "after"))
    if not before or not after:
        return None
    summaries = [means(list(map(_measures, each))) for each in (before, after)]
    measures = [
        ("ended by themselves", "stopped", "{:.0%}"),
        ("ended in a loop", "looping", "{:.0%}"),
        ("4-grams repeated within the answer, mean share", "repeated_4grams", "{:.0%}"),
        ("tokens, mean", "tokens", "{:.0f}"),
    ]
    if any(_ASKED in text for row in rows for text in (row["prompt"], row["answer"])):
        measures.append((f'with a line "{_ASKED} N"', "asked_format", "{:.0%}"))
    later = {row["row"]: row for row in after}
    both = [(row, later[row["row"]]) for row in before if row["row"] in later][:SHOWN_ANSWERS]
    return {
        "count": len(after),
        "measures": [
            (label, *(form.format(each[key]) for each in summaries)) for label, key, form in measures
        ],
        "shown": both,
    }


def _measures(row: Mapping[str, Any]) -> dict[str, float]:
    answer = Answer(row["answer"], tuple(row["token_ids"]), row["stopped"], row["tokens"])
    return measure(answer) | {"asked_format": float(asked_line(answer.text) is not None)}


# ---- Markdown ----
def _code(text: str) -> str:
    """The text as code within a line."""
    line = " ".join(text.split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"
