"""One request to a chat endpoint that speaks OpenAI's protocol, tried again where that may help."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import os
import random
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from minordpo.data.read.fields import shorten
from minordpo.errors import InputError
from minordpo.verify.options import flag

KEY_VARIABLE = "MINORDPO_JUDGE_KEY"
FIRST_WAIT = 1.0  # seconds; doubled with each further try
LONGEST_WAIT = 60.0
LONGEST_ASKED_WAIT = 600.0  # by Retry-After
_LARGEST_REPLY = 1 << 24  # bytes
_SHOWN = 160  # characters of what came
_AGAIN = (408, 409, 425, 429)  # and from 500 on
_VERSION = re.compile(r"v\d+")
_DICE = random.Random()  # not the one that a run seeds


@dataclass(frozen=True)
class _Failure:
    """What came in place of a reply, and what to do."""

    what: str
    advice: str
    again: bool = True
    wait: float | None = None  # seconds, as the server asks


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected request would lose its body, and would carry the key to another place."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class JudgeClient:
    """Asks one model at one endpoint; several threads may ask at a time.

    Raises:
        InputError: the URL or the key in the environment cannot be used.
    """

    def __init__(
        self, url: str, model: str, *, seconds: float, retries: int, max_tokens: int | None = None
    ) -> None:
        self.url = endpoint(url)
        self.model = model
        self._seconds, self._retries, self._max_tokens = seconds, retries, max_tokens
        self._key = _key()
        https = urllib.request.HTTPSHandler(context=ssl.create_default_context())
        self._opener = urllib.request.build_opener(_NoRedirect, https)

    def body(self, text: str) -> dict[str, Any]:
        """The request that asks `text`."""
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "temperature": 0}
        return body if self._max_tokens is None else body | {"max_tokens": self._max_tokens}

    def ask(
        self,
        text: str,
        *,
        what: str,
        form: str,
        read: Callable[[str], object],
        stopped: threading.Event,
        retries: int | None = None,
    ) -> str:
        """The judge's reply, which `read` reads as other than None; `form` is the last line that it looks for.

        Once `stopped` is set, it is not tried again.

        Raises:
            InputError: after all tries, with the URL, `what` was judged, and what came in place of a verdict.
        """
        tries = 1 + (self._retries if retries is None else retries)
        found = _Failure("it was not asked", "Start again")
        for each in range(tries):
            found_or_reply = self._once(text)
            if isinstance(found_or_reply, str):
                if read(found_or_reply) is not None:
                    return found_or_reply
                end = _quoted(found_or_reply[-_SHOWN:])
                found = _Failure(
                    f"its reply does not end with a line such as {form!r}, but with {end}",
                    f"Name a model by {flag('judge_model')} that keeps to the format",
                )
            else:
                found = found_or_reply
            if not found.again or each + 1 == tries or stopped.wait(_wait(each, found)):
                break
        asked = f"asked {each + 1} times" if each else "asked once"
        raise InputError(
            f"the judge at {shown(self.url)} gave no verdict on {what}: {found.what} ({asked}). {found.advice}. "
            "Verdicts that came are kept"
        )

    def _once(self, text: str) -> str | _Failure:
        try:
            return self._reply(self._posted(text))
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error)
        except TimeoutError:
            return self._late()
        except (OSError, http.client.HTTPException) as error:  # a URLError is an OSError
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                return self._late()
            said = self._clean(" ".join(str(reason).split())) or type(reason).__name__
            return _Failure(f"the connection failed ({said})", "Start the judge, or correct its URL")

    def _posted(self, text: str) -> bytes:
        """The body of the answer to a request; the whole of it must come in time."""
        end = time.monotonic() + self._seconds
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "minordpo"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps(self.body(text)).encode()
        request = urllib.request.Request(self.url, data=data, headers=headers, method="POST")
        parts, size = [], 0
        with self._opener.open(request, timeout=self._seconds) as response:
            length = response.headers.get("Content-Length", "")
            whole = int(length) if length.isascii() and length.isdigit() else None
            # What a server writes behind the body is left alone, and not waited for.
            while (whole is None or size < whole) and (part := response.read1(1 << 16)):
                parts.append(part)
                size += len(part)
                if time.monotonic() > end:
                    raise TimeoutError
                if size > _LARGEST_REPLY:
                    raise http.client.HTTPException(f"more than {_LARGEST_REPLY:,} bytes came")
        if whole is not None and size < whole:  # which read1 does not say
            raise http.client.IncompleteRead(b"".join(parts), whole - size)
        return b"".join(parts)

    def _reply(self, body: bytes) -> str | _Failure:
        """The text of the reply's first choice."""
        advice = "Check that the URL is that of a chat endpoint with OpenAI's protocol"
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            return _Failure(f"it replied with what is no JSON, {self._seen(body)}", advice)
        try:
            content = found["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            content = None
        if not isinstance(content, str):
            return _Failure(
                f"its reply has no text at choices[0].message.content: {self._seen(body)}", advice
            )
        return self._clean(content)

    def _refused(self, error: urllib.error.HTTPError) -> _Failure:
        """What an answer with an error's status says."""
        try:
            body = error.read(4096)
        except (OSError, http.client.HTTPException):
            body = b""
        code = error.code
        seen = f" and {self._seen(body)}" if body.strip() else ""
        what = f"it replied with status {code}{seen}"
        if code in (401, 403):
            return _Failure(
                what, f"Set the environment variable {KEY_VARIABLE} to a key that may", again=False
            )
        if 300 <= code < 400:
            place = self._clean(shorten(error.headers.get("Location", "another place"), _SHOWN))
            return _Failure(f"{what}, which points to {place}", "Name that URL if you trust it", again=False)
        if code == 429:
            advice = f"Lower {flag('judge_concurrency')}, or raise {flag('judge_retries')}"
        elif code < 500:
            advice = f"Correct the URL or {flag('judge_model')}"
        else:
            advice = f"Look at the judge's log, or raise {flag('judge_retries')}"
        return _Failure(
            what, advice, code in _AGAIN or code >= 500, _asked_wait(error.headers.get("Retry-After"))
        )

    def _late(self) -> _Failure:
        return _Failure(
            f"it did not reply within {self._seconds:g} seconds",
            f"Raise {flag('verify_timeout')}, or lower {flag('judge_concurrency')}",
        )

    def _seen(self, body: bytes) -> str:
        return _quoted(self._clean(body.decode(errors="replace")))

    def _clean(self, text: str) -> str:
        """The text without the key, which a server may quote."""
        return text.replace(self._key, f"[{KEY_VARIABLE}]") if self._key else text


def endpoint(url: str) -> str:
    """Where requests go: a URL that ends in /chat/completions as it is, of others what is below it.

    Raises:
        InputError: no such URL, or one with a name and password in it.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port that is no number, a host that is no name
        usable = False
    if not usable or re.search(r"[^!-~]", url):
        raise InputError(
            f"the judge's URL is {shown(url)!r}, but one such as http://localhost:8000 is needed. Correct it"
        )
    if "@" in parts.netloc:
        raise InputError(
            "the judge's URL has a name or password in it, which would be written into files. Take it out, and give "
            f"the key in the environment variable {KEY_VARIABLE}"
        )
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        version = "" if _VERSION.fullmatch(path.rpartition("/")[2]) else "/v1"
        path = f"{path}{version}/chat/completions"
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def shown(url: str) -> str:
    """The URL as messages name it: without a query, in which some services take keys, and without a password."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def _key() -> str | None:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if re.search(r"[^!-~]", key):
        raise InputError(
            f"the environment variable {KEY_VARIABLE} holds characters that no key has (spaces, line breaks or letters "
            "beyond ASCII). Set it to the key alone"
        )
    return key or None


def _wait(tried: int, failure: _Failure) -> float:
    """Seconds until the next try."""
    if failure.wait is not None:
        return failure.wait
    longest: float = min(LONGEST_WAIT, FIRST_WAIT * 2**tried)
    return _DICE.uniform(longest / 2, longest)  # so that threads do not come back all at once


def _asked_wait(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which gives them or a time; None where it is not given or is neither."""
    if header is None:
        return None
    seconds = None
    with contextlib.suppress(ValueError):
        seconds = float(header)
    if seconds is None:
        with contextlib.suppress(ValueError, TypeError):
            until = email.utils.parsedate_to_datetime(header)
            seconds = (until - datetime.now(UTC if until.tzinfo else None)).total_seconds()
    if seconds is None or seconds != seconds:
        return None
    return min(max(0.0, seconds), LONGEST_ASKED_WAIT)


def _quoted(text: str) -> str:
    return repr(shorten(" ".join(text.split()), _SHOWN))
