"""Names of the files and folders that minordpo writes. No other module spells them.

A run folder, as `minordpo train` leaves it:

    config.yaml  environment.json       what the run is, and what it ran on
    data.json                           the report on its rows, and what of them is not read
    metrics.jsonl  responses.jsonl      a line a step (`records`), and what each response did
    samples.jsonl  probes.jsonl         answers before and after training, and the monitor's
    model/  checkpoints/  figures/      weights, and the run's figure
    healthy/                            with monitor.on_collapse=rollback: the last sound weights
    failed.txt  cost.json  evaluation/  of a run of a sweep: why it ended early, what it took, its answers
"""

from __future__ import annotations

import os
from pathlib import Path

# ---- a run ----
CONFIG = "config.yaml"
DATA_REPORT = "data.json"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
RESPONSES = "responses.jsonl"
SAMPLES = "samples.jsonl"
PROBES = "probes.jsonl"
PEER_METRICS = "monitor.jsonl"  # in place of METRICS where the monitor watches another library's trainer
PAIR_TOKENS = "pair_tokens.jsonl"
MODEL = "model"
ADAPTER_BASE = "minordpo_base.json"  # in an adapter's folder: how its base was loaded
CHECKPOINTS = "checkpoints"
FIGURES = "figures"
REWARDS_FIGURE = "rewards.png"
HEALTHY = "healthy"
HEALTHY_WEIGHTS = "weights.safetensors"

# ---- a run of a sweep, and the sweep ----
FAILED = "failed.txt"
COST = "cost.json"
RETENTION = "retention.jsonl"
EVALUATION = "evaluation"
SWEEP = "sweep.json"
SWEEP_LOGS = "logs"
UNTUNED = "untuned"
RESULTS_CSV = "results.csv"

# ---- an evaluation ----
EVALUATION_SETTINGS = "evaluation.json"
ANSWERS = "answers.jsonl"
ANSWER_LOGPS = "logps.jsonl"
SAMPLE_LOGPS = "sample_logps.jsonl"
VERDICTS = "verdicts.jsonl"
SAMPLE_VERDICTS = "sample_verdicts.jsonl"
RESULTS = "results.json"
RESULTS_PAGE = "results.md"
KL_FIGURE = "kl.png"

# ---- beside a file of sampled pairs: endings in place of .jsonl ----
BESIDE_ANSWERS = ".answers.jsonl"
BESIDE_SETTINGS = ".sampling.json"
BESIDE_REPORT = ".report.json"
BESIDE_LOCK = ".lock"

# ---- a loop ----
LOOP_CONFIG = "loop.yaml"
LOOP_RECORD = "loop.json"
LOOP_TABLE = "loop.csv"
LOOP_FIGURE = "loop.png"
SHARED = "shared"  # of a study of loops: what all loops of a seed begin with

# ---- the cache, under MINORDPO_CACHE ----
CACHED_REFERENCE = "reference"
CACHED_ANSWERS = "answers"
CACHED_TOKENS = "tokens"
CACHED_VERDICTS = "verdicts"
CACHED_FLOORS = "row-floors"  # in that of the reference
CACHE_ADVICE = "Free some space, or name another folder by the environment variable MINORDPO_CACHE"
TOKENS = "examples.arrow"
TOKENS_REPORT = "report.json"


def cache_folder() -> Path:
    """Where what can be had again is kept (tokens, log-probs, verdicts, converted models).

    It is MINORDPO_CACHE, else the user's cache folder.
    """
    named = os.environ.get("MINORDPO_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "minordpo"
