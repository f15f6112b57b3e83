"""Reference log-probs on disk, found by key and read one example at a time."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors.numpy import save_file

from minordpo.run_folder.files import replacing, writing
from minordpo.run_folder.lock import locked
from minordpo.run_folder.names import CACHE_ADVICE

SHARD_SIZE = 512  # examples written at a time; a killed pass loses at most these
_KEY = "S16"
# Values of a file, in float32.
_PLACE = np.dtype([("file", np.int32), ("start", np.int64), ("count", np.int32)])
_MOST_RECENT = 1 << 16  # keys that are looked up one by one before they are sorted in


class ReferenceCache:
    """Token log-probs on disk, one folder per fingerprint; shards are written whole, by any number of processes.

    Keys are held in memory, 32 bytes each; values are mapped and read when they are asked for. With `folder=None`
    values go to a file that ends with the process, as do those that `receive` is given.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._folder = None if folder is None else folder / fingerprint
        self._files: list[np.ndarray] = []  # values of each shard
        self._aside = _Aside()
        self._keys, self._places = np.empty(0, _KEY), np.empty(0, _PLACE)  # in the order of keys
        self._recent: dict[bytes, tuple[int, int, int]] = {}
        self._fresh: dict[bytes, np.ndarray] = {}
        self._read: set[str] = set()
        self._read_new()

    @contextlib.contextmanager
    def computed_once(self) -> Iterator[None]:
        """Wait until no other process computes for this folder, and know what it has left there."""
        if self._folder is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            # Where a folder cannot be made or locked, processes come as they come: what is computed twice is right.
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self._folder))
            self._read_new()
            yield

    def has(self, keys: np.ndarray) -> np.ndarray:
        """Of each of these keys, 16 bytes each, whether its log-probs are there."""
        self._sort_in()
        wanted = np.ascontiguousarray(keys).view(_KEY)
        place = np.searchsorted(self._keys, wanted)
        found = place < len(self._keys)
        found[found] = self._keys[place[found]] == wanted[found]
        if self._fresh:
            found |= np.isin(wanted, np.array(list(self._fresh), _KEY))
        return found

    def __contains__(self, key: bytes) -> bool:
        return key in self._fresh or self._place(key) is not None

    def __getitem__(self, key: bytes) -> np.ndarray:
        if key in self._fresh:
            return self._fresh[key]
        place = self._place(key)
        if place is None:
            raise KeyError(key)
        file, start, count = place
        if file < 0:
            return self._aside.read(start, count)
        return self._files[file][start : start + count].copy()

    def add(self, key: bytes, logps: np.ndarray) -> None:
        """Keep one example's log-probs; every `SHARD_SIZE` of them go to disk."""
        if self._folder is None:
            self.receive(key, logps)
            return
        self._fresh[key] = logps
        if len(self._fresh) >= SHARD_SIZE:
            self.flush()

    def receive(self, key: bytes, logps: np.ndarray) -> None:
        """Know one example's log-probs that another rank keeps on disk."""
        if key not in self:
            self._know(key, -1, self._aside.write(logps), len(logps))

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if self._folder is None or not self._fresh:
            return
        keys = b"".join(self._fresh)
        tensors: dict[str, np.ndarray] = {
            "keys": np.frombuffer(keys, np.uint8).reshape(-1, 16),
            "lengths": np.array([len(logps) for logps in self._fresh.values()], np.int64),
            "logps": np.concatenate(list(self._fresh.values())),
        }
        shard = self._folder / f"{xxhash.xxh3_128_hexdigest(keys)}.safetensors"
        with writing(self._folder, CACHE_ADVICE):
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(shard) as aside:
                save_file(tensors, aside)
        self._read_shard(shard)
        self._fresh = {}

    def _read_new(self) -> None:
        for shard in sorted(self._folder.glob("*.safetensors")) if self._folder else ():
            if shard.name not in self._read:
                self._read_shard(shard)

    def _read_shard(self, shard: Path) -> None:
        self._read.add(shard.name)
        found = _mapped(shard)
        if found is None:
            return  # not whole, for instance cut off by a full disk: its pairs are computed again
        keys, lengths, values = found
        self._files.append(values)
        starts = np.cumsum(lengths) - lengths
        for key, start, count in zip(keys.tolist(), starts.tolist(), lengths.tolist(), strict=True):
            self._know(key.ljust(16, b"\0"), len(self._files) - 1, start, count)

    def _know(self, key: bytes, file: int, start: int, count: int) -> None:
        self._recent[key] = file, start, count
        if len(self._recent) >= _MOST_RECENT:
            self._sort_in()

    def _sort_in(self) -> None:
        """Put the recent keys among the sorted ones; of equal keys the one known last counts."""
        if not self._recent:
            return
        keys = np.concatenate([np.array(list(self._recent), _KEY), self._keys])
        places = np.concatenate([np.array(list(self._recent.values()), _PLACE), self._places])
        self._keys, first = np.unique(keys, return_index=True)
        self._places = places[first]
        self._recent = {}

    def _place(self, key: bytes) -> tuple[int, int, int] | None:
        if key in self._recent:
            return self._recent[key]
        place = int(np.searchsorted(self._keys, np.bytes_(key)))
        if place == len(self._keys) or self._keys[place].ljust(16, b"\0") != key:
            return None
        file, start, count = self._places[place].tolist()
        return file, start, count


