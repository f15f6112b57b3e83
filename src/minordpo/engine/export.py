"""A run or an adapter → a plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from minordpo.engine.models import (
    POLICY_ADAPTER,
    REFERENCE_ADAPTER,
    base_source,
    causal_model,
    load_model,
    load_tokenizer,
    located,
    save_model,
    with_adapters,
)
from minordpo.engine.quantized import dequantized, is_quantized
from minordpo.errors import InputError


def export_model(source: str, out: Path) -> None:
    """A plain model folder, in float32, of a run or model folder: adapters are merged into their base.

    A quantised base is dequantised first, so that the merged model computes what the run trained.

    Raises:
        InputError: the source holds no model, or `out` exists already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already. Name a new folder")
    model, tokenizer = _plain(source), load_tokenizer(source)
    if isinstance(model, PeftModel):
        names = [name for name in (REFERENCE_ADAPTER, POLICY_ADAPTER) if name in model.peft_config]
        model = _merged(model, names)
    save_model(model, tokenizer, out)


def _plain(source: str) -> PreTrainedModel | PeftModel:
    """The model, its base with plain weights."""
    folder, base = located(source)
    model = load_model(source)
    if base is None:
        return dequantized(causal_model(model))
    if not is_quantized(causal_model(model)):
        return model
    known = base_source(Path(folder))
    below = load_model(base, revision=known.get("revision"), quantization=known.get("quantization"))
    return with_adapters(dequantized(causal_model(below)), Path(folder))


def _merged(model: PeftModel, names: list[str]) -> PreTrainedModel:
    """The base with its adapters merged; a head tied to embeddings that an adapter changes is untied from them."""
    inner = causal_model(model)
    embeddings, head = inner.get_input_embeddings(), inner.get_output_embeddings()
    adapted = hasattr(embeddings, "base_layer") or hasattr(embeddings, "modules_to_save")
    untied = adapted and bool(inner.config.get_text_config().tie_word_embeddings)
    if untied and isinstance(head, nn.Linear):
        # Or the merge would change the head too, which training did not.
        head.weight = nn.Parameter(head.weight.detach().clone())
    merged: Any = model.merge_and_unload(adapter_names=names)
    if untied:
        merged.config.tie_word_embeddings = merged.config.get_text_config().tie_word_embeddings = False
    return merged
