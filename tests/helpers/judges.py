"""A judge on this machine: a real HTTP server whose replies a test scripts, and what it was asked."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Sent:
    """What the server sends: a body under a status, or something worse."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    late: float = 0.0  # seconds before anything is sent
    closes: bool = False  # without a word
    cut: bool = False  # says a longer body than it sends
    dribbles: bool = False  # a byte at a time, without end


def says(text: str) -> Sent:
    """A right reply of the protocol."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Sent(json.dumps({"id": "1", "object": "chat.completion", "choices": [choice]}).encode())


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float

    @property
    def text(self) -> str:
        """What the judge is asked."""
        return self.body["messages"][0]["content"]


class Judge:
    """Replies with what `script` returns for a request, which is called by one thread at a time."""

    def __init__(self, script: Callable[[Asked], Sent | str]) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        judge = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                judge._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            asked = Asked(handler.path, dict(handler.headers), body, time.monotonic())
            self.asked.append(asked)
            sent = self.script(asked)
        sent = says(sent) if isinstance(sent, str) else sent
        with contextlib.suppress(OSError):  # the client has given up
            time.sleep(sent.late)
            with self._lock:
                self._now -= 1
            _send(handler, sent)

    def stop(self) -> None:
        """Close it; later requests are refused by the system."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _send(handler: BaseHTTPRequestHandler, sent: Sent) -> None:
    if sent.closes:
        handler.close_connection = True
        return
    handler.send_response(sent.status)
    for name, value in sent.headers.items():
        handler.send_header(name, value)
    if not sent.dribbles:
        handler.send_header("Content-Length", str(len(sent.body) + 100 * sent.cut))
    handler.end_headers()
    while sent.dribbles:
        handler.wfile.write(b" ")
        time.sleep(0.02)
    handler.wfile.write(sent.body)


@contextlib.contextmanager
def running(script: Callable[[Asked], Sent | str]) -> Iterator[Judge]:
    """A judge that is stopped at the end."""
    judge = Judge(script)
    try:
        yield judge
    finally:
        judge.stop()
