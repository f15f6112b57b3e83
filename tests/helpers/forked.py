"""Processes that have the large libraries from the first: a server, forked before any test runs, forks them.

Each process that imports torch and transformers itself takes ten seconds for it. The server is forked early, because
what torch computes with (its threads, a GPU) does not outlive a fork, and has the package without checks of types.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

_server: tuple[Connection, int] | None = None  # how to speak to it, and its process


def start_server() -> None:
    """To be called once, when the libraries are imported and nothing is computed yet."""
    global _server
    ours, theirs = multiprocessing.Pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of forks beside threads; those of xdist only wait
        process = os.fork()
    if process == 0:
        ours.close()
        try:
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    _server = ours, process


def stop_server() -> None:
    """Its processes have ended by then."""
    global _server
    if _server is not None:
        _server[0].close()
        os.waitpid(_server[1], 0)
        _server = None


class Forked:
    """A process that calls MODULE:FUNCTION with arguments; what it says and its errors go to the file `log`."""

    def __init__(
        self, target: str, *arguments: Any, log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self.pid: int = _ask("start", target, arguments, dict(environment or os.environ), str(log))
        self._status: int | None = None

    def status(self) -> int | None:
        """With what it ended, minus the signal that ended it; None while it runs."""
        if self._status is None:
            self._status = _ask("status", self.pid)
        return self._status

    def kill(self) -> None:
        if self.status() is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = 300.0) -> int:
        """Its status; it is killed where it takes longer."""
        return _wait([self], seconds)[0]


def fork_ranks(
    target: str, *arguments: Any, log: Path, environment: Mapping[str, str], processes: int = 2
) -> None:
    """Processes that find each other as those of torchrun do, waited for; all have to end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = {**environment, **{name: str(value) for name, value in place.items()}}
        ranks.append(Forked(target, *arguments, log=log.with_suffix(f".{rank}.txt"), environment=own))
    statuses = _wait(ranks, 600.0)
    said = "\n".join(each.log.read_text(errors="replace")[-3000:] for each in ranks)
    assert statuses == [0] * processes, f"{statuses}\n{said}"


def _wait(processes: Sequence[Forked], seconds: float) -> list[int]:
    """How each ended; one that ends badly or too late ends the others."""
    deadline = time.monotonic() + seconds
    while None in (statuses := [each.status() for each in processes]):
        if any(statuses) or time.monotonic() > deadline:
            for each in processes:
                each.kill()
        time.sleep(0.02)
    return statuses  # type: ignore[return-value]


def _ask(*request: Any) -> Any:
    assert _server is not None, "conftest starts the server"
    _server[0].send(request)
    return _server[0].recv()


# ---- in the server ----
def _serve(conn: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    atexit._clear()  # what pytest would do at its end
    gc.freeze()  # what is imported, stays
    sys.meta_path[:] = [each for each in sys.meta_path if "jaxtyping" not in type(each).__module__]
    _speak_to(os.devnull)
    while True:
        try:
            what, *request = conn.recv()
        except EOFError:
            return
        if what == "status":
            process, status = os.waitpid(request[0], os.WNOHANG)
            conn.send(os.waitstatus_to_exitcode(status) if process else None)
            continue
        target, arguments, environment, log = request
        module, _, name = target.partition(":")
        importlib.import_module(module)  # here, for all that come after
        process = os.fork()
        if process == 0:
            conn.close()
            _do(module, name, arguments, environment, log)
        conn.send(process)


def _speak_to(path: str) -> None:
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        file = os.open(os.devnull if number == 0 else path, mode | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115


def _do(module: str, name: str, arguments: Sequence[Any], environment: dict[str, str], log: str) -> None:
    """The call, in a process of its own, and its end."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _speak_to(log)
        warnings.resetwarnings()
        os.environ.clear()
        os.environ.update(environment)
        threads = int(environment.get("OMP_NUM_THREADS", "0"))
        if threads:
            sys.modules["torch"].set_num_threads(threads)
        status = getattr(sys.modules[module], name)(*arguments) or 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)
