"""The micro world as what a sweep's runs stand on: the section `world` of a sweep's file."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn

from minordpo.config import RunConfig
from minordpo.config.build import Origin, as_mapping, build, set_key
from minordpo.engine.models import load_model, load_tokenizer
from minordpo.generate.generation import generate_answers
from minordpo.generate.prompts import question_prompts
from minordpo.paper.worlds.world import World, base_facts, describe_base, make_world, refuse_impossible
from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl
from minordpo.sweep.foundation import Foundation
from minordpo.sweep.names import shortest

RETENTION_TOKENS = 16  # the tasks' answers have six characters
_BASE_STEPS = 4  # of a world's base, on which one of its steps is timed


class MicroWorld(Foundation):
    """A world in its folder: its base is the model, its pairs are the data, its questions are asked."""

    section = "world"
    kind = "micro world"
    keys = World
    stands_for = ("model.path", "data.train", "data.eval")
    # A world's prompt is the question with its line's end, which reading a row of questions takes off.
    evaluation: ClassVar[dict[str, Any]] = {
        "task": "validation",
        "prompt": "{question}\n",
        "plain_text": True,
        "max_new_tokens": 96,
    }
    tasks = ("validation", "test")
    batch_size = 256  # its models are small, and so is their cache

    @classmethod
    def described(cls, section: Mapping[str, Any], output: Path, origin: Origin) -> MicroWorld:
        """The world of those keys, in `worlds` and there in a folder of its name."""
        values = build(World, section, "world.", origin)
        refuse_impossible(values)
        return cls(values, output / "worlds" / world_name(values))

    def config(self, sections: dict[str, Any], origin: Origin) -> RunConfig:
        """The run config on the world, with samples no longer than its base has positions for."""
        base = str(self.folder / "base")
        places = (base, str(self.folder / "pairs.jsonl"), str(self.folder / "held_out.jsonl"))
        for key, place in zip(self.stands_for, places, strict=True):
            set_key(sections, key, place, said="the world")
        if sections["model"].get("reference") is None:  # so that the monitor's probes have it too
            sections["model"]["reference"] = base
        config, longest = build(RunConfig, sections, "", origin), self.evaluation["max_new_tokens"]
        if not config.samples.prompts or config.samples.max_new_tokens <= longest:
            return config
        samples = dataclasses.replace(config.samples, max_new_tokens=longest)
        return dataclasses.replace(config, samples=samples)

    @property
    def made(self) -> bool:
        """Whether the world is there whole."""
        return (self.folder / "world.json").exists()

    def make(self) -> None:
        """Make the world, or go on with what an earlier start left of it."""
        make_world(self.folder, self.values)

    def outcome(self) -> str:
        """How its base came out."""
        return describe_base(self.folder)

    def seconds(self) -> float | None:
        """What training its base took; None where that was not written down."""
        seconds = base_facts(self.folder).get("seconds")
        return None if seconds is None else float(seconds)

    def sketched(self, config: RunConfig, aside: Path) -> tuple[RunConfig, float]:
        """The config on a world whose base has hardly been trained, and what the whole world would take to make."""
        # Twice, so that the questions, which are written once, and the first step's start are not counted a step.
        took = []
        for steps in (1, 1 + _BASE_STEPS):
            sketch = MicroWorld(self.values, aside / str(steps))
            started = time.perf_counter()
            few = dataclasses.replace(self.values, base_steps=steps, base_accuracy=None)
            make_world(sketch.folder, few, quiet=True)
            took.append(time.perf_counter() - started)
        seconds = took[0] + max(0.0, took[1] - took[0]) * (self.values.base_steps - 1) / _BASE_STEPS
        sections = as_mapping(config)
        if config.model.reference == config.model.path:
            sections["model"]["reference"] = None  # the sketch's own base
        return sketch.config(sections, lambda key: f"the sketch of {self.folder}"), seconds

    def retained(self, run: Path) -> list[dict[str, Any]]:
        """The model's answers to the world's other tasks; right is right to the character."""
        rows = [row for _, row in read_jsonl(self.folder / names.RETENTION)]
        tokenizer, model = load_tokenizer(str(run)), load_model(str(run))
        cast(nn.Module, model).to("cuda" if torch.cuda.is_available() else "cpu")
        prompts = question_prompts(
            tokenizer, [row["question"] for row in rows], prompt="{question}", plain_text=True
        )
        answers = generate_answers(
            model, tokenizer, prompts, max_new_tokens=RETENTION_TOKENS, batch_size=self.batch_size
        )
        return [
            row | {"given": answer.text, "right": answer.stopped and answer.text.strip() == row["answer"]}
            for row, answer in zip(rows, answers, strict=True)
        ]


def world_name(world: World) -> str:
    """A world's folder: "chain-full-result-3840x2600-seed0" (pairs, and steps of its base).

    Another accuracy of its base than the default stands there too: "…x2600-right0.6to0.8-seed0", "…-anyright-seed0".
    """
    made = f"{world.family}-{world.distance}-{world.rejected}-{world.pairs}x{world.base_steps}"
    wanted = world.base_accuracy
    if wanted is None:
        made += "-anyright"
    elif wanted != World().base_accuracy:
        made += "-right" + "to".join(map(shortest, wanted))
    return f"{made}-seed{world.seed}"
