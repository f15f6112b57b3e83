"""Heads that wear an adapter: log-probs and gradients are those of stock transformers and peft."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.packed_and_plain import assert_close, compare
from helpers.tiny_models import odd_shapes, tiny
from minordpo.data.packing import pack
from minordpo.engine.logprobs import engine_attention, install, packed_logps
from minordpo.engine.models import causal_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]
KINDS: dict[str, dict[str, Any]] = {
    "LoRA": {"target_modules": ["lm_head"]},
    "LoRA beside others": {"target_modules": ["lm_head", "q_proj"], "use_rslora": True},
    "LoRA on both ends": {"target_modules": ["lm_head", "embed_tokens"]},
    "a copy": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "copies of both ends": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
}


def adapted(kind: str, architecture: str, *, tied: bool) -> Any:
    settings = LoraConfig(r=4, init_lora_weights=False, **KINDS[kind])
    model = get_peft_model(tiny(architecture, tie_word_embeddings=tied), settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_values_and_gradients_are_those_of_stock(kind: str, tied: bool):
    assert_close(compare(adapted(kind, "Llama", tied=tied), odd_shapes()))


def test_with_a_soft_cap_too():
    assert_close(compare(adapted("LoRA", "Gemma2", tied=True), odd_shapes()))


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_adapter_off_the_head_is_the_base_models(kind: str):
    model, batch = adapted(kind, "Llama", tied=False), pack(odd_shapes())
    base = tiny("Llama", tie_word_embeddings=False)
    found = []
    for each in (base, model):
        install(causal_model(each))
        with engine_attention(each), torch.no_grad():
            if each is base:
                found.append(packed_logps(each, batch))
                continue
            on = packed_logps(each, batch)
            with each.disable_adapter():
                found.append(packed_logps(each, batch))
    assert torch.equal(*found)
    assert (on - found[0]).abs().max() > 0.01
