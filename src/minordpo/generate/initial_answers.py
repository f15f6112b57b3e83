"""What a run's model answers before its first step: the same for every run from the same weights, so made once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minordpo.engine.reference import as_reference, fingerprint
from minordpo.engine.weights import InitialWeights
from minordpo.generate.answer_cache import answers_key, kept_answers, kept_file
from minordpo.generate.generation import Answer, generate_answers


class FirstAnswers:
    """The answers of a model that has taken no step yet, kept in `folder`; with `folder=None` made each time.

    A new adapter is off: it adds nothing before its first step, and the others stay.
    """

    def __init__(self, weights: InitialWeights, *, folder: Path | None) -> None:
        self.weights, self.folder = weights, folder

    def __call__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[np.ndarray],
        *,
        max_new_tokens: int,
        batch_size: int = 8,
        progress: str | None = None,
        on_answer: Callable[[], None] = lambda: None,
    ) -> list[Answer]:
        """As `generate_answers`; the precision is that of the autocast around the call."""
        settings: dict[str, Any] = {
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "progress": progress,
            "on_answer": on_answer,
        }
        with as_reference(model, new_adapter=self.weights.new_adapter):
            if self.folder is None:
                return generate_answers(model, tokenizer, list(prompts), **settings)
            content = self._content(model)
            return kept_answers(
                model, tokenizer, list(prompts), content=content, folder=self.folder, **settings
            )

    def known(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[np.ndarray],
        *,
        max_new_tokens: int,
        batch_size: int = 8,
    ) -> bool:
        """Whether they were kept before, so that asking takes no time."""
        if self.folder is None:
            return False
        sizes = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
        key = answers_key(model, tokenizer, prompts, content=self._content(model), **sizes)
        return kept_file(self.folder, key).exists()

    def _content(self, model: PreTrainedModel | PeftModel) -> str:
        digest = fingerprint(model, autocast="none", weights=self.weights.policy)
        return f"{digest} {_precision(model.device.type)}"


def _precision(device: str) -> str:
    return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else "none"
