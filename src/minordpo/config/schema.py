"""The run config: frozen dataclasses, and one line of reference for every key."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from minordpo.config.types import needed, shown


def _about(meaning: str, **facts: Any) -> dict[str, Any]:
    """Field metadata. Facts: `minimum` of a number; `rest` (the field takes every other key of its section);
    `verbatim`, the library class that names and types the keys of a free mapping."""
    return {"meaning": meaning, **facts}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The policy, and where its reference comes from."""

    path: str = field(metadata=_about("model to tune: a folder, a run folder, a hub id or an adapter folder"))
    gguf_file: str | None = field(
        default=None,
        metadata=_about("file in model.path to read weights and tokenizer from, when they are GGUF"),
    )
    dtype: Literal["float32", "bfloat16"] = field(
        default="float32",
        metadata=_about("type of the weights in memory; bfloat16 only for a base frozen under LoRA"),
    )
    reference: str | None = field(
        default=None,
        metadata=_about(
            "another model (or run folder) as the reference; null: the model as it is before training"
        ),
    )
    revision: str | None = field(
        default=None, metadata=_about("branch, tag or commit of model.path on the hub")
    )
    trust_remote_code: bool = field(
        default=False, metadata=_about("run Python code that comes with the model")
    )
    dropout: bool = field(
        default=False, metadata=_about("keep the model's and LoRA's dropout on in training")
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The preference pairs, and what happens to rows that do not fit."""

    train: str = field(
        metadata=_about("pairs to train on: a .jsonl, .json, .parquet or .csv file, or a hub set")
    )
    eval: int | str | None = field(
        default=None,
        metadata=_about(
            "a number of pairs held out of data.train, or another file or hub set; 0 or null: none", minimum=0
        ),
    )
    split: str = field(default="train", metadata=_about("split of data.train where that is a hub set"))
    eval_split: str = field(default="test", metadata=_about("split of data.eval where that is a hub set"))
    max_length: int | None = field(
        default=1024, metadata=_about("most tokens of a prompt with one response; null: no limit", minimum=2)
    )
    overlong: Literal["refuse", "drop", "truncate"] = field(
        default="refuse",
        metadata=_about("pairs over data.max_length: stop, leave out, or cut the responses' ends"),
    )
    invalid: Literal["refuse", "drop"] = field(
        default="refuse",
        metadata=_about("rows that cannot be used (empty, identical, …): stop, or leave out"),
    )
    score_end: Literal["template", "end_of_turn"] = field(
        default="template",
        metadata=_about(
            "scored to the end of what the chat template emits, or only through the end-of-turn token"
        ),
    )
    strip_few_shot: bool = field(
        default=False,
        metadata=_about("take worked examples out of the prompts, leaving the question (zero-shot)"),
    )
    limit: int | None = field(
        default=None, metadata=_about("use only the first rows of data.train", minimum=1)
    )


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What to optimise; `hyper` is checked against the objective by `minordpo.objectives`."""

    name: str = field(
        metadata=_about(
            "objective, such as minordpo or dpo, a weighted sum, minordpo + 0.1*sft, or package.module:function, which "
            "needs --allow-code"
        )
    )
    hyper: dict[str, Any] = field(
        default_factory=dict, metadata=_about("hyper-parameters of the objective, such as beta", rest=True)
    )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to optimise; `arguments` go to `transformers.TrainingArguments` as they are."""

    token_budget: int | None = field(
        default=None,
        metadata=_about("most tokens of one packed micro-batch; null: chosen by the run", minimum=1),
    )
    arguments: dict[str, Any] = field(
        default_factory=dict,
        metadata=_about(
            "any field of transformers.TrainingArguments but output_dir; unless given, logging_steps is 1, save_steps "
            "0.25, save_total_limit 2 and report_to none",
            rest=True,
            verbatim="transformers.TrainingArguments",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """The responses a run samples from the model for a person to read."""

    prompts: int = field(
        default=8, metadata=_about("prompts that are answered; 0 turns samples off", minimum=0)
    )
    max_new_tokens: int = field(
        default=256, metadata=_about("longest sampled response, in tokens", minimum=1)
    )


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """What is measured beside the loss."""

    reference: bool = field(
        default=True, metadata=_about("compute the reference for measurement where the objective needs none")
    )


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Whether the model's text is breaking, watched while it trains; docs/monitor.md."""

    enabled: bool = field(
        default=True, metadata=_about("watch log-ratios and short answers, and say when the health changes")
    )
    prompts: int = field(
        default=4, metadata=_about("held-out prompts (training ones where none are held out)", minimum=1)
    )
    max_new_tokens: int | Literal["auto"] = field(
        default="auto",
        metadata=_about("longest answer to them, in tokens; auto: 24 to 48, by the run's steps", minimum=1),
    )
    probe_every: int | Literal["auto"] = field(
        default="auto",
        metadata=_about("steps between answers; auto: six times a run, each 100 of a long one", minimum=1),
    )
    on_collapse: Literal["warn", "stop", "rollback"] = field(
        default="warn",
        metadata=_about(
            "once the text has broken: say so, also stop, or also end with the last sound weights, which are kept in "
            "the run folder"
        ),
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, complete: two runs with equal configs on equal data are the same run."""

    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig
    training: TrainingConfig = field(default_factory=TrainingConfig)
    lora: dict[str, Any] | None = field(
        default=None,
        metadata=_about(
            "any field of peft.LoraConfig; null: every weight is tuned", verbatim="peft.LoraConfig"
        ),
    )
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    output: str = field(metadata=_about("run folder to write"))


def describe_config() -> str:
    """The reference of all keys, as text: key, type, default, meaning."""
    lines: list[str] = []

    def describe(cls: Any, prefix: str) -> None:
        hints = typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            if dataclasses.is_dataclass(hints[item.name]):
                describe(hints[item.name], f"{item.name}.")
                continue
            required = item.default is dataclasses.MISSING
            facts = (
                f"{needed(hints[item.name])}; {'required' if required else f'default {shown(item.default)}'}"
            )
            rest = item.metadata.get("rest")
            lines.append(f"{prefix}{'*' if rest else item.name}  ({'anything; optional' if rest else facts})")
            lines.append(f"    {item.metadata['meaning']}")

    describe(RunConfig, "")
    return "\n".join(lines)
