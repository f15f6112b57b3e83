"""A loop's YAML → `LoopConfig`: the first model, prompts and verifier, how rounds are run, and when they end."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from minordpo.config import RunConfig, read_mapping
from minordpo.config.build import Origin, as_mapping, build, lay_over, section_keys, set_key
from minordpo.config.schema import key
from minordpo.config.yaml import write_yaml
from minordpo.errors import InputError
from minordpo.onpolicy.pairing import PairingOptions

if TYPE_CHECKING:  # both import torch, which --help does without
    from minordpo.evaluate.evaluation import EvaluationConfig
    from minordpo.onpolicy.sampling import SamplingConfig

# What the loop sets of a round's run config, and what may therefore not stand in `run`.
SET_BY_THE_LOOP = ("model.path", "model.reference", "data.train", "output")


@dataclass(frozen=True, kw_only=True)
class SamplingSection:
    """How a round's answers are drawn."""

    samples: int = key("answers to each prompt", default=8, minimum=1)
    temperature: float = key("of the answers; 1 is the model's own distribution", default=1.0)
    max_new_tokens: int = key("longest answer, in tokens", default=512, minimum=1)
    prompts_per_round: int | None = key(
        "prompts of a round, each round others as long as there are others; null: all in each round",
        default=None,
        minimum=1,
    )
    prompt: str = key("what is asked of a question, with {question} in it", default="{question}")
    plain_text: bool = key("ask questions without a chat template", default=False)
    batch_size: int | None = key(
        "answers at a time; null: as many as suit the device", default=None, minimum=1
    )
    dtype: Literal["float32", "bfloat16"] = key("type of the weights that answer", default="float32")
    backend: Literal["transformers", "vllm"] = key(
        "what makes the answers; vllm needs the program vllm", default="transformers"
    )
    split: str = key("split of prompts where they are a hub set", default="train")


@dataclass(frozen=True, kw_only=True)
class PairsSection:
    """How a round's answers are paired."""

    kind: Literal["best-worst", "all", "closest"] = key("which answers make a pair", default="best-worst")
    most: int | None = key(
        "pairs of a prompt, at most; null: 1, and of kind all no limit", default=None, minimum=1
    )
    like: Literal["length", "style"] | None = key(
        "of equally good pairs prefer those of like length or style", default=None
    )
    least_gap: float = key("scores of a pair differ by more", default=0.0)
    unfinished: bool = key("take answers cut by the length limit as rejected ones too", default=False)


@dataclass(frozen=True, kw_only=True)
class MixSection:
    """Given pairs that are trained on beside a round's own."""

    path: str | None = key("pairs in any layout that data.train takes; null: none", default=None)
    rows: int | None = key("so many of them each round, others each time; null: all", default=None, minimum=1)


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Questions that the first model and every round's model answer."""

    task: str | None = key(
        "a task or a file with questions and answers; null: nothing is asked", default=None
    )
    n: int | None = key("ask so many questions; null: all", default=None, minimum=1)
    prompt: str | None = key("what is asked, with {question} in it; null: as sampling.prompt", default=None)
    samples: int = key(
        "answers drawn to each question beside the greedy one: pass@k and KL", default=0, minimum=0
    )
    seed: int = key("which questions, and which samples", default=0, minimum=0)


