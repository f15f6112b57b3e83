"""What stands for a model on disk."""

from __future__ import annotations

from minordpo.engine import identity


def test_a_hub_model_is_known_by_its_commit(monkeypatch):
    commit = "a" * 40
    monkeypatch.setattr(identity, "model_config", lambda _: None)
    monkeypatch.setattr(
        identity, "cached_file", lambda *_: f"hub/models--org--name/snapshots/{commit}/config.json"
    )
    assert identity.model_identity("org/name") == f"commit {commit}"
