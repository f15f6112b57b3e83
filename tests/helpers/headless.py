"""A page in headless Chromium, spoken to through the pipe of its DevTools protocol: real clicks, real errors.

Nothing of it listens on a port. What the page asks the network for and what it says on its console are kept.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = """
--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking --disable-sync
--no-first-run --disable-extensions --disable-component-update --disable-default-apps --remote-debugging-pipe
""".split()  # noqa: SIM905
_PATIENCE = 120.0  # seconds; of a machine that does much else


def browser() -> str:
    """The path of a Chromium; the test is skipped without one."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    return found


class Headless:
    """A browser with one page. `errors` are exceptions and console errors, `requests` all that was asked for."""

    def __init__(self, profile: Path) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self._buffer = b""
        self._session: str | None = None
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # It reads at 3 and writes at 4; both are moved out of the way first, for either may be one of these.
        theirs = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (to_read, to_write)]
        moves = [(os.POSIX_SPAWN_DUP2, end, place) for end, place in zip(theirs, (3, 4), strict=True)]
        path = browser()
        command = [path, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        # A group of its own, so that its helpers end with it.
        with open(os.devnull, "w") as null:
            quiet = [(os.POSIX_SPAWN_DUP2, null.fileno(), place) for place in (1, 2)]
            self._pid = os.posix_spawn(
                path, command, dict(os.environ), file_actions=moves + quiet, setpgroup=0
            )
        for each in (to_read, to_write, *theirs):
            os.close(each)
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Headless:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Have the browser do something; what comes of it."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + _PATIENCE
        while number not in self._answers:
            self._listen(end)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _listen(self, end: float) -> None:
        ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"Chromium said nothing for {_PATIENCE:g} s"
        piece = os.read(self._read, 1 << 20)
        assert piece, "Chromium has ended"
        *messages, self._buffer = (self._buffer + piece).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message["method"], message.get("params", {}))

    def _note(self, event: str, about: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(about["exceptionDetails"])[:2000])
        elif event == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(about["entry"]["text"])
        elif event == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(about["args"])[:2000])
        elif event == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])

    def show(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Give the page this size and colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path) -> None:
        """Load a file, and wait until its script has run and its charts are drawn."""
        self.call("Page.navigate", url=page.resolve().as_uri())
        loaded = "document.readyState === 'complete' && location.protocol === 'file:'"
        end = time.monotonic() + _PATIENCE
        while not self.value(loaded):
            assert time.monotonic() < end, f"{page} was not loaded"
            time.sleep(0.05)
        self.settle()

    def settle(self) -> None:
        """Wait for two frames: charts are drawn once their size is known."""
        self.value("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Press the middle of the element with the mouse."""
        x, y = self.place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.settle()

    def point(self, selector: str) -> None:
        """Move the mouse to the middle of the element."""
        x, y = self.place(selector)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.settle()

    def place(self, selector: str) -> tuple[float, float]:
        """The middle of the element in the window, scrolled into it."""
        found = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return found[0], found[1]

    def press(self, key: str) -> None:
        """Press a key on what has the focus."""
        text = {"Enter": "\r"}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text)
        self.settle()

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a <select>."""
        place = json.dumps(selector)
        self.value(
            f"(() => {{ const e = document.querySelector({place}); e.value = {json.dumps(value)};"
            " e.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )
        self.settle()

    def picture(self, file: Path, *, whole: bool = True) -> None:
        """Write what the page looks like, as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))
