"""A study's YAML → the loops it is made of."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from minordpo.config import read_mapping
from minordpo.config.build import build, lay_over, section_keys
from minordpo.config.schema import key
from minordpo.errors import InputError, did_you_mean
from minordpo.onpolicy.loop.config import LoopConfig, build_loop
from minordpo.paper.worlds.questions import World
from minordpo.run_folder.names import SHARED

Phase = Literal["tune", "decide"]
ASKED_BY: dict[str, str] = {"tune": "validation.jsonl", "decide": "test.jsonl"}


@dataclass(frozen=True, kw_only=True)
class StudyArm:
    """One way to train, by its name in `arms`."""

    rates: tuple[float, ...] = key("learning rates that are tried on the tuning seeds")
    rate: float | None = key("learning rate that was chosen there; null: not tuned yet", default=None)
    seeds: int | None = key("seeds that decide, the first ones; null: all", default=None, minimum=1)
    by: Literal["minordpo", "rloo"] = key(
        "who trains: this package, or TRL's RLOOTrainer", default="minordpo"
    )
    objective: dict[str, Any] | None = key("the run config's section", default=None)
    beta: float | None = key("of rloo: weight of its KL penalty", default=None)


@dataclass(frozen=True, kw_only=True)
class Study:
    """The study, complete. `loop` has sections of a loop's YAML that all arms share."""

    world: World = field(default_factory=World)
    tuning_seeds: tuple[int, ...] = key("worlds in which rates are chosen")
    seeds: tuple[int, ...] = key("worlds that decide")
    prompts: int = key("prompts of a world, over all rounds", default=6400, minimum=1)
    loop: dict[str, Any] = key("sections of a loop's YAML")
    arms: dict[str, Any] = key("arm → rates, rate, seeds, by, objective, beta")
    contrasts: tuple[str, ...] = key("minordpo less each of these arms, tested", default=())
    output: str = key("folder to write")

    def arm(self, name: str) -> StudyArm:
        """The arm of that name.

        Raises:
            InputError: there is none, or it lacks what it needs.
        """
        if name not in self.arms:
            raise InputError(
                f"there is no arm {name}{did_you_mean(name, self.arms)}. There are {', '.join(self.arms)}"
            )
        arm: StudyArm = build(StudyArm, self.arms[name], f"arms.{name}.", lambda _: f"the study's arm {name}")
        if (arm.objective is None) != (arm.by == "rloo") or (arm.beta is None) != (arm.by != "rloo"):
            raise InputError(f"arms.{name} needs an objective, or by=rloo and beta. Give one of the two")
        return arm


@dataclass(frozen=True, kw_only=True)
class StudyLoop:
    """One loop of a study."""

    study: Study
    phase: Phase
    arm_name: str
    seed: int
    rate: float

    @property
    def arm(self) -> StudyArm:
        """What it trains by."""
        return self.study.arm(self.arm_name)

    @property
    def name(self) -> str:
        """Of its folder within the phase's."""
        return f"{self.arm_name}-lr{self.rate:g}-seed{self.seed}"

    @property
    def folder(self) -> Path:
        """The loop's folder."""
        return Path(self.study.output) / self.phase / self.name

    @property
    def world(self) -> Path:
        """The folder of the seed's world."""
        return Path(self.study.output) / "worlds" / f"seed{self.seed}"

    @property
    def shared(self) -> Path:
        """What all loops of this seed and phase begin with: the base's answers."""
        return Path(self.study.output) / SHARED / f"{self.phase}-seed{self.seed}"

    def config(self) -> LoopConfig:
        """The loop's config.

        Raises:
            InputError: `loop` is no loop's, or the arm's objective is none.
        """
        values = copy.deepcopy(self.study.loop)
        run = values.setdefault("run", {})
        if self.arm.objective is not None:
            run["objective"] = self.arm.objective
        run.setdefault("objective", {"name": "sft"})  # of rloo, which reads the other sections alone
        run.setdefault("training", {}).update(learning_rate=self.rate, seed=self.seed)
        values |= {
            "model": str(self.world / "base"),
            "prompts": str(self.world / "prompts.jsonl"),
            "verify": "number",
            "seed": self.seed,
            "output": str(self.folder),
        }
        asked = dict(values.get("evaluate") or {}) | {"task": str(self.world / ASKED_BY[self.phase])}
        if self.phase == "tune":  # one round, greedy answers alone
            values["rounds"] = 1
            asked["samples"] = 0
        values["evaluate"] = asked
        return build_loop(values, lambda name: f"the study's loop.{name}".rstrip("."))


def load_study(path: Path, overrides: list[str]) -> Study:
    """The study in a YAML file, with `section.key=value` overrides laid over it.

    Raises:
        InputError: it cannot be read, or a key is unknown, missing or of the wrong type.
    """
    values = read_mapping(path, what="A study's file", keys=section_keys(Study))
    for text in overrides:
        lay_over(values, text)
    study: Study = build(Study, values, "", lambda _: str(path))
    for name in study.arms:
        study.arm(name)
    for name in study.contrasts:
        study.arm(name)
    return study


def loops_of(study: Study, phase: Phase, *, arms: Mapping[str, Any] | None = None) -> Iterator[StudyLoop]:
    """The loops of a phase, seed by seed: all rates on the tuning seeds, the chosen rate on the others.

    Raises:
        InputError: an arm has no rate yet.
    """
    seeds = study.tuning_seeds if phase == "tune" else study.seeds
    for number, seed in enumerate(seeds):
        for name in arms or study.arms:
            arm = study.arm(name)
            if phase == "tune":
                rates = arm.rates
            elif arm.seeds is not None and number >= arm.seeds:
                continue
            elif arm.rate is None:
                raise InputError(
                    f"arms.{name}.rate is not set. Run the phase tune first, and set what it chooses"
                )
            else:
                rates = (arm.rate,)
            for rate in rates:
                yield StudyLoop(study=study, phase=phase, arm_name=name, seed=seed, rate=rate)
