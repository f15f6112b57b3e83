"""A vLLM server of our own: started for one model, asked for completions, and ended with its last request."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minordpo.engine.models import base_source, located
from minordpo.errors import InputError
from minordpo.generate import vllm_keeper
from minordpo.run_folder.files import readable

PROGRAM_VARIABLE = "MINORDPO_VLLM"
OPTIONS_VARIABLE = "MINORDPO_VLLM_OPTIONS"
START_SECONDS = 1200.0  # a large model is read, and compiled for the device
REPLY_SECONDS = 3600.0  # of one answer
END_SECONDS = 30.0
_BASE, _ADAPTER = "base", "adapter"  # what the server calls them
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that --max-lora-rank takes
_NOT_COMPUTED = ("use_dora", "modules_to_save", "lora_bias", "trainable_token_indices")
_SHOWN = 300  # characters of a log's line
# What the server's processes write before each line, such as "(EngineCore pid=7) ERROR 12-01 02:30:07 [core.py:12] "
_PREFIX = re.compile(r"^(\(\S+ pid=\d+\) )?([A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[[^]]*\] )?")
_CAUSE = re.compile(r"^\w[\w.]*(Error|Exception): \S|^vllm.*: error: ")


@dataclass(frozen=True)
class ServedModel:
    """A model to serve, and its adapter if it has one."""

    path: str  # of the model without the adapter: a folder or a hub id
    adapter: str | None = None
    rank: int = 0  # of the adapter, the largest of its modules
    merge: str | None = (
        None  # what vLLM does not compute of the adapters, which are merged into the base first
    )

    @property
    def name(self) -> str:
        """The name by which requests ask for the model."""
        return _BASE if self.adapter is None else _ADAPTER

    def arguments(self) -> list[str]:
        """The options of the server that name it; its path stands before all options."""
        words = ["--served-model-name", _BASE]
        if self.adapter is None:
            return words
        rank = next(each for each in _RANKS if each >= self.rank)
        lora = ["--enable-lora", "--max-loras", "1", "--max-lora-rank", str(rank)]
        return [*words, *lora, "--lora-modules", f"{_ADAPTER}={self.adapter}"]


def servable(path: str) -> ServedModel:
    """The model and adapter that a server loads for a run folder, model folder, adapter folder or hub id.

    Raises:
        InputError: it is an adapter of another type than LoRA.
    """
    folder, base = located(path)
    if base is None:
        return ServedModel(folder)
    file = Path(folder) / "adapter_config.json"
    with readable(file, "Save the adapter again"):
        config = json.loads(file.read_text(encoding="utf-8"))
        kind, bias = config.get("peft_type"), config.get("bias") or "none"
        rank = max([int(config.get("r") or 0), *map(int, (config.get("rank_pattern") or {}).values())])
        others = [name for name in _NOT_COMPUTED if config.get(name)]
    if kind != "LORA":
        raise InputError(
            f"{path} is an adapter of type {kind}, but the backend vllm needs LoRA. Leave out --backend vllm"
        )
    if base_source(Path(folder)).get("quantization"):
        others.append("the base as it was quantised in training")
    found, below = located(base)
    if below is not None or any(Path(folder).glob("*/adapter_config.json")):
        others.append("an adapter below another")
    if bias != "none":
        others.append(f"bias {bias}")
    if rank > _RANKS[-1]:
        others.append(f"rank {rank}")
    if others:
        return ServedModel(folder, merge=", ".join(others))
    return ServedModel(found, folder, rank)


def vllm_program() -> str:
    """The path of the program vllm.

    Raises:
        InputError: there is none.
    """
    named = os.environ.get(PROGRAM_VARIABLE, "").strip()
    found = shutil.which(named or "vllm")
    if found is None:
        where = f"{PROGRAM_VARIABLE} names {named}, which is no program" if named else "none is on PATH"
        raise InputError(
            f"the backend is vllm, which needs the program vllm, but {where}. Install vLLM into an environment of its "
            f"own and set {PROGRAM_VARIABLE} to that environment's bin/vllm, or leave out --backend vllm"
        )
    return found


class VllmServer:
    """A server that is ready; several threads may ask at a time. `serving` makes and ends it.

    Raises:
        InputError: it ends before it is ready, or is not ready in time.
    """

    def __init__(self, words: Sequence[str], folder: Path, *, seconds: float) -> None:
        self._socket, self._log = folder / "socket", folder / "log"
        self._kept: Path | None = None  # a copy of the log that outlives the server
        self._keeping = threading.Lock()  # a server that ends fails many requests at once
        environment = {
            "VLLM_NO_USAGE_STATS": "1",
            **os.environ,
        }  # a report of the machine, sent to vLLM's makers
        command = [sys.executable, "-I", vllm_keeper.__file__, *words, "--uds", str(self._socket)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # closed with this process, however it ends
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # a Ctrl-C is for this process, which ends the server
            )
        try:
            self._await(seconds)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End the server and all that it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(END_SECONDS)

    def complete(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The one choice of the reply to a request to /v1/completions.

        Raises:
            InputError: the server refuses the request or has ended.
        """
        try:
            status, body = self._ask("POST", "/v1/completions", json.dumps(request), seconds=REPLY_SECONDS)
        except (OSError, http.client.HTTPException) as error:
            raise self.failure(
                f"the vLLM server gave no reply ({str(error) or type(error).__name__})"
            ) from error
        try:
            found = json.loads(body)
            if status == 200:
                return dict(found["choices"][0])
            said = str(found["error"]["message"])
        except (ValueError, KeyError, IndexError, TypeError):
            said = body.decode(errors="replace")
        raise self.failure(f"the vLLM server replied with status {status}: {' '.join(said.split())[:_SHOWN]}")

    def version(self) -> str:
        """The version of vLLM that the server tells, or "unknown"."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return str(json.loads(self._ask("GET", "/version", None, seconds=10.0)[1])["version"])
        return "unknown"

    def failure(self, what: str) -> InputError:
        """The error that says `what`, why by the server's log, and where the log is kept."""
        with self._keeping:
            log = self._log.read_text(encoding="utf-8", errors="replace")
            if self._kept is None:
                handle, kept = tempfile.mkstemp(prefix="minordpo-vllm-", suffix=".log")
                os.close(handle)
                self._kept = Path(kept)
            self._kept.write_text(log, encoding="utf-8")
        return InputError(
            f"{what.rstrip('.')}. Its log says: {reason(log)}. Answers that came are kept; read {self._kept}, correct "
            "the cause, and start again"
        )

    def _await(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            status = self._process.poll()
            if status is not None:
                raise self.failure(f"vLLM ended with status {status} before it was ready")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._ask("GET", "/health", None, seconds=10.0)[0] == 200:
                    return
            time.sleep(0.2)
        raise self.failure(f"vLLM was not ready within {seconds:g} seconds")

    def _ask(self, method: str, path: str, body: str | None, *, seconds: float) -> tuple[int, bytes]:
        connection = _SocketConnection(self._socket, seconds)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()


@contextlib.contextmanager
def serving(
    model: ServedModel, *, dtype: str, room: int, at_once: int, seconds: float = START_SECONDS
) -> Iterator[VllmServer]:
    """A server of the model for `at_once` requests of up to `room` tokens, prompt and answer together.

    Its socket stands in a folder that this user alone may enter.

    Raises:
        InputError: there is no vLLM, or it does not start.
    """
    # The user's options stand before ours: of one that stands twice vLLM takes the last, and answers depend on ours.
    words = [vllm_program(), "serve", model.path, *_options(), *model.arguments()]
    words += ["--dtype", dtype, "--max-model-len", str(room)]
    words += ["--max-num-seqs", str(at_once), "--generation-config", "vllm", "--disable-uvicorn-access-log"]
    with tempfile.TemporaryDirectory(prefix="minordpo-vllm-") as folder:
        server = VllmServer(words, Path(folder), seconds=seconds)
        try:
            yield server
        finally:
            server.end()


def _options() -> list[str]:
    given = os.environ.get(OPTIONS_VARIABLE, "")
    try:
        return shlex.split(given)
    except ValueError as error:  # an open quote
        raise InputError(
            f"{OPTIONS_VARIABLE} is {given!r}, which cannot be split into words: {error}. Correct it"
        ) from None


def reason(log: str) -> str:
    """The first error that a server's log names, or else its last line."""
    lines = [_PREFIX.sub("", line).strip() for line in log.splitlines()]
    cause = next((line for line in lines if _CAUSE.match(line)), None)
    last = next((line for line in reversed(lines) if line), "nothing")
    return (cause or last)[:_SHOWN].rstrip(".")


class _SocketConnection(http.client.HTTPConnection):
    """A connection to a socket of this machine's file system."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