class KnownLogps(Sequence[np.ndarray]):
    """What a cache holds of some examples, in their order; each is read when it is asked for."""

    def __init__(self, cache: ReferenceCache, keys: np.ndarray) -> None:
        self._cache, self._keys = cache, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return KnownLogps(self._cache, self._keys[index])
        return self._cache[self._keys[range(len(self))[index]].tobytes()]


class _Aside:
    """Values that no other process needs, in a file without a name."""

    def __init__(self) -> None:
        self._end = 0

    @cached_property
    def _file(self) -> Any:
        file = tempfile.TemporaryFile()  # noqa: SIM115  # it is read as long as this lives
        weakref.finalize(self, file.close)
        return file

    def write(self, values: np.ndarray) -> int:
        """Add values; where they begin, counted in values."""
        start = self._end
        self._file.write(values.astype(np.float32, copy=False).tobytes())
        self._file.flush()
        self._end += len(values)
        return start

    def read(self, start: int, count: int) -> np.ndarray:
        """The `count` values from there."""
        return np.frombuffer(bytearray(os.pread(self._file.fileno(), 4 * count, 4 * start)), np.float32)


def _mapped(shard: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Keys, lengths and values of a shard, the values mapped; None if it is not as it was written.

    safetensors reads whole tensors, and where one lies is in the header: its length in 8 bytes, then JSON.
    """
    found: dict[str, np.ndarray] = {}
    try:
        with shard.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            header = json.loads(file.read(min(start, size) - 8))
            for name, kind in _DTYPES.items():
                first, end = header[name]["data_offsets"]
                count = (end - first) // kind.itemsize
                if (
                    name == "logps"
                ):  # only these are mapped: the system maps what lies around a page that is read
                    found[name] = np.memmap(file, kind, "r", offset=start + first, shape=count)
                else:
                    found[name] = np.fromfile(file, kind, count, offset=start + first - file.tell())
            ends = max(header[name]["data_offsets"][1] for name in _DTYPES)
            whole = size == start + ends
    except (OSError, ValueError, KeyError, TypeError):
        return None
    keys, lengths, values = found.values()
    if not whole or len(keys) != len(lengths) or lengths.sum() != len(values):
        return None
    return keys, lengths, values


_DTYPES = {"keys": np.dtype(_KEY), "lengths": np.dtype(np.int64), "logps": np.dtype(np.float32)}
