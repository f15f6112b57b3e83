"""Jobs for workers that need no torch: what a process may do to the sweep that started it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minordpo.errors import InputError


@dataclass(frozen=True)
class Job:
    """What to do, and where to leave word of it."""

    name: str
    what: str
    folder: Path


def do(job: Job, say: Callable[[str], None]) -> None:
    """Leave this process's id and environment, and then do it."""
    said = [
        str(os.getpid()),
        os.environ.get("OMP_NUM_THREADS", ""),
        os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    ]
    aside = job.folder / f".{job.name}"
    aside.write_text(" ".join(said))
    aside.rename(job.folder / job.name)
    print(f"{job.name} was here")
    if job.what == "tell":
        say("halfway")
    elif job.what == "refuse":
        raise InputError("the data are\n gone. Bring them back")
    elif job.what == "break":
        raise ZeroDivisionError("1 / 0")
    elif job.what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif job.what == "leave":
        os._exit(3)
    elif job.what == "wait":
        time.sleep(60)
