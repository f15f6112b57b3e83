"""What a worker does: make a foundation, ask an untuned model questions, or train a run, ask its model and write down
what it took.
"""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from minordpo.config import RunConfig
from minordpo.evaluate.evaluation import EvaluationConfig, evaluate
from minordpo.run_folder import names
from minordpo.run_folder.files import write_jsonl, write_text
from minordpo.run_folder.ownership import finished
from minordpo.sweep.foundation import Foundation
from minordpo.sweep.launch import train_by_processes
from minordpo.sweep.results import known_cost
from minordpo.train.run import run

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """Something that a worker does; `name` is what it is told and logged as."""

    name: str
    foundation: Foundation | None  # that it makes, or that must be made before


@dataclass(frozen=True)
class FoundationJob(Job):
    """Make a foundation."""

    foundation: Foundation

    def do(self, say: Say) -> None:
        """Make it, or go on with what is there."""
        say(f"making the {self.foundation.section}")
        self.foundation.make()


@dataclass(frozen=True)
class UntunedJob(Job):
    """Ask the model that runs start from what they are asked, once for all of them."""

    folder: Path  # of the evaluation
    model: str
    evaluation: EvaluationConfig

    def do(self, say: Say) -> None:
        """Ask it, or go on with the answers that are there."""
        say("answering questions")
        self.folder.parent.mkdir(exist_ok=True)
        _evaluate(self.model, self.evaluation, self.folder, self.foundation)


@dataclass(frozen=True)
class RunJob(Job):
    """Train a run, and evaluate its model."""

    config: RunConfig
    evaluation: EvaluationConfig | None = None
    processes: int = 1  # one is the worker itself; several are launched,
    logs: Path = Path("logs")  # which leave here what they say
    allow_code: bool = False

    def do(self, say: Say) -> None:
        """What is there already is not done again."""
        folder = Path(self.config.output)
        (folder / names.FAILED).unlink(missing_ok=True)
        with _counted(folder, memory=self.processes == 1):
            if not finished(folder):
                if self.processes == 1:
                    say("training")
                    run(self.config, resume=True, quiet=True, allow_code=self.allow_code)
                else:
                    _give_back_memory()  # of the untuned model, say: the first process trains on the same GPU
                    train_by_processes(
                        self.config, self.processes, self.logs, say, allow_code=self.allow_code
                    )
            if self.evaluation is not None and not (folder / names.EVALUATION / names.RESULTS).exists():
                say("answering questions")
                _evaluate(str(folder), self.evaluation, folder / names.EVALUATION, self.foundation)
            if self.evaluation and self.foundation and not (folder / names.RETENTION).exists():
                say("doing other tasks")
                write_jsonl(folder / names.RETENTION, self.foundation.retained(folder))
        _give_back_memory()


AnyJob = FoundationJob | UntunedJob | RunJob


def do_job(job: AnyJob, say: Say) -> None:
    """Do the job in this process; `say` is told what is being done."""
    job.do(say)


def _evaluate(model: str, config: EvaluationConfig, out: Path, foundation: Foundation | None) -> None:
    evaluate([model], config, out=out, batch_size=None if foundation is None else foundation.batch_size)


def _give_back_memory() -> None:
    gc.collect()  # a model hangs in cycles, and the next one may need the room
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
        if (folder / names.CONFIG).exists():  # else nothing may lie in the way of the next start
            before = known_cost(folder)
            peaks = {
                "peak_gpu_bytes": torch.cuda.max_memory_allocated() if gpu else None,
                "peak_resident_bytes": _peak() if resident else None,
            }
            cost = {"seconds": round(before.get("seconds", 0.0) + time.perf_counter() - started, 3)}
            cost |= {name: max(before.get(name) or 0, peak or 0) or None for name, peak in peaks.items()}
            write_text(folder / names.COST, json.dumps(cost) + "\n")


def _reset_peak() -> bool:
    """Begin the process's peak of resident memory anew; only Linux can, elsewhere it is that of all runs so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return _peak() is not None
    return False


def _peak() -> int | None:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
