"""`launch: {processes: N}` of a sweep: each run is trained by N processes that torchrun starts, for models whose
training needs more than one GPU.

The worker that has the run waits for them. What they are told is in LOGS/NAME.yaml, what they say in LOGS/NAME.txt.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from minordpo.config import RunConfig, dump_config
from minordpo.errors import InputError, TrainingStopped
from minordpo.run_folder.lock import locked
from minordpo.run_folder.ownership import finished
from minordpo.sweep.workers import how_it_ended

_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
# What torchrun writes of the first process that failed; errors of the run itself stand before it.
_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
_ERROR = re.compile(r"minordpo: |[\w.]*(Error|Exception|Interrupt)\b")
_READ = 1 << 18  # bytes of the log's end in which an error is looked for


@dataclass(frozen=True)
class LaunchConfig:
    """How each run is trained."""

    processes: int = field(  # one is the worker itself
        default=1, metadata={"meaning": "processes that train a run together", "minimum": 2}
    )


# ---- what this machine can do ----
def refuse_too_few_gpus(processes: int, gpus: int) -> None:
    """Raise InputError if there are GPUs, but fewer than processes; without any, a CPU trains by gloo."""
    if 0 < gpus < processes:
        raise InputError(
            f"launch.processes is {processes}, and each needs a GPU, but {_visible(gpus)}. Show more, or lower it and "
            "raise training.gradient_accumulation_steps, so that a step keeps its pairs"
        )


def runs_at_a_time(jobs: int | None, processes: int, gpus: int) -> int:
    """`jobs`, or as many as there are GPUs for; raise InputError if the GPUs are not enough for `jobs`."""
    count = max(1, gpus // processes) if jobs is None else jobs
    if processes > 1 and count > 1 and count * processes > gpus:
        raise InputError(
            f"--jobs is {count}, and each run is trained by launch.processes {processes}, which takes "
            f"{count * processes} GPUs, but {_visible(gpus)}. Lower --jobs to {max(1, gpus // processes)}"
        )
    return count


def describe_launch(processes: int, gpus: int) -> str:
    """The plan's line on it."""
    where = "one a GPU" if gpus else "on the CPU, since no GPU is visible"
    where += f", but {_visible(gpus)}: this machine cannot run it" if 0 < gpus < processes else ""
    return f"each run is trained by {processes} processes, {where}"


def _visible(gpus: int) -> str:
    return f"{'only one is' if gpus == 1 else f'{gpus} are' if gpus else 'none is'} visible"


# ---- a run ----
def train_by_processes(
    config: RunConfig,
    processes: int,
    logs: Path,
    say: Callable[[str], None],
    *,
    allow_code: bool = False,
) -> None:
    """Train in several processes, or go on with what an earlier start left; returns when the run is finished.

    Processes that outlived the sweep which started them are waited for, since two would train one run.

    Raises:
        TrainingStopped: they ended otherwise; why, as far as their log tells.
    """
    name = Path(config.output).name
    file, log = logs / f"{name}.yaml", logs / f"{name}.txt"
    on_gpus = torch.cuda.is_available() and not config.training.arguments.get("use_cpu")
    busy = "waiting for the processes of an earlier start, which still train it"
    file.parent.mkdir(parents=True, exist_ok=True)
    # torchrun inherits the lock and so keeps it for as long as it lives.
    with locked(file, busy=lambda: say(busy), flags=os.O_RDWR | os.O_CREAT | os.O_APPEND) as handle:
        say("training")
        if finished(Path(config.output)):
            return
        os.truncate(handle, 0)
        os.write(handle, dump_config(config).encode())
        code = ["--allow-code"] if allow_code else []
        with log.open("ab") as out:
            begun = out.tell()
            status = _ended(
                [*_TORCHRUN, str(processes), "-m", "minordpo", "train", str(file), "--resume", *code],
                out.fileno(),
                held=handle,
                environment={} if on_gpus else {"ACCELERATE_USE_CPU": "true"},
            )
    if status != 0:
        with log.open("rb") as opened:
            opened.seek(max(begun, log.stat().st_size - _READ))
            said = opened.read().decode("utf-8", errors="replace")
        raise TrainingStopped(why(status, said, processes))


def _ended(arguments: list[str], out: int, *, held: int, environment: dict[str, str]) -> int:
    """The exit status of torchrun; if this process is ended before, so are torchrun and, by it, what it started."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        env=os.environ | environment,
        pass_fds=(held,),
        start_new_session=True,  # Ctrl-C is for the sweep, which ends its workers in order
    )
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


# ---- why it failed ----
def why(status: int, said: str, processes: int) -> str:
    """In a line: how the first process that failed ended, and the last error that was written before torchrun's own."""
    failed = _FAILED.search(said)
    ended = f"torchrun: {how_it_ended(status)}"
    if failed is not None:
        ended = f"process {int(failed[2]) + 1} of {processes}: {how_it_ended(int(failed[1]))}"
    lines = said[: failed.start() if failed else None].splitlines()
    error = next((line for line in reversed(lines) if _ERROR.match(line)), None)
    return ended if error is None else f"{error.removeprefix('minordpo: ')} ({ended})"
