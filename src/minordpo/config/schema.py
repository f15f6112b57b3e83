"""The run config: frozen dataclasses, and one line of reference for every key."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from minordpo.config.types import needed, shown


def key(meaning: str, *, default: Any = dataclasses.MISSING, **facts: Any) -> Any:
    """A field and what its key means; without a default the key is required.

    Facts: `minimum` of a number; `items`, the class of the mappings in a list; `rest` (the field takes every other key
    of its section); `verbatim`, the library class that names and types the keys of a free mapping.
    """
    metadata = {"meaning": meaning, **facts}
    if facts.get("rest"):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The policy, and where its reference comes from."""

    path: str = key("model to tune: a folder, a run folder, a hub id or an adapter folder")
    gguf_file: str | None = key(
        "file in model.path to read weights and tokenizer from, when they are GGUF", default=None
    )
    dtype: Literal["float32", "bfloat16"] = key(
        "type of the weights in memory; bfloat16 only for a base frozen under LoRA", default="float32"
    )
    reference: str | None = key(
        "another model (or run folder) as the reference; null: the model as it is before training",
        default=None,
    )
    quantization: dict[str, Any] | None = key(
        "of a base frozen under LoRA: method (bitsandbytes or torchao) and any field of its config in transformers; "
        "null: the weights are not quantised",
        default=None,
    )
    revision: str | None = key("branch, tag or commit of model.path on the hub", default=None)
    trust_remote_code: bool = key("run Python code that comes with the model", default=False)
    router_aux_loss: bool | None = key(
        "train a mixture of experts on its routers' auxiliary loss too, with the coefficient of its config; null: as "
        "the config says (output_router_logits)",
        default=None,
    )
    dropout: bool = key("keep the model's and LoRA's dropout on in training", default=False)

    @property
    def source(self) -> dict[str, Any]:
        """Where the policy's files are, as `load_model` and `load_tokenizer` take it."""
        names = ("path", "revision", "gguf_file", "trust_remote_code")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One of several sources of data.train or data.eval; a path alone stands for one of which nothing else is said."""

    path: str = key("file, pattern of files or hub set, as data.train alone would name it")
    name: str | None = key(
        "what metrics and reports call it; null: the name of its file without endings", default=None
    )
    weight: float | int = key(
        "what counts its rows for, against those of the others (data.weight_by); above 0", default=1.0
    )
    limit: int | None = key("use only its first rows", default=None, minimum=1)
    split: str | None = key(
        "its split, where it is a hub set; null: data.split or data.eval_split", default=None
    )
    columns: dict[str, str | None] | None = key(
        "which of its columns is which; null: as data.columns says", default=None
    )
    text_as: Literal["text", "chat"] | None = key("as data.text_as, for it alone", default=None)

    @property
    def called(self) -> str:
        """Its name."""
        last = self.path.rstrip("/").rpartition("/")[2]
        return self.name or last.partition(".")[0].strip("*?[]-_") or last


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The preference pairs, and what happens to rows that do not fit."""

    train: str | tuple[SourceConfig | str, ...] = key(
        "pairs to train on: a .jsonl, .json, .parquet, .csv or .tsv file, packed (.jsonl.gz) or not, a pattern of such "
        "(part-*.jsonl), or a hub set; or a list of several such sources, each a name or a mapping",
        items=SourceConfig,
    )
    eval: int | str | tuple[SourceConfig | str, ...] | None = key(
        "a number of pairs held out of data.train, or another file or hub set, or a list of these; 0 or null: none",
        default=None,
        minimum=0,
        items=SourceConfig,
    )
    weight_by: Literal["rows", "steps"] = key(
        "of several sources: a pass has weight times the rows of each, or every step has a share of weight of each",
        default="rows",
    )
    split: str = key("split of data.train where that is a hub set", default="train")
    eval_split: str = key("split of data.eval where that is a hub set", default="test")
    columns: dict[str, str | None] | None = key(
        "which column of the rows is which: prompt: instruction_text; null: there is no such column",
        default=None,
    )
    text_as: Literal["text", "chat"] = key(
        "rows of plain text: trained on as they are, or as turns by the chat template", default="text"
    )
    text_system: Literal["unread", "before"] = key(
        "a system column beside plain text: told as not read, or put before the prompt with an empty line",
        default="unread",
    )
    max_length: int | None = key(
        "most tokens of a prompt with one response; null: no limit", default=1024, minimum=2
    )
    overlong: Literal["refuse", "drop", "truncate"] = key(
        "pairs over data.max_length: stop, leave out, or cut the responses' ends", default="refuse"
    )
    invalid: Literal["refuse", "drop"] = key(
        "rows that cannot be used (empty, identical, …): stop, or leave out", default="refuse"
    )
    score_end: Literal["template", "end_of_turn"] = key(
        "scored to the end of what the chat template emits, or only through the end-of-turn token",
        default="template",
    )
    strip_few_shot: bool = key(
        "take worked examples out of the prompts, leaving the question (zero-shot)", default=False
    )
    limit: int | None = key("use only the first rows of data.train", default=None, minimum=1)

    @property
    def train_name(self) -> str:
        """What is trained on, for people: one source or several."""
        return _named(self.train)

    @property
    def eval_name(self) -> str | None:
        """What is held out, where it is a source of its own."""
        return None if self.eval is None or isinstance(self.eval, int) else _named(self.eval)

    @property
    def paths(self) -> list[str]:
        """Every source of its own, to train on and held out."""
        given = [each for each in (self.train, self.eval) if isinstance(each, str | tuple)]
        return [source.path for each in given for source in sources_of(each)]


