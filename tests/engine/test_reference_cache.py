"""The reference cache finds log-probs by key without reading the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from minordpo.engine import reference_cache
from minordpo.engine.reference_cache import KnownLogps, ReferenceCache


def drawn(count: int, seed: int = 0) -> dict[bytes, np.ndarray]:
    """Keys of 16 bytes, some of which end or begin with zeros, and log-probs."""
    rng = np.random.default_rng(seed)
    made = {}
    for i in range(count):
        key = bytearray(rng.integers(0, 256, 16, np.uint8).tobytes())
        if i % 3 == 0:
            key[10:] = b"\0" * 6
        if i % 5 == 0:
            key[:3] = b"\0" * 3
        made[bytes(key)] = rng.normal(size=rng.integers(1, 9)).astype(np.float32)
    return made


def array_of(keys: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(keys), "V16")


@pytest.mark.parametrize("kept", ["in a folder", "nowhere", "received"])
def test_a_cache_is_a_dict(tmp_path: Path, kept: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reference_cache, "SHARD_SIZE", 7)
    monkeypatch.setattr(reference_cache, "_MOST_RECENT", 20)
    expected, others = drawn(100), list(drawn(50, seed=1))
    cache = ReferenceCache(tmp_path if kept == "in a folder" else None, "k")
    for number, (key, logps) in enumerate(expected.items()):
        assert key not in cache
        (cache.receive if kept == "received" else cache.add)(key, logps)
        if number % 10 == 0:
            known = list(expected)[: number + 1]
            assert cache.has(array_of([*known, *others])).tolist() == [True] * len(known) + [False] * 50
            assert all(np.array_equal(cache[each], expected[each]) for each in known)
    cache.flush()
    caches = [cache, ReferenceCache(tmp_path, "k")] if kept == "in a folder" else [cache]
    for each in caches:
        assert all(np.array_equal(each[key], logps) for key, logps in expected.items())
        assert all(key in each for key in expected)
        assert not any(key in each for key in others)
        with pytest.raises(KeyError):
            each[others[0]]
        keys = list(expected)[::-2]
        found = KnownLogps(each, array_of(keys))
        assert all(np.array_equal(one, expected[key]) for one, key in zip(found, keys, strict=True))
        assert np.array_equal(found[3:][0], expected[keys[3]])
    if kept == "in a folder":
        assert len(list((tmp_path / "k").iterdir())) == 15


def test_a_shard_of_an_earlier_version_is_read(tmp_path: Path):
    expected = drawn(5)
    (tmp_path / "k").mkdir()
    tensors = {
        "keys": np.frombuffer(b"".join(expected), np.uint8).reshape(-1, 16),
        "lengths": np.array([len(logps) for logps in expected.values()], np.int64),
        "logps": np.concatenate(list(expected.values())),
    }
    save_file(tensors, tmp_path / "k" / "old.safetensors")
    cache = ReferenceCache(tmp_path, "k")
    assert all(np.array_equal(cache[key], logps) for key, logps in expected.items())


def test_values_are_not_read_before_they_are_asked_for(tmp_path: Path):
    """A shard of 20 GB, nearly all of it a hole in the file."""
    lengths = np.array([3, 5 * 10**9, 2], np.int64)
    keys = list(drawn(3))
    sizes = {"keys": 48, "lengths": 24, "logps": 4 * int(lengths.sum())}
    kinds = {"keys": ("U8", [3, 16]), "lengths": ("I64", [3]), "logps": ("F32", [int(lengths.sum())])}
    header, end = {}, 0
    for name, size in sizes.items():
        kind, shape = kinds[name]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (tmp_path / "k").mkdir()
    with (tmp_path / "k" / "large.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + b"".join(keys) + lengths.tobytes())
        file.write(np.array([1, 2, 3], np.float32).tobytes())
        file.truncate(8 + len(text) + end)
        file.seek(-8, 2)
        file.write(np.array([4, 5], np.float32).tobytes())
    cache = ReferenceCache(tmp_path, "k")
    assert cache[keys[0]].tolist() == [1, 2, 3]
    assert cache[keys[2]].tolist() == [4, 5]
    assert keys[1] in cache
