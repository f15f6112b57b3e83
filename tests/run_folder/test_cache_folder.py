"""Where what is computed once is kept."""

import os
from pathlib import Path

from minordpo.run_folder.names import cache_folder


def test_the_cache_folder_is_the_named_one_else_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"
    monkeypatch.delenv("MINORDPO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "minordpo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert cache_folder() == Path(os.environ["HOME"]) / ".cache" / "minordpo"