def sources_of(given: str | tuple[SourceConfig | str, ...]) -> tuple[SourceConfig, ...]:
    """What data.train or data.eval names, one or several, as sources."""
    several = (given,) if isinstance(given, str) else given
    return tuple(SourceConfig(path=each) if isinstance(each, str) else each for each in several)


def _named(given: str | tuple[SourceConfig | str, ...]) -> str:
    return ", ".join(source.path for source in sources_of(given))


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """What to optimise; `hyper` is checked against the objective by `minordpo.objectives`."""

    name: str = key(
        "objective, such as minordpo or dpo, a weighted sum, minordpo + 0.1*sft, or package.module:function, which "
        "needs --allow-code"
    )
    hyper: dict[str, Any] = key("hyper-parameters of the objective, such as beta", rest=True)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to optimise; `arguments` go to `transformers.TrainingArguments` as they are."""

    token_budget: int | None = key(
        "most tokens of one packed micro-batch; null: chosen by the run", default=None, minimum=1
    )
    arguments: dict[str, Any] = key(
        "any field of transformers.TrainingArguments but output_dir; unless given, logging_steps is 1, save_steps "
        "0.25, save_total_limit 2 and report_to none",
        rest=True,
        verbatim="transformers.TrainingArguments",
    )


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """The responses a run samples from the model for a person to read."""

    prompts: int = key("prompts that are answered; 0 turns samples off", default=8, minimum=0)
    max_new_tokens: int = key("longest sampled response, in tokens", default=256, minimum=1)


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """What is measured beside the loss."""

    reference: bool = key(
        "compute the reference for measurement where the objective needs none", default=True
    )


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Whether the model's text is breaking, watched while it trains; docs/monitor.md."""

    enabled: bool = key("watch log-ratios and short answers, and say when the health changes", default=True)
    prompts: int = key("held-out prompts (training ones where none are held out)", default=4, minimum=1)
    max_new_tokens: int | Literal["auto"] = key(
        "longest answer to them, in tokens; auto: 24 to 48, by the run's steps", default="auto", minimum=1
    )
    probe_every: int | Literal["auto"] = key(
        "steps between answers; auto: six times a run, each 100 of a long one", default="auto", minimum=1
    )
    on_collapse: Literal["warn", "stop", "rollback"] = key(
        "once the text has broken: say so, also stop, or also end with the last sound weights, which are kept in "
        "the run folder",
        default="warn",
    )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run, complete: two runs with equal configs on equal data are the same run."""

    model: ModelConfig
    data: DataConfig
    objective: ObjectiveConfig
    training: TrainingConfig = field(default_factory=TrainingConfig)
    lora: dict[str, Any] | None = key(
        "any field of peft.LoraConfig; null: every weight is tuned", default=None, verbatim="peft.LoraConfig"
    )
    samples: SamplesConfig = field(default_factory=SamplesConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    output: str = key("run folder to write")


def describe_keys(cls: type = RunConfig) -> str:
    """The reference of a config's keys, a run config's unless told, as text: key, type, default, meaning."""
    return "\n".join(_describe(cls, ""))


def _describe(cls: Any, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        if dataclasses.is_dataclass(hint):
            yield from _describe(hint, f"{item.name}.")
        elif item.metadata.get("rest"):
            yield f"{prefix}*  (anything; optional)\n    {item.metadata['meaning']}"
        else:
            default = "required" if item.default is dataclasses.MISSING else f"default {shown(item.default)}"
            yield f"{prefix}{item.name}  ({needed(hint)}; {default})\n    {item.metadata['meaning']}"
            if "items" in item.metadata and item.default is dataclasses.MISSING:  # said once
                yield from _describe(item.metadata["items"], f"{prefix}{item.name}[].")
