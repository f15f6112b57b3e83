"""The run config: frozen dataclasses ⇄ YAML, dotted overrides, and one line of reference for every key."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import importlib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from minordpo.errors import InputError
from minordpo.strict_yaml import parse_yaml, write_yaml
from minordpo.value_types import fits, needed, shown

if TYPE_CHECKING:
    import peft
    import transformers

Origin = Callable[[str], str]  # dotted key → what set it, for messages: a file, or the command line

# What other tools, and transformers before 5, call these keys; none is near enough in spelling.
_OTHER_NAMES = {
    "warmup_ratio": "warmup_steps (below 1 it is the share of all steps)",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "rank": "r",
}


def _about(meaning: str, **facts: Any) -> dict[str, Any]:
    """Field metadata. Facts: `minimum` of a number; `rest` (the field takes every other key of its section);
    `verbatim`, the library class that names and types the keys of a free mapping."""
    return {"meaning": meaning, **facts}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The policy, and where its reference comes from."""

    path: str = field(metadata=_about("model to tune: a folder, a hub id or an adapter folder"))
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
        metadata=_about("another model as the reference; null: the model as it is before training"),
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
        metadata=_about("objective, such as minordpo or dpo, or a weighted sum, minordpo + 0.1*sft")
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
    output: str = field(metadata=_about("run folder to write"))


def load_config(path: Path | None, overrides: Sequence[str]) -> RunConfig:
    """The config in a YAML file (or the defaults) with `section.key=value` overrides laid over it.

    Raises: InputError for a file that cannot be read or is not YAML, an unknown, missing or repeated key, and
    a value of the wrong type.
    """
    values = _read_mapping(path) if path is not None else {}
    overridden = [_override(values, text) for text in overrides]

    def origin(key: str) -> str:
        set_here = path is None or any(key == each or key.startswith(each + ".") for each in overridden)
        return "command line" if set_here else str(path)

    return _build(RunConfig, values, "", origin)


def dump_config(config: RunConfig) -> str:
    """The config as YAML with every key, defaults too; `load_config` reads back an equal one."""
    return write_yaml(_as_mapping(config))


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


def build_training_arguments(config: RunConfig, **settings: Any) -> transformers.TrainingArguments:
    """`training.*` as TrainingArguments; `settings` are what the run decides itself, such as `output_dir`.

    Raises: InputError for values that TrainingArguments refuses, alone or together.
    """
    # A copy, because TrainingArguments rewrites the mappings it is given (fsdp_config).
    arguments = copy.deepcopy(config.training.arguments) | settings
    return _construct("transformers.TrainingArguments", "training", arguments)


def build_lora_config(config: RunConfig) -> peft.LoraConfig | None:
    """`lora.*` as a LoraConfig for a causal language model; None where every weight is tuned.

    Raises: InputError for values that LoraConfig refuses, alone or together.
    """
    if config.lora is None:
        return None
    return _construct("peft.LoraConfig", "lora", {"task_type": "CAUSAL_LM"} | copy.deepcopy(config.lora))


