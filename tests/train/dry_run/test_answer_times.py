"""What a run's answers will take: how often prompts are answered, and in what time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import minordpo.train.dry_run.answer_times as answer_times
from helpers.tiny_runs import (
    RENAMED,
    chat_rows,
    save_tiny,
    token_pairs,
    tokenizer,
    trainer,
    write_config,
    write_rows,
)
from minordpo import MonitorCallback
from minordpo.config import SamplesConfig, load_config
from minordpo.train.dry_run.answer_times import Answering, probes, samples
from minordpo.train.dry_run.estimate import dry_run
from minordpo.train.run import run

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def test_a_dry_run_counts_the_monitors_looks_and_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    save_tiny(tmp_path / "model")
    write_rows(tmp_path / "pairs.jsonl", chat_rows(14))

    def config(output: str, *overrides: str) -> Any:
        file = write_config(
            tmp_path / "run.yaml",
            base=tmp_path / "model",
            pairs=tmp_path / "pairs.jsonl",
            output=tmp_path / output,
        )
        return load_config(file, overrides)

    def answers(*overrides: str) -> str:
        said: list[str] = []
        dry_run(config("new", *overrides), say=said.append)
        return "".join(line for line in said[0].splitlines() if line.startswith("answers "))

    # Before, and after steps 1, 2 and 3; samples before and after.
    first = answers()
    assert re.fullmatch(
        r"answers    4 × 2 of the monitor about [\d.e-]+ s; 2 × 2 samples about [\d.e-]+ s; less where they end before "
        "their limit",
        first,
    )
    run(config("old"), quiet=True)
    again = answers("objective.beta=0.5")
    assert "3 × 2 of the monitor" in again
    assert "1 × 2 samples" in again
    assert again.endswith("; those before training are in the cache")
    rarely = answers("monitor.probe_every=2", "samples.prompts=0")
    assert "2 × 2 of the monitor" in rarely
    assert "samples" not in rarely
    assert answers("monitor.enabled=false", "samples.prompts=0") == ""


def test_the_time_of_answers_is_that_of_the_first_token_and_of_each_further_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[int, int]] = []

    def timed(model: Any, tokens: Any, prompts: list[Any], most: int) -> tuple[float, int]:
        asked.append((len(prompts), most))
        return 2.0 + 0.5 * (most - 1), most

    monkeypatch.setattr(answer_times, "_timed", timed)
    pairs = token_pairs(18)
    monitor = MonitorCallback(tokenizer(), 3, max_new_tokens=21, probe_every=2)
    built = trainer(tmp_path, pairs=pairs[:8], eval_dataset=pairs[8:], callbacks=[monitor])
    # Before, and after steps 2, 4 and 6: each two seconds and twenty further tokens.
    assert probes(built, tokenizer(), steps=6) == Answering(4, 3, 4 * 12.0, False)
    # Before and after, in two batches of at most eight.
    kept = samples(built, tokenizer(), SamplesConfig(prompts=10, max_new_tokens=5))
    assert kept == Answering(2, 10, 2 * 2 * 4.0, False)
    assert asked == [(3, 1), (3, 9), (8, 1), (8, 5)]


def test_without_monitor_or_held_out_pairs_there_is_nothing_to_answer(tmp_path: Path):
    built = trainer(tmp_path)
    assert probes(built, tokenizer(), steps=6) is None
    assert samples(built, tokenizer(), SamplesConfig()) is None
