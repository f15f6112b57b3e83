"""Processes that do jobs side by side: each lives for many, one that dies is replaced, each has a GPU of its own.

Torch is imported in them, not here: what a worker may use is said in its environment before that.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from minordpo.errors import InputError, TrainingStopped

PATIENCE = 20.0  # seconds that a worker has to end in
Kind = Literal["doing", "done", "failed"]
Doing = Callable[[Any, Callable[[str], None]], None]  # a job, and what to tell what is being done


@dataclass(frozen=True)
class Event:
    """What a worker tells of its job."""

    job: Any
    kind: Kind
    text: str = ""  # what is being done, or why it failed


class _Worker:
    """A process, and what it has to do."""

    def __init__(self, context: Any, do: Doing, environment: dict[str, str], logs: Path) -> None:
        self.conn, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, do, environment, logs), daemon=True)
        self.process.start()
        theirs.close()  # so that its end is seen when it dies
        self.job: Any = None


class Workers:
    """Up to `count` processes, started as they are needed; each job has a `name`, and a log LOGS/NAME.txt.

    A job may start `processes` of its own, for which its worker is given cores and GPUs. `method` is how Python starts
    workers; another than "spawn" carries what has been imported into them.
    """

    def __init__(
        self, do: Doing, count: int, logs: Path, *, processes: int = 1, method: str = "spawn"
    ) -> None:
        self._do, self._logs = do, logs
        self._context = multiprocessing.get_context(method)
        self._environments = environments(count, processes)
        self._workers: dict[int, _Worker] = {}  # by place

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        """End them all; what they were doing can be gone on with."""
        for worker in self._workers.values():
            if worker.job is not None:
                worker.process.terminate()
            worker.conn.close()  # upon which one that waits for a job ends by itself
        for worker in self._workers.values():
            _await(worker.process)
        self._workers = {}

    @property
    def busy(self) -> int:
        """How many have something to do."""
        return sum(worker.job is not None for worker in self._workers.values())

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._environments)

    @property
    def free(self) -> int:
        """How many jobs can be given now."""
        return self.count - self.busy

    def give(self, job: Any) -> None:
        """Have a free worker do the job; one is started where there is none."""
        for place in [p for p, w in self._workers.items() if w.job is None and not w.process.is_alive()]:
            self._retire(place)
        worker = next((each for each in self._workers.values() if each.job is None), None)
        if worker is None:
            place = next(each for each in range(self.count) if each not in self._workers)
            worker = _Worker(self._context, self._do, self._environments[place], self._logs)
            self._workers[place] = worker
        worker.job = job
        with contextlib.suppress(BrokenPipeError):  # it has died; that is seen below
            worker.conn.send(job)

    def events(self, timeout: float) -> list[Event]:
        """What has been told since, waited for up to `timeout` seconds."""
        by_conn = {worker.conn: place for place, worker in self._workers.items()}
        ready = wait(list(by_conn), timeout) if by_conn else []
        return [event for conn in ready for event in self._read(by_conn[conn])]

    def _read(self, place: int) -> Iterator[Event]:
        worker = self._workers[place]
        try:
            kind, text, sound = worker.conn.recv()
        except (EOFError, ConnectionResetError):
            self._retire(place)
            if worker.job is not None:
                yield Event(worker.job, "failed", how_it_ended(worker.process.exitcode))
            return
        event = Event(worker.job, kind, text)
        if kind != "doing":
            worker.job = None
        if not sound:
            self._retire(place)
        yield event

    def _retire(self, place: int) -> None:
        """Another process takes the place of one that has ended or is about to."""
        worker = self._workers.pop(place)
        worker.conn.close()
        _await(worker.process)


def _await(process: Any) -> None:
    """Its end, which comes by itself, or by force where something in it hangs."""
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()


def environments(count: int, processes: int = 1) -> list[dict[str, str]]:
    """Of each worker, what it may use: its share of the cores, and of several GPUs `processes`, in turn.

    Cores are those of one process.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = {"OMP_NUM_THREADS": str(max(1, cores // (count * processes)))}
    shared = {} if "OMP_NUM_THREADS" in os.environ else threads
    gpus = visible_gpus()
    places = range(0, len(gpus), processes)
    shares = [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[at : at + processes])} for at in places] or [{}]
    return [shared | shares[place % len(shares)] for place in range(count)]


def visible_gpus() -> Sequence[str]:
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them; none without CUDA."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()  # by the driver's library, without a context on any
    return named.split(",")[:count] if named else [str(place) for place in range(count)]


@contextlib.contextmanager
def one_gpu() -> Iterator[None]:
    """Of several GPUs this process sees the first alone, as a worker would; for work before CUDA is set up in it."""
    gpus, before = visible_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if len(gpus) < 2:
        yield
        return
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
    try:
        yield
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def how_it_ended(code: int | None) -> str:
    """Of a process that did not end well, its exit status in words."""
    if code is None or code >= 0:
        return f"its process ended with status {code} in the middle of it"
    name = signal.Signals(-code).name
    why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{why}"


# ---- in the worker ----
def _work(conn: Connection, do: Doing, environment: dict[str, str], logs: Path) -> None:
    """Do what comes, until nothing can come any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of them; the first process ends us
    # By way of Python's own end, which gives back what the system lends: semaphores, memory that processes share.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    os.environ.update(environment)
    # A bar that is redrawn ten times a second would fill the log.
    os.environ |= {"TQDM_MININTERVAL": "60", "TQDM_MAXINTERVAL": "60", "TOKENIZERS_PARALLELISM": "false"}
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = conn.recv()
        except (EOFError, OSError):
            return
        logs.mkdir(parents=True, exist_ok=True)
        with (logs / f"{job.name}.txt").open("a", encoding="utf-8") as log:
            for number, stream in ((1, sys.stdout), (2, sys.stderr)):
                stream.flush()
                os.dup2(log.fileno(), number)
        kind, text, sound = _done(job, do, conn)
        conn.send((kind, text, sound))
        if not sound:  # a GPU that met an error may answer every later call with it
            return


def _done(job: Any, do: Doing, conn: Connection) -> tuple[Kind, str, bool]:
    """What to tell of the job, and whether this process can be trusted with another."""
    _set_threads()
    try:
        do(job, lambda text: conn.send(("doing", text, True)))
    except Exception as error:
        traceback.print_exc()
        said = " ".join(str(error).split()) or "no message"
        expected = isinstance(error, InputError | TrainingStopped)
        return "failed", said if expected else f"{type(error).__name__}: {said}", expected
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    return "done", "", True


def _set_threads() -> None:
    """Where torch was there before the environment was set, as in a forked worker."""
    torch, wanted = sys.modules.get("torch"), int(os.environ.get("OMP_NUM_THREADS", "0"))
    if torch is not None and wanted and torch.get_num_threads() != wanted:
        torch.set_num_threads(wanted)


def _end_with_parent() -> None:
    """A sweep that is killed leaves no worker behind, which would hold its run's folder."""
    parent = multiprocessing.parent_process()
    main = threading.main_thread().ident
    if parent is not None and main is not None:
        wait([parent.sentinel])
        signal.pthread_kill(main, signal.SIGTERM)  # it also ends the processes that its job has started
        time.sleep(PATIENCE)
        os._exit(1)
