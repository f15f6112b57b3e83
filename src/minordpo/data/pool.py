"""Map a function over chunks by several processes; results come in the order of the chunks."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from minordpo.errors import InputError

C = TypeVar("C")
R = TypeVar("R")
# What is imported already need not be imported again where a process can be copied; macOS does not bear that.
_METHOD = "fork" if sys.platform == "linux" else "spawn"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(work: Callable[[C], R], chunks: Iterable[C], *, processes: int) -> Iterator[R]:
    """`work(chunk)` of each chunk, by that many processes beside this one; with one, by this one itself.

    A process holds one chunk at a time, and no more results wait than there are processes. They end with this process,
    however that ends.

    Raises:
        InputError: of the first chunk, by order, of which `work` raises one.
        RuntimeError: a process died, or `work` raised another error.
    """
    if processes == 1:
        yield from map(work, chunks)
        return
    context: Any = multiprocessing.get_context(_METHOD)
    conns: list[Connection] = []
    workers = []
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            conns.append(ours)
            # A copy has our ends too, and would wait for itself to read where we are gone.
            copied = conns if _METHOD == "fork" else []
            worker = context.Process(target=_serve, args=(theirs, copied, work), daemon=True)
            with warnings.catch_warnings():
                # Python 3.12 warns of threads in a process that is copied; a worker uses none of them.
                warnings.simplefilter("ignore", DeprecationWarning)
                worker.start()
            theirs.close()  # so that its end is seen when it dies
            workers.append(worker)
        yield from _exchange(conns, iter(chunks))
    finally:
        for conn in conns:
            conn.close()
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def _exchange(conns: list[Connection], chunks: Iterator[C]) -> Iterator[Any]:
    free, busy = list(conns), dict[Connection, int]()
    done: dict[int, tuple[str, Any]] = {}
    given = told = 0
    more = True
    while more or busy or done:
        # Chunks ahead of the one that is waited for are not read without end.
        while more and free and given - told < 2 * len(conns):
            chunk = next(chunks, None)
            if chunk is None:
                more = False
                break
            conn = free.pop()
            busy[conn] = given
            with contextlib.suppress(BrokenPipeError):  # it has died; that is seen below
                conn.send(chunk)
            given += 1
        for ready in wait(list(busy)) if busy else ():
            assert isinstance(ready, Connection)
            try:
                done[busy.pop(ready)] = ready.recv()
            except (EOFError, OSError):
                raise RuntimeError(
                    "a process that tokenises was ended from outside, perhaps for lack of memory"
                ) from None
            free.append(ready)
        while told in done:
            kind, result = done.pop(told)
            if kind != "done":
                raise (InputError if kind == "refused" else RuntimeError)(result)
            yield result
            told += 1


def _serve(conn: Connection, others: list[Connection], work: Callable[[Any], Any]) -> None:
    """Answer chunks until the process that gives them is gone; `others` are not this process's to hold."""
    for other in others:
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # that is its parent's to hear
    # One process a core; besides, threads do not survive a copy.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.freeze()  # what was imported stays, and need not be looked through again and again
    parent: Any = multiprocessing.parent_process()
    with contextlib.suppress(EOFError, OSError):
        while parent.sentinel not in wait([conn, parent.sentinel]):
            conn.send(_answer(work, conn.recv()))


def _answer(work: Callable[[Any], Any], chunk: Any) -> tuple[str, Any]:
    try:
        return "done", work(chunk)
    except InputError as error:
        return "refused", str(error)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"
