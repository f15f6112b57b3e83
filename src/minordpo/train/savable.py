"""What saving or loading a model would refuse is found before the first step: repaired and told."""

from __future__ import annotations

import copy
from typing import Any

from peft import PeftModel
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from minordpo.engine.models import causal_model
from minordpo.errors import first_line

_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def made_savable(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """Repair what `save_pretrained` refuses; a line for each repair, and for what `KnownTokens` will mend."""
    inner = causal_model(model)
    lines = []
    given = getattr(inner, "generation_config", None)
    if given is not None and (why := _invalid(given)):
        drawn = copy.deepcopy(given)
        drawn.do_sample = True
        if _invalid(drawn) is None:
            inner.generation_config, what = drawn, "do_sample is set to true in it"
        else:
            tokens = {name: getattr(given, name) for name in _TOKENS}
            inner.generation_config, what = GenerationConfig(**tokens), "its token ids alone are kept"
        lines.append(
            f"the model's generation_config.json is not valid, and could not be saved ({why}): {what}"
        )
    pad = None if tokenizer is None else tokenizer.pad_token_id
    if pad is not None and not _known(inner, pad):
        lines.append(
            f"the tokenizer's padding token {tokenizer.pad_token!r} has the id {pad}, but the model has "  # type: ignore[union-attr]
            f"{_embeddings(inner)} embeddings, so a config that names it would not load: the config keeps its own"
        )
    return lines


class KnownTokens(TrainerCallback):
    """Takes token ids without an embedding out of the model's configs, where the Trainer wrote the tokenizer's."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        inner = causal_model(model)
        self._before = inner.config.get_text_config().pad_token_id

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Once the Trainer has made the ids the tokenizer's."""
        inner = causal_model(given["model"])
        for config in (inner.config.get_text_config(), getattr(inner, "generation_config", None)):
            pad = getattr(config, "pad_token_id", None)
            if isinstance(pad, int) and not _known(inner, pad):
                config.pad_token_id = self._before  # type: ignore[union-attr]


def _invalid(config: GenerationConfig) -> str | None:
    """Why a generation config cannot be saved; None where it can."""
    try:
        config.validate(strict=True)
    except ValueError as error:
        said = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
        return said[1].split(". ")[0] if len(said) > 1 else first_line(error)
    return None


def _embeddings(model: PreTrainedModel) -> int:
    found: Any = model.get_input_embeddings()
    return len(found.weight)


def _known(model: PreTrainedModel, token: int) -> bool:
    return token < _embeddings(model)
