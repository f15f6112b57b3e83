"""Replies of judges on disk, by the content of the request: a repeated or resumed run asks nothing twice."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import xxhash
from tqdm import tqdm

from minordpo.errors import InputError
from minordpo.run_folder.files import written_whole
from minordpo.run_folder.names import CACHE_ADVICE


class VerdictCache:
    """One small file a reply. Several threads and processes may share the folder; a key is written by one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @staticmethod
    def key(*content: Any) -> str:
        """Stands for all that a reply depends on."""
        return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())

    def get(self, key: str) -> str | None:
        """The reply, or None where there is none; a damaged file is said, and counts as none."""
        file = self._file(key)
        try:
            kept = json.loads(file.read_text(encoding="utf-8"))
            reply = kept["reply"]
            if kept["digest"] == _digest(key, reply):
                return str(reply)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        tqdm.write(f"{file} is not whole, so the judge is asked once more", file=sys.stderr)
        return None

    def put(self, key: str, reply: str) -> None:
        """Keep a reply.

        Raises:
            InputError: the folder cannot be written.
        """
        file = self._file(key)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(file) as aside:
                aside.write_text(
                    json.dumps({"digest": _digest(key, reply), "reply": reply}), encoding="utf-8"
                )
        except OSError as error:
            raise InputError(
                f"{file.parent} cannot be made: {error.strerror or error}. {CACHE_ADVICE}"
            ) from error
        except InputError as error:
            raise InputError(f"{error} {CACHE_ADVICE}") from error

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"  # few enough files in a folder


def _digest(key: str, reply: str) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps([key, reply]).encode())
