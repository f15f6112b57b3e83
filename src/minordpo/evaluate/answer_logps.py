"""Log-probs of a model's own answers under it and under a reference, kept beside the answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minordpo.errors import InputError
from minordpo.evaluate.folder import Contender
from minordpo.evaluate.kl import split_samples
from minordpo.evaluate.scoring import answer_examples, in_rows, token_logps
from minordpo.generate.generation import Answer
from minordpo.run_folder.files import read_jsonl, write_jsonl


@dataclass(frozen=True)
class Against:
    """A reference, and where the log-probs of answers under a model and it are kept."""

    path: str
    identity: str
    dtype: str
    out: Path | None

    def measure(
        self,
        each: Contender,
        name: str,
        prompts: list[np.ndarray],
        answers: Sequence[Sequence[Answer]],
        keys: list[dict[str, int]],
    ) -> list[dict[str, Any]]:
        """Tokens and both log-probs of every answer, prompt by prompt; `keys` tell them apart in the file `name`."""
        file = None if self.out is None else self.out / each.label / name
        lengths = [answer.tokens for given in answers for answer in given]
        known = None if file is None else _kept(file, keys, lengths)
        if known is not None:
            return known
        examples = answer_examples(*in_rows(prompts, answers))
        own = token_logps(each.path, examples, dtype=self.dtype)
        # Computed twice on a GPU the same might differ by its rounding.
        same = each.identity == self.identity
        other = own if same else token_logps(self.path, examples, dtype=self.dtype)
        both = [[values for split in split_samples(examples, x) for values in split] for x in (own, other)]
        rows = [
            {**key, "tokens": len(logps), "logp": _sum(logps), "ref_logp": _sum(ref_logps)}
            for key, logps, ref_logps in zip(keys, *both, strict=True)
        ]
        if file is not None:
            write_jsonl(file, rows)
        return rows


def _kept(file: Path, keys: list[dict[str, int]], lengths: list[int]) -> list[dict[str, Any]] | None:
    """The rows of these answers as they were measured before; None where some were not."""
    if not file.exists():
        return None
    try:
        rows = [row for _, row in read_jsonl(file)]
    except InputError:
        tqdm.write(f"{file} is not whole, so its log-probs are measured again", file=sys.stderr)
        return None
    if len(rows) != len(keys):  # fewer where samples were added since
        return None
    there = all(
        row | key | {"tokens": tokens} == row and {"logp", "ref_logp"} <= row.keys()
        for row, key, tokens in zip(rows, keys, lengths, strict=True)
    )
    return rows if there else None


def _sum(logps: np.ndarray) -> float:
    return float(logps.sum(dtype=np.float64))
