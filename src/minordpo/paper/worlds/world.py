"""A micro world in a folder, from a seed: base model, pairs, questions and the tasks it should not unlearn.

base/             the model before preference tuning, and in trained.json how often it is right and after how many steps
pairs.jsonl       prompt, chosen, rejected; fresh questions, each once
held_out.jsonl    pairs to measure on
validation.jsonl  questions that settings are chosen on
test.jsonl        questions that are scored once
retention.jsonl   other tasks
world.json        what all this was made of; written last, so a folder that has it is whole
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minordpo.config.build import build
from minordpo.errors import InputError
from minordpo.paper.worlds.questions import Calculation, Family, World, draw, draw_task, rejected
from minordpo.run_folder import names
from minordpo.run_folder.files import is_left_over, write_jsonl, write_text

FACTS = "trained.json"
HELD_OUT, VALIDATION, TEST, RETENTION = 256, 512, 1024, 512


def make_world(folder: Path, world: World, *, quiet: bool = False) -> Path:
    """Write the world's folder, or find it written; one that was cut short goes on. `quiet`: without a progress bar.

    Raise InputError if the folder holds another world or something else, or the world cannot be made.
    """
    _refuse(folder, world)
    file = folder / "world.json"
    if file.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    kept_out = _write_questions(folder, world)
    base = folder / "base"
    if not base.exists():
        from minordpo.paper.worlds.base import train_base  # it imports torch, and a world's facts need none

        aside, started = folder / ".base.writing", time.perf_counter()
        facts = train_base(aside, world, allowed=lambda text: text not in kept_out, quiet=quiet)
        seconds = round(time.perf_counter() - started, 1)
        write_text(aside / FACTS, _json(dataclasses.asdict(facts) | {"seconds": seconds}))
        os.replace(aside, base)
    write_text(file, _json(dataclasses.asdict(world)))
    return folder


def base_facts(folder: Path) -> dict[str, Any]:
    """Of a world that is made, how its base came about (`BaseFacts`), and in how many seconds."""
    return dict(json.loads((folder / "base" / FACTS).read_text(encoding="utf-8")))


def describe_base(folder: Path) -> str:
    """Of a world that is made, how its base came out, in words."""
    facts = base_facts(folder)
    share = facts["right"]
    right = "" if share is None else f" and is right in {share:.0%} of {facts['asked']} questions"
    return f"its base took {facts['steps']} steps{right}"


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def refuse_impossible(world: World) -> None:
    """Raise InputError if a world would hold nothing, or asks for a base that there is not."""
    for name, value in (("pairs", world.pairs), ("base_steps", world.base_steps)):
        if value < 1:
            raise InputError(f"a world of {value} {name} was asked for, but at least 1 is needed. Raise it")
    wanted = world.base_accuracy
    if wanted is not None and not (len(wanted) == 2 and 0 <= wanted[0] < wanted[1] <= 1):
        raise InputError(
            f"base_accuracy is {list(wanted)}, but two shares from 0 to 1 are needed, the lower one first. "
            "Give them as [0.45, 0.65], or null for a base of any accuracy"
        )


def _refuse(folder: Path, world: World) -> None:
    refuse_impossible(world)
    file = folder / "world.json"
    if not file.exists():
        files = ("pairs", "held_out", "validation", "test")
        ours = {"base", names.RETENTION, *(f"{name}.jsonl" for name in files)}
        found = folder.iterdir() if folder.exists() else ()
        if any(each.name not in ours and not is_left_over(each) for each in found):
            raise InputError(f"{folder} exists and holds no world. Name another folder")
        return
    stored = build(World, json.loads(file.read_text(encoding="utf-8")), "world.", lambda _: str(file))
    before, asked = (json.loads(json.dumps(dataclasses.asdict(each))) for each in (stored, world))
    other = next((name for name in asked if before[name] != asked[name]), None)
    if other is not None:
        raise InputError(
            f"{folder} holds a world of {other} {before[other]}, not {asked[other]}. Name another folder"
        )


def _write_questions(folder: Path, world: World) -> set[str]:
    """Everything but the base; returns the prompts that it must not be trained on."""
    rng = random.Random(f"questions of {world.family}, {world.rejected}, seed {world.seed}")
    questions = _different(world.family, rng)
    tasks: dict[str, str] = {}
    while len(tasks) < RETENTION:
        tasks |= [draw_task(rng)]
    counts = {"validation": VALIDATION, "test": TEST, "held_out": HELD_OUT, "pairs": world.pairs}
    drawn = {name: list(itertools.islice(questions, count)) for name, count in counts.items()}

    def pair(question: Calculation) -> dict[str, str]:
        wrong = rejected(question, world.rejected, world.family, rng)
        return {"prompt": question.text, "chosen": question.worked(), "rejected": wrong}

    for name, asked in drawn.items():
        scored = name in ("validation", "test")
        rows = ({"question": q.text, "answer": str(q.answer)} if scored else pair(q) for q in asked)
        write_jsonl(folder / f"{name}.jsonl", rows)
    write_jsonl(folder / names.RETENTION, ({"question": t, "answer": a} for t, a in tasks.items()))
    return {q.text for asked in drawn.values() for q in asked} | set(tasks)


def _different(family: Family, rng: random.Random) -> Iterator[Calculation]:
    """Questions, none twice, whose results before the last differ from the answer."""
    seen: set[str] = set()
    while True:
        question = draw(family, rng)
        # A result equal to the answer could not be corrupted without looking like another answer.
        if question.text not in seen and question.answer not in [r for _, r in question.steps[:-1]]:
            seen.add(question.text)
            yield question