@dataclass(frozen=True, kw_only=True)
class StopSection:
    """When a loop ends before its last round."""

    least_pairs: int = key(
        "a round with fewer pairs is not trained on, and is the last", default=1, minimum=1
    )
    patience: int | None = key(
        "rounds whose held-out accuracy is not above the best before; null: accuracy ends no loop",
        default=None,
        minimum=1,
    )
    on_collapse: bool = key("the monitor's collapse of a round's model is the end", default=True)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """One loop, complete."""

    model: str = key("first model: a folder, a run folder, a hub id or an adapter folder")
    prompts: str = key("prompts and right answers: a .jsonl, .json, .parquet or .csv file, or a hub set")
    verify: str = key("what scores an answer, as --verify of `minordpo data sample`")
    verify_options: dict[str, Any] | None = key("the verifier's options, such as judge_model", default=None)
    rounds: int = key("rounds, at most", default=2, minimum=1)
    reference: Literal["round", "base"] = key(
        "the reference of a round's training: the model that the round starts from, or the first model",
        default="round",
    )
    seed: int = key("of answers, of pairs and of which prompts a round has", default=0, minimum=0)
    sampling: SamplingSection = field(default_factory=SamplingSection)
    pairs: PairsSection = field(default_factory=PairsSection)
    mix: MixSection = field(default_factory=MixSection)
    evaluate: EvaluateSection = field(default_factory=EvaluateSection)
    stop: StopSection = field(default_factory=StopSection)
    run: dict[str, Any] = key("sections of a run config: how a round trains")
    output: str = key("folder to write")

    def pairing(self, number: int) -> PairingOptions:
        """How the answers of a round are paired.

        Raises:
            InputError: a value that pairing cannot have.
        """
        return PairingOptions(**dataclasses.asdict(self.pairs), seed=self.seed + number)

    def drawn(self, number: int, prompts: Path) -> SamplingConfig:
        """How the answers of a round are drawn, to the prompts in that file."""
        from minordpo.onpolicy.sampling import SamplingConfig

        ours = ("prompts_per_round", "batch_size", "prompt", "plain_text", "split")
        values = {
            name: value for name, value in dataclasses.asdict(self.sampling).items() if name not in ours
        }
        return SamplingConfig(prompts=str(prompts), seed=self.seed + number, **values)

    def training(self, model: str, data: Path, output: Path) -> RunConfig:
        """The run config of a round that starts from `model` and trains on `data`.

        Raises:
            InputError: `run` is no run config, or sets what the loop sets.
        """
        sections = copy.deepcopy(self.run)
        for name in SET_BY_THE_LOOP:
            section, _, last = name.partition(".")
            inside = sections.get(section)
            if (last and isinstance(inside, dict) and last in inside) or (not last and section in sections):
                raise InputError(f"run.{name} is given, but the loop sets it itself. Leave it out")
        reference = self.model if self.reference == "base" else None
        set_key(sections, "model.path", model, said="the loop")
        set_key(sections, "model.reference", reference, said="the loop")
        set_key(sections, "data.train", str(data), said="the loop")
        sections["output"] = str(output)
        return build(RunConfig, sections, "", lambda name: f"the loop's run.{name}".rstrip("."))

    def evaluation(self) -> EvaluationConfig | None:
        """The questions for each round's model; None if `evaluate.task` is null."""
        from minordpo.evaluate.evaluation import EvaluationConfig

        asked = self.evaluate
        if asked.task is None:
            return None
        return EvaluationConfig(
            task=asked.task,
            n=asked.n,
            seed=asked.seed,
            prompt=self.sampling.prompt if asked.prompt is None else asked.prompt,
            plain_text=self.sampling.plain_text,
            max_new_tokens=self.sampling.max_new_tokens,
            samples=asked.samples,
            dtype=self.sampling.dtype,
            reference=self.model if asked.samples else None,
        )


def load_loop(path: Path, overrides: Sequence[str]) -> LoopConfig:
    """The loop in a YAML file, with `section.key=value` overrides laid over it.

    Raises:
        InputError: the file cannot be read, or a key is unknown, missing or of the wrong type.
    """
    values = read_mapping(path, what="A loop's file", keys=section_keys(LoopConfig))
    overridden = [lay_over(values, text) for text in overrides]

    def origin(name: str) -> str:
        set_here = any(name == each or name.startswith(each + ".") for each in overridden)
        return "command line" if set_here else str(path)

    return build_loop(values, origin)


def build_loop(values: Mapping[str, Any], origin: Origin) -> LoopConfig:
    """The loop of these sections.

    Raises:
        InputError: a key is unknown, missing or of the wrong type.
    """
    config: LoopConfig = build(LoopConfig, dict(values), "", origin)
    config.pairing(1)
    _refuse_idle(config)
    return config


def _refuse_idle(config: LoopConfig) -> None:
    """Refuse keys that do nothing, since the key that they belong to is not given."""
    needed = {
        "evaluate.task": [f"evaluate.{name}" for name in ("n", "prompt", "samples", "seed")]
        + ["stop.patience"],
        "mix.path": ["mix.rows"],
    }
    for whole, parts in needed.items():
        for name in parts:
            if _value(config, whole) is None and _value(config, name):
                raise InputError(
                    f"{name} is {_value(config, name)!r}, but it does nothing without {whole}. Give {whole}, or leave "
                    f"{name} out"
                )


def _value(config: LoopConfig, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)


def dump_loop(config: LoopConfig) -> str:
    """The loop as YAML, every key of it."""
    return write_yaml(as_mapping(config))
