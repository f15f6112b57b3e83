"""What the runs of a sweep may stand on in place of a model and data of their own.

A foundation is made before its runs, once for all that share it, in a folder of the sweep's output. A section of the
sweep's file describes it, and keys of the section may vary as those of `run` do. A sweep is given one such class
or none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from minordpo.config import RunConfig
from minordpo.config.build import Origin


@dataclass(frozen=True)
class Foundation(ABC):
    """One foundation in its folder; a subclass says what it is called, what it is made of and how it is made."""

    section: ClassVar[str]  # its name in a sweep's file, and in messages
    kind: ClassVar[str]  # the same in full
    keys: ClassVar[type]  # the section as a dataclass, `seed` among its keys
    stands_for: ClassVar[tuple[str, ...]]  # the keys of a run config that it sets
    evaluation: ClassVar[dict[str, Any]]  # the keys of `evaluate` for its models, unless told
    tasks: ClassVar[tuple[str, ...]]  # what evaluate.task may name of it: files TASK.jsonl in its folder
    batch_size: ClassVar[int]  # answers at a time of its models

    values: Any  # an instance of `keys`
    folder: Path

    @classmethod
    @abstractmethod
    def described(cls, section: Mapping[str, Any], output: Path, origin: Origin) -> Foundation:
        """The foundation of those keys, with its folder in the sweep's output; raise InputError if there is none."""

    @abstractmethod
    def config(self, sections: dict[str, Any], origin: Origin) -> RunConfig:
        """The run config of those sections on the foundation; raise InputError as `build` does."""

    def asked(self, evaluate: Mapping[str, Any]) -> dict[str, Any]:
        """The keys of an evaluation of the foundation's models, where a sweep's section `evaluate` has these."""
        values = self.evaluation | dict(evaluate)
        if values["task"] in self.tasks:
            values["task"] = str(self.folder / f"{values['task']}.jsonl")
        return values

    @property
    @abstractmethod
    def made(self) -> bool:
        """Whether the foundation is there whole."""

    @abstractmethod
    def make(self) -> None:
        """Make the foundation, or go on with what an earlier start left of it."""

    @abstractmethod
    def outcome(self) -> str:
        """How a foundation that is made came out, in words."""

    @abstractmethod
    def seconds(self) -> float | None:
        """What making it took; None where that is not known."""

    @abstractmethod
    def sketched(self, config: RunConfig, aside: Path) -> tuple[RunConfig, float]:
        """The run's config on a sketch of the foundation in `aside`, and how many seconds the whole one would take."""

    @abstractmethod
    def retained(self, run: Path) -> list[dict[str, Any]]:
        """Answers of the run's model to tasks that tuning should not unlearn, each with `right`."""


Extension = type[Foundation] | None  # what is given to a sweep
