"""What a micro world stands in place of: a run's model and data, and the questions its model is asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minordpo.config import RunConfig
from minordpo.config.build import set_key

TASKS = ("validation", "test")  # a world's own questions, by the name of their file
# A world's prompt is the question with its line's end, which reading a row of questions takes off.
EVALUATION: dict[str, Any] = {
    "task": "validation",
    "prompt": "{question}\n",
    "plain_text": True,
    "max_new_tokens": 96,
}


def replaced(sections: Mapping[str, Any]) -> list[str]:
    """A note, where the sections of a run config name what the world stands in place of."""
    given = [
        f"{section}.{key}"
        for section, key in (("model", "path"), ("data", "train"), ("data", "eval"))
        if key in (sections.get(section) or {})
    ]
    return [f"the micro world stands in place of run's {', '.join(given)}"] if given else []


def lay_under(values: dict[str, Any], folder: Path) -> None:
    """Set the world in `folder` as the model and data of a run config's sections, in place."""
    base = str(folder / "base")
    set_key(values, "model.path", base, said="the world")
    if values["model"].get("reference") is None:  # so that the monitor's looks have it too
        set_key(values, "model.reference", base, said="the world")
    set_key(values, "data.train", str(folder / "pairs.jsonl"), said="the world")
    set_key(values, "data.eval", str(folder / "held_out.jsonl"), said="the world")


def within_positions(config: RunConfig) -> RunConfig:
    """The config with samples no longer than a world's base has positions for."""
    longest = EVALUATION["max_new_tokens"]
    if not config.samples.prompts or config.samples.max_new_tokens <= longest:
        return config
    return dataclasses.replace(config, samples=dataclasses.replace(config.samples, max_new_tokens=longest))


def questions(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The keys of an evaluation of a model on the world in `folder`; those that are not given are the world's own."""
    values = EVALUATION | dict(given)
    if values["task"] in TASKS:
        values["task"] = str(folder / f"{values['task']}.jsonl")
    return values
