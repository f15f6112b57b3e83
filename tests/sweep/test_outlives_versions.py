"""A sweep that was begun by another version: a key that came since leaves it valid, one that went is named.

folder_of_version_0_1 was written by `minordpo sweep sweep.yaml` of 0.1.0; weights of runs and figures are emptied.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers.places import TESTS
from helpers.tiny_sweeps import Begun, copy_begun
from minordpo.config import MetricsConfig, RunConfig
from minordpo.errors import InputError
from minordpo.sweep import identity
from minordpo.sweep import plan as planning
from minordpo.sweep.identity import difference

DONE = ("dpo-data.max_length_null-seed0", "dpo-data.max_length300-seed0")
FAILED = "data.eval1000"


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Begun:
    return copy_begun(TESTS / "sweep" / "folder_of_version_0_1", tmp_path / "copy", monkeypatch)


@dataclass(frozen=True, kw_only=True)
class LaterMetrics(MetricsConfig):
    patience: int = field(default=3, metadata={"meaning": "a key that came since"})
    colour: str | None = field(default=None, metadata={"meaning": "another one"})


@dataclass(frozen=True, kw_only=True)
class LaterConfig(RunConfig):
    metrics: LaterMetrics = field(default_factory=LaterMetrics)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version whose run config has two keys more."""
    for module in (identity, planning):
        monkeypatch.setattr(module, "RunConfig", LaterConfig)


def edited(change: Callable[[dict[str, Any]], None], runs: tuple[str, ...] = (*DONE, FAILED)) -> None:
    """sweep.json with the stored configs of those runs changed."""
    file = Path("out/sweep.json")
    known = json.loads(file.read_text())
    for name in runs:
        change(known["runs"][name]["identity"]["config"])
    file.write_text(json.dumps(known))


def test_a_sweep_begun_by_the_version_before_finds_its_runs_done_and_writes_the_same_rows(begun: Begun):
    failed, said = begun.swept()
    assert (failed, begun.pretended.done) == (1, [])
    assert "2 done; 0 begun; 1 failed, run again only with --retry; 0 to do" in said
    assert begun.rows_are_as_before()
    assert begun.swept()[0] == 1  # as its identities were written anew
    assert begun.pretended.done == []


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["monitor"].pop("probe_every"),
        lambda config: config["model"].pop("revision"),  # null is the default
        lambda config: config.pop("metrics"),
        lambda config: config.pop("lora"),
    ],
    ids=["default", "null", "section", "null-section"],
)
def test_a_key_that_came_since_has_its_default_in_what_was_stored(
    begun: Begun, change: Callable[[dict[str, Any]], None]
):
    edited(change)
    assert begun.swept()[0] == 1
    assert begun.pretended.done == []
    with pytest.raises(InputError, match=r"seed0 was begun with training\.max_steps 1, not 3"):
        begun.swept("run.training.max_steps=3")


def test_a_version_with_more_keys_finds_the_runs_done_and_refuses_other_values_of_them(
    begun: Begun, later: None
):
    assert begun.swept()[0] == 1
    assert begun.pretended.done == []
    with pytest.raises(InputError, match=r"was begun with metrics\.patience 3, not 4"):
        begun.swept("run.metrics.patience=4")
    with pytest.raises(InputError, match=r'was begun with metrics\.colour null, not "red"'):
        begun.swept("run.metrics.colour=red")


def test_another_sweep_is_told_by_its_base_whatever_keys_came_since(begun: Begun, later: None):
    other = ("grid={objective.beta: [0.3]}", "runs=null")
    with pytest.raises(
        InputError, match=r"out holds another sweep \(2 runs, dpo-data\.max_length_null-seed0"
    ):
        begun.swept(*other, "run.data.limit=9")
    # The same base, with a default written out.
    begun.swept(*other, "run.data.split=train", "run.metrics.patience=3", dry_run=True)


def test_a_key_that_is_gone_is_named_with_the_version_that_had_it(begun: Begun):
    edited(lambda config: config["monitor"].update(colour="red"), DONE[1:])
    with pytest.raises(
        InputError,
        match=r"out/sweep\.json, dpo-data\.max_length300-seed0: monitor\.colour is not a key of minordpo.* The run was "
        r"begun by minordpo 0\.1\.0: go on with that version, or name another output",
    ):
        begun.swept()
    assert begun.pretended.done == []


def test_a_key_that_is_gone_from_a_run_that_never_trained_is_no_hindrance(begun: Begun):
    edited(lambda config: config["monitor"].update(colour="red"), (FAILED,))
    assert begun.swept()[0] == 0
    assert begun.pretended.done == [FAILED]


def test_questions_are_compared_with_their_defaults(begun: Begun):
    assert begun.swept("evaluate.seed=0", "evaluate.samples=0")[0] == 1
    with pytest.raises(InputError, match=r"was evaluated with evaluate\.max_new_tokens 4, not 512"):
        begun.swept('evaluate={task: questions.jsonl, prompt: "{question}", plain_text: true}')
    file = Path("out/sweep.json")
    known = json.loads(file.read_text())
    file.write_text(json.dumps(known | {"evaluate": known["evaluate"] | {"colour": "red"}}))
    with pytest.raises(InputError, match=r"out/sweep\.json: evaluate\.colour is not a key of minordpo"):
        begun.swept()


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ({"lora": {"r": 8}}, {"lora": {"r": 4}}, "lora.r 8, not 4"),
        ({"lora": None}, {"lora": {}}, "lora null, not {}"),
        ({"a": {"b": 1}}, {"a": {"b": 1, "c": None}}, "a.c left out, not null"),
        ({"a": {"b": 1, "c": {}}}, {"a": {"b": 1}}, "a.c {}, not null"),
        ({"lora": {}}, {"lora": {"r": 4}}, "lora.r null, not 4"),
        ({"x": None, "z": 1}, {"z": 2}, "z 1, not 2"),
    ],
)
def test_whatever_differs_is_told_even_a_null(before: dict[str, Any], now: dict[str, Any], said: str):
    assert difference({"config": before}, {"config": now}) == said
