"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair, and nothing that a test asks.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Reference log-probs of tests go neither to the user's cache nor come from it."""
    before = os.environ.get("MINORDPO_CACHE")
    os.environ["MINORDPO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["MINORDPO_CACHE"]
    else:
        os.environ["MINORDPO_CACHE"] = before
