"""What a worker does: make a micro world, ask the untuned model questions, or run a cell, ask its model, and write down
what it took.

A worker lives for many cells, so pairs that runs share are tokenised once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from minordpo.config import DataConfig, ModelConfig, ObjectiveConfig, RunConfig
from minordpo.engine.models import load_model, load_tokenizer
from minordpo.evaluate.evaluation import EvaluationConfig, evaluate
from minordpo.generate.generation import generate_answers
from minordpo.generate.prompts import question_prompts
from minordpo.paper.worlds.world import World, make_world
from minordpo.run_folder.files import read_jsonl, write_jsonl, written_whole
from minordpo.run_folder.ownership import finished
from minordpo.sweep.launch import Launch, train_by_processes
from minordpo.sweep.results import COST, EVALUATION, FAILED, RETENTION
from minordpo.train.run import RunData, load_data, load_run_tokenizer, run

WORLD_BATCH = 256  # answers at a time of a micro world's model, whose cache is small
RETENTION_TOKENS = 16  # the tasks' answers have six characters
_KEPT = 2  # tokenised sets that a worker holds at a time


@dataclass(frozen=True)
class WorldJob:
    """Make a micro world."""

    folder: Path
    world: World

    @property
    def name(self) -> str:
        """As it is told and logged."""
        return self.folder.name


@dataclass(frozen=True)
class CellJob:
    """Run a cell, and evaluate its model; what is there already is not done again."""

    config: RunConfig
    evaluation: EvaluationConfig | None = None
    retention: Path | None = None  # a world's other tasks
    launch: Launch | None = None  # None: it is trained in the worker itself
    allow_code: bool = False

    @property
    def name(self) -> str:
        """As it is told and logged."""
        return Path(self.config.output).name


@dataclass(frozen=True)
class UntunedJob:
    """Ask the model that runs start from what they are asked, once for all of them."""

    folder: Path  # of the evaluation
    model: str
    evaluation: EvaluationConfig
    world: Path | None = None  # that the model is of

    @property
    def name(self) -> str:
        """As it is told and logged."""
        return f"untuned-{self.folder.name}"


def do_job(job: WorldJob | UntunedJob | CellJob, say: Callable[[str], None]) -> None:
    """Do it in this process; `say` is told what is being done."""
    if isinstance(job, WorldJob):
        say("making the world")
        make_world(job.folder, job.world)
        return
    if isinstance(job, UntunedJob):
        say("answering questions")
        job.folder.parent.mkdir(exist_ok=True)
        batch = None if job.world is None else WORLD_BATCH
        evaluate([job.model], job.evaluation, out=job.folder, batch_size=batch)
        return
    folder = Path(job.config.output)
    (folder / FAILED).unlink(missing_ok=True)
    with _counted(folder, memory=job.launch is None):
        if not finished(folder):
            say("training")
            if job.launch is None:
                data = _tokenised(job.config)
                run(job.config, resume=True, quiet=True, data=data, allow_code=job.allow_code)
            else:
                _give_back_memory()  # of the untuned model, say: the first of the processes trains on the same GPU
                train_by_processes(job.config, job.launch, say)
        if job.evaluation is not None and not (folder / EVALUATION / "results.json").exists():
            say("answering questions")
            batch = None if job.retention is None else WORLD_BATCH
            evaluate([str(folder)], job.evaluation, out=folder / EVALUATION, batch_size=batch)
        if job.retention is not None and not (folder / RETENTION).exists():
            say("doing other tasks")
            write_jsonl(folder / RETENTION, _retention(folder, job.retention))
    _give_back_memory()


def _give_back_memory() -> None:
    gc.collect()  # a model hangs in cycles, and the next one may need the room
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _tokenised(config: RunConfig) -> RunData:
    """The run's pairs; runs that differ in neither tokenizer nor data share them."""
    words = dataclasses.replace(config.model, dtype="float32", reference=None, dropout=False)
    return _tokenised_once(words, config.data)


@functools.lru_cache(maxsize=_KEPT)
def _tokenised_once(model: ModelConfig, data: DataConfig) -> RunData:
    config = RunConfig(model=model, data=data, objective=ObjectiveConfig(name="dpo"), output=".")
    return load_data(config, load_run_tokenizer(config))


def _retention(folder: Path, tasks: Path) -> list[dict[str, Any]]:
    """The model's answers to a world's other tasks; right is right to the character."""
    rows = [row for _, row in read_jsonl(tasks)]
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder))
    cast(nn.Module, model).to("cuda" if torch.cuda.is_available() else "cpu")
    prompts = question_prompts(
        tokenizer, [row["question"] for row in rows], prompt="{question}", plain_text=True
    )
    answers = generate_answers(
        model, tokenizer, prompts, max_new_tokens=RETENTION_TOKENS, batch_size=WORLD_BATCH
    )
    return [
        row | {"given": answer.text, "right": answer.stopped and answer.text.strip() == row["answer"]}
        for row, answer in zip(rows, answers, strict=True)
    ]


# ---- what it takes ----
@contextlib.contextmanager
def _counted(folder: Path, *, memory: bool) -> Iterator[None]:
    """Add seconds, and the most memory, to what earlier starts of the run took; those of a killed one are not known.

    Without `memory`: what other processes hold is not seen from here.
    """
    gpu = memory and torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    resident = memory and _reset_peak()
    started = time.perf_counter()
    try:
        yield
    finally:
        if (folder / "config.yaml").exists():  # else nothing may lie in the way of the next start
            file = folder / COST
            before = _known_cost(file)
            cost = {
                "seconds": round(before.get("seconds", 0.0) + time.perf_counter() - started, 3),
                "peak_gpu_bytes": _most(
                    before, "peak_gpu_bytes", torch.cuda.max_memory_allocated() if gpu else None
                ),
                "peak_resident_bytes": _most(before, "peak_resident_bytes", _peak() if resident else None),
            }
            with written_whole(file) as aside:
                aside.write_text(json.dumps(cost) + "\n", encoding="utf-8")


def _known_cost(file: Path) -> dict[str, Any]:
    """What earlier starts took; nothing where that is lost, which is no reason for the run to fail."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _most(before: dict[str, Any], name: str, now: int | None) -> int | None:
    values = [value for value in (before.get(name), now) if value is not None]
    return max(values, default=None)


def _reset_peak() -> bool:
    """Begin the process's peak of resident memory anew; only Linux can, elsewhere it is that of all runs so far."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return _peak() is not None


def _peak() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    line = next((each for each in lines if each.startswith("VmHWM:")), None)
    return None if line is None else int(line.split()[1]) * 1024
