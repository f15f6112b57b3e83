"""A run or an adapter → a plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from minordpo.engine.models import (
    POLICY_ADAPTER,
    REFERENCE_ADAPTER,
    base_source,
    causal_model,
    load_model,
    load_tokenizer,
    located,
    tuner,
    with_adapters,
)
from minordpo.engine.quantized import dequantized, score_mode
from minordpo.errors import InputError
from minordpo.run_folder.files import written_folder

AGREES = 1e-3  # nats a token, of a plain model and the run's; rounding stays below 1e-4
_TOKENS = 48  # of the random sequence that is compared


class _Differs(InputError):
    """The plain model computes other log-probs than the run's."""


def export_model(source: str, out: Path) -> None:
    """A plain model folder, in float32, of a run or model folder: adapters are merged into their base.

    A quantised base is dequantised first, so that the merged model computes what the run trained. Where an adapter
    changes one of tied embeddings and head, they are untied before the adapter is loaded. The folder is loaded again
    and compared with the run on random tokens.

    Raises:
        InputError: the source holds no model, `out` exists already, or the plain model would compute something else.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already. Name a new folder")
    expected, tied = _said_by(load_model(source))
    for untie in (False, True) if tied else (False,):
        try:
            _write(source, out, expected, untie=untie)
            return
        except _Differs as error:
            differs = error
    raise differs


def _write(source: str, out: Path, expected: Tensor, *, untie: bool) -> None:
    """Write the folder if it computes what is expected.

    Raises:
        InputError: it does not; nothing is left.
    """
    model, tokenizer = _plain(source, untie=untie), load_tokenizer(source)
    if isinstance(model, PeftModel):
        adapters = [name for name in (REFERENCE_ADAPTER, POLICY_ADAPTER) if name in model.peft_config]
        model = tuner(model).merge_and_unload(adapter_names=adapters)
    with written_folder(out) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        del model
        try:
            found, _ = _said_by(load_model(str(aside)))
        except InputError as error:
            raise _Differs(
                f"{source} cannot be exported: what was merged does not load again ({error})"
            ) from error
        difference = (found - expected).abs().max().item()
        if not difference <= AGREES:
            raise _Differs(
                f"{source} cannot be exported: merged, its log-probs differ by {difference:.3g} nats a token from "
                "those with its adapters apart. Use the adapter as it is"
            )


@torch.no_grad()
def _said_by(model: PreTrainedModel | PeftModel) -> tuple[Tensor, bool]:
    """The log-probs of all next tokens of a fixed random sequence, and whether embeddings and head are tied."""
    inner = causal_model(model)
    score_mode(model)
    vocab = inner.config.get_text_config().vocab_size
    ids = torch.randint(0, vocab, (1, _TOKENS), generator=torch.Generator().manual_seed(0))
    logits: Tensor = model(input_ids=ids.to(inner.device), use_cache=False).logits[0]
    return logits.float().log_softmax(-1).cpu(), bool(inner.config.get_text_config().tie_word_embeddings)


def _plain(source: str, *, untie: bool) -> PreTrainedModel | PeftModel:
    """The model, its base with plain weights."""
    folder, base = located(source)
    if base is None:
        return dequantized(causal_model(load_model(source)))
    known = base_source(Path(folder))
    loading = {name: known[name] for name in ("revision", "gguf_file", "quantization") if name in known}
    below = load_model(base, **loading)
    if isinstance(below, PeftModel):  # an adapter below an adapter, which `load_model` alone stacks
        return load_model(source)
    plain = dequantized(below)
    if untie:
        _untie(plain)
    return with_adapters(plain, Path(folder))


def _untie(model: PreTrainedModel) -> None:
    """Give the head weights of its own, equal to the embeddings."""
    head: Any = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
