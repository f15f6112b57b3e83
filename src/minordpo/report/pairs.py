"""pair_tokens.jsonl of several runs → the same pairs, each with the values of its tokens under every run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minordpo.run_folder import names
from minordpo.run_folder.files import read_jsonl

SIDES = ("chosen", "rejected")


def read_pairs(folder: Path) -> list[dict[str, Any]]:
    """The pairs of a run folder: prompt, texts of the scored tokens and their values by side.

    A run without a reference has log-probs only.

    Raises:
        KeyError, TypeError, ValueError: a row is none that `add_pair_tokens` writes.
    """
    file = folder / names.PAIR_TOKENS
    rows = [row for _, row in read_jsonl(file)] if file.exists() else []
    return [
        {
            "prompt": str(row["prompt"]),
            **{side: [str(each) for each in row[f"{side}_token_texts"]] for side in SIDES},
            "values": {side: _values(row, side) for side in SIDES},
        }
        for row in rows
    ]


def _values(row: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Log-probs and log-ratios of the scored tokens, in nats."""
    columns = {"logps": f"{side}_token_logps", "ratios": f"{side}_token_logratios"}
    if columns["ratios"] not in row:
        del columns["ratios"]
    found = {name: [round(float(each), 3) for each in row[column]] for name, column in columns.items()}
    count, counts = len(row[f"{side}_token_texts"]), [len(values) for values in found.values()]
    if set(counts) != {count}:
        raise ValueError(f"{count} tokens have {counts} values")
    return found


def gather_pairs(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each pair once, with its values by the place of the run."""
    pairs: dict[str, dict[str, Any]] = {}
    for place, own in enumerate(runs):
        for each in own:
            texts = {name: each[name] for name in ("prompt", *SIDES)}
            pair = pairs.setdefault(json.dumps(texts), {**texts, "runs": {}})
            pair["runs"][str(place)] = each["values"]
    return list(pairs.values())
