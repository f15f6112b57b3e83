"""What all tests share."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Iterator

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings

from helpers import forked, quick_figures, type_checks
from helpers.places import TESTS

# How long an example takes is the machine's affair, and nothing that a test asks.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# What takes longest, processes that wait for each other before all: first, so that no worker is left alone at the end.
LONG = (
    "paper/test_sweeps.py",
    "train/test_sharding.py",
    "train/test_resume.py",
    "train/test_distributed.py",
    "lens/test_lens.py",
    "engine/test_logprobs.py",
    "train/test_step_objectives.py",
    "engine/test_models.py",
    "train/test_run_kinds.py",
    "monitor/test_callback.py",
    "train/test_trainer.py",
    "objectives/test_formulas.py",
    "train/test_run.py",
    "train/test_step.py",
    "paper/test_worlds.py",
    "train/test_trainer_limits.py",
    "evaluate/test_samples.py",
    "paper/test_sweeps_on_worlds.py",
)


jaxtyping.jaxtyped = type_checks.jaxtyped  # type: ignore[assignment]

# Processes that tests start find `helpers` as the tests do.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; --no-loadscope-reorder keeps it so among several workers."""
    places = {TESTS / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path, len(LONG)))


def pytest_configure(config: pytest.Config) -> None:
    """Import what is large before our modules do.

    While jaxtyping's hook executes one of ours, Python looks for all bytecode under the hook's own name, so torch and
    transformers would be compiled anew: half a minute, in every process that may not write it down.
    """
    if getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput"):
        return  # the process that hands tests out runs none
    for name in ("pandas", "matplotlib.figure", "peft", "torch", "transformers.trainer"):
        importlib.import_module(name)
    quick_figures.copy_those_of_runs()
    forked.start_server()


def pytest_collection_finish() -> None:
    """What is imported stays, and each run of a trainer has the garbage collector look through all that may go."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """The processes that it has started have ended."""
    forked.stop_server()


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
