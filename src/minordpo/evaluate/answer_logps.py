"""Log-probs of a model's own answers under it and under a reference, kept beside the answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minordpo.engine.identity import model_identity
from minordpo.engine.models import model_config, model_folder
from minordpo.errors import InputError
from minordpo.evaluate.folder import EvaluatedModel, numbered
from minordpo.evaluate.scoring import answer_examples, split_responses, sum_logps, token_logps
from minordpo.evaluate.tasks import Question
from minordpo.generate.generation import Answer
from minordpo.run_folder.files import read_jsonl, write_jsonl


@dataclass(frozen=True)
class ReferenceModel:
    """What the models of an evaluation are measured by; `out` is the evaluation's folder, if there is one."""

    path: str
    identity: str
    dtype: str
    out: Path | None

    @classmethod
    def of(cls, given: str, dtype: str, out: Path | None) -> ReferenceModel:
        """The reference of that name.

        Raises:
            InputError: it is no model, as far as that shows without reading weights.
        """
        path = model_folder(given)
        model_config(path)
        return cls(path, model_identity(path), dtype, out)

    def measure(
        self,
        model: EvaluatedModel,
        name: str,
        prompts: Sequence[np.ndarray],
        answers: Sequence[Sequence[Answer]],
        asked: Sequence[tuple[Question, int]],
    ) -> list[dict[str, Any]]:
        """Tokens and both log-probs of every answer, prompt by prompt, kept in the model's file `name`.

        `asked` are the question and the number of each.
        """
        file = None if self.out is None else self.out / model.label / name
        lengths = (answer.tokens for given in answers for answer in given)
        wanted = [
            {"row": question.row, **numbered(name, number), "tokens": tokens}
            for (question, number), tokens in zip(asked, lengths, strict=True)
        ]
        known = None if file is None else _kept(file, wanted)
        if known is not None:
            return known
        examples = answer_examples(prompts, answers)
        own = token_logps(model.path, examples, dtype=self.dtype)
        # Computed twice on a GPU the same might differ by its rounding.
        same = model.identity == self.identity
        other = own if same else token_logps(self.path, examples, dtype=self.dtype)
        both = (map(sum_logps, split_responses(examples, logps)) for logps in (own, other))
        rows = [
            {**each, "logp": logp, "ref_logp": ref_logp}
            for each, logp, ref_logp in zip(wanted, *both, strict=True)
        ]
        if file is not None:
            write_jsonl(file, rows)
        return rows


def _kept(file: Path, wanted: Sequence[dict[str, int]]) -> list[dict[str, Any]] | None:
    """The rows of these answers as they were measured before; None where some were not."""
    try:
        rows = [row for _, row in read_jsonl(file)] if file.exists() else []
    except InputError:
        tqdm.write(f"{file} is not whole, so its log-probs are measured again", file=sys.stderr)
        return None
    same = len(rows) == len(wanted) and all(  # fewer where samples were added since
        row | each == row and {"logp", "ref_logp"} <= row.keys()
        for row, each in zip(rows, wanted, strict=True)
    )
    return rows if same else None