def _construct(verbatim: str, section: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return _library_class(verbatim)(**arguments)
    except (ValueError, TypeError, NotImplementedError, ImportError, OSError) as error:
        said = str(error).rstrip(".")
        if arguments.get("bf16") and "use_cpu" in said:
            raise InputError(
                "training.bf16 is true, but there is no GPU with bfloat16. Set training.bf16=false, or "
                "training.use_cpu=true to run bfloat16 on the CPU"
            ) from error
        raise InputError(f"{section} is refused by {verbatim}: {said}. Change the key it names.") from error


def _read_mapping(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist. A run config in YAML is needed; check the path.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Give a YAML file that can be.") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line} is not UTF-8. Save the file as UTF-8 text.") from error
    values = parse_yaml(text, str(path))
    if values is None:
        raise InputError(f"{path} is empty. Sections are needed: {', '.join(_keys(RunConfig))}. Write them.")
    if not isinstance(values, dict):
        raise InputError(
            f"{path} holds {shown(values)}, but sections of keys are needed: {', '.join(_keys(RunConfig))}. "
            "Write each as a name, a colon and its keys."
        )
    return values


def _override(values: dict[Any, Any], text: str) -> str:
    """Sets one `section.key=value` in `values`; returns its dotted key."""
    key, equals, value = text.partition("=")
    key = key.strip()
    *sections, last = key.split(".")
    if not equals or not all([*sections, last]):
        raise InputError(
            f"override {text!r} is not of the form section.key=value. Write it so, as in objective.beta=0.05."
        )
    node = values
    for depth, section in enumerate(sections):
        child = node.get(section)
        if child is not None and not isinstance(child, dict):
            parent = ".".join(sections[: depth + 1])
            raise InputError(
                f"override {text!r} sets a key inside {parent}, but {parent} is {shown(child)}. "
                "Override it as a whole, or correct the key."
            )
        node[section] = dict(child or {})  # a copy: YAML aliases make two sections one object
        node = node[section]
    node[last] = parse_yaml(value, f"override {text!r}")
    return key


def _build(cls: Any, values: Any, prefix: str, origin: Origin) -> Any:
    """An instance of the section `cls`; `prefix` is "" or the section with its dot."""
    values = {} if values is None else values
    section = prefix.removesuffix(".")
    if not isinstance(values, dict):
        raise InputError(
            f"{origin(section)}: {section} is {shown(values)}, but a section is needed. "
            f"Give keys in it: {', '.join(_keys(cls))}."
        )
    named = {item.name: item for item in dataclasses.fields(cls) if not item.metadata.get("rest")}
    rest = next((item for item in dataclasses.fields(cls) if item.metadata.get("rest")), None)
    others = {key: value for key, value in values.items() if key not in named}
    # Unknown keys first: a misspelt one is what makes a needed one missing.
    for key in others:
        if rest is None or not isinstance(key, str):
            raise _unknown(key, named, prefix, origin)
    if rest is not None and "verbatim" in rest.metadata:
        _check_verbatim(others, rest.metadata["verbatim"], prefix, origin, list(named))
    elif rest is not None:  # null takes a key away, as in objective.beta=null on a recipe that has a beta
        others = {key: value for key, value in others.items() if value is not None}
    built: dict[str, Any] = {} if rest is None else {rest.name: others}
    hints = typing.get_type_hints(cls)
    for name, item in named.items():
        key = prefix + name
        if dataclasses.is_dataclass(hints[name]):
            built[name] = _build(hints[name], values.get(name), f"{key}.", origin)
        elif name in values:
            _check(values[name], hints[name], key, origin, item.metadata)
            built[name] = values[name]
            if "verbatim" in item.metadata and values[name] is not None:
                _check_verbatim(values[name], item.metadata["verbatim"], f"{key}.", origin, [])
        elif item.default is dataclasses.MISSING:
            raise InputError(
                f"{origin('')}: {key} is missing, but it is needed ({item.metadata['meaning']}). "
                f"Give it, on the command line as {key}=…"
            )
    return cls(**built)


def _check_verbatim(
    values: Mapping[str, Any], verbatim: str, prefix: str, origin: Origin, ours: list[str]
) -> None:
    """Keys and types of a free mapping against the library's dataclass, before anything slow happens."""
    if not values:
        return
    library = _library_class(verbatim)
    hints = typing.get_type_hints(library)
    known = [item.name for item in dataclasses.fields(library) if item.init and item.name != "output_dir"]
    for name, value in values.items():
        key = f"{prefix}{name}"
        if key == "training.output_dir":
            raise InputError(
                f"{origin(key)}: training.output_dir is given, but the run folder is output. Use output."
            )
        if name not in known:
            raise _unknown(name, [*known, *ours], prefix, origin, verbatim)
        # Annotated as text, yet documented by its own help as taking True.
        hint = hints[name] | bool if key == "training.fsdp" else hints[name]
        _check(value, hint, key, origin, {"meaning": f"see {name} in {verbatim}"})


def _library_class(verbatim: str) -> Any:
    # Imported here: transformers takes seconds, which `minordpo --help` should not.
    module, _, name = verbatim.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _unknown(key: Any, known: Iterable[str], prefix: str, origin: Origin, verbatim: str = "") -> InputError:
    known = list(known)
    meant = _OTHER_NAMES.get(key, "")
    close = [meant] if meant.partition(" ")[0] in known else []
    close = close or difflib.get_close_matches(str(key), known, n=1)
    if close:
        advice = f"Did you mean {prefix}{close[0]}?"
    else:
        advice = f"See the fields of {verbatim}." if verbatim else f"Known here: {', '.join(known)}."
    whose = f" nor a field of {verbatim}" if verbatim else ""
    return InputError(f"{origin(f'{prefix}{key}')}: {prefix}{key} is not a key of minordpo{whose}. {advice}")


def _check(value: Any, hint: Any, key: str, origin: Origin, about: Mapping[str, Any]) -> None:
    need, minimum = needed(hint), about.get("minimum")
    if fits(value, hint):
        if minimum is None or not isinstance(value, int) or value >= minimum:
            return
        need = f"{minimum} or more"
    raise InputError(
        f"{origin(key)}: {key} is {shown(value)}, but {need} is needed. Correct it ({about['meaning']})."
    )


def _keys(cls: Any) -> list[str]:
    return [
        item.metadata["meaning"] if item.metadata.get("rest") else item.name
        for item in dataclasses.fields(cls)
    ]


def _as_mapping(section: Any) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            mapping[item.name] = _as_mapping(value)
        elif item.metadata.get("rest"):
            mapping |= value
        else:
            mapping[item.name] = value
    return mapping
