"""Models whose answers a test writes, in place of those that `minordpo evaluate` loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from minordpo.evaluate import evaluation
from minordpo.generate.generation import Answer


class _Named:
    """A model by the name of its folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def to(self, device: str) -> None:
        """Every device is as good."""


def script(
    monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, Sequence[str | Sequence[str]]]
) -> list[str]:
    """Let each model answer the questions with its texts, several a question where samples are drawn.

    Returns the names of the models that were loaded, as they are. The first text of several is the one answer.
    """
    loaded: list[str] = []

    def load(path: str, **_: Any) -> _Named:
        loaded.append(Path(path).name)
        return _Named(Path(path).name)

    def stream(model: _Named, tokenizer: Any, prompts: Any, options: Any, *, done: Any = frozenset()) -> Any:
        for place in range(len(prompts) * options.samples):
            if place in done:
                continue
            texts = answers[model.name][place // options.samples]
            text = texts if isinstance(texts, str) else texts[place % options.samples]
            yield place, Answer(text, tuple(map(ord, text)), True, len(text) + 1, tokenizer.eos_token_id)

    monkeypatch.setattr(evaluation, "load_model", load)
    monkeypatch.setattr(evaluation, "stream_answers", stream)
    return loaded
