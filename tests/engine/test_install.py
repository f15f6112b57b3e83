"""What `install` adds to a model, refuses, and leaves alone."""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from helpers import oracle
from helpers.tiny_models import VOCAB, odd_shapes, tiny
from minordpo.data.packing import pack
from minordpo.engine.attention import NAME, attention_switched, stock_implementation
from minordpo.engine.logprobs import install
from minordpo.engine.models import causal_model
from minordpo.errors import InputError

# peft 0.21 asks for a property that transformers 5.23 renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def test_attention_without_a_tree_raises():
    model = tiny("Llama")
    with attention_switched(model, NAME), pytest.raises(RuntimeError, match="without a tree"):
        model(input_ids=torch.arange(3, 9)[None])


def test_attention_with_a_mask_raises():
    model, batch = tiny("Llama"), pack(odd_shapes())
    tokens = len(batch.input_ids)
    with attention_switched(model, NAME), pytest.raises(RuntimeError, match="with an attention mask"):
        model.model(
            input_ids=batch.input_ids[None], tree=batch.tree, attention_mask=torch.zeros(1, 1, tokens, tokens)
        )


def other_adapter(model: Any) -> Any:
    return get_peft_model(model, LoraConfig(target_modules=["lm_head"], use_dora=True))


def quantised_head(model: Any) -> Any:
    class Linear8bit(nn.Linear):
        """What quantisers put in an nn.Linear's place: a subclass with weights of its own format."""

    model.lm_head = Linear8bit(32, VOCAB, bias=False)
    return model


def no_head(model: Any) -> Any:
    model.lm_head = None
    return model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (other_adapter, "lora.use_dora is set, and .* output head of MistralForCausalLM"),
        (quantised_head, "output head of MistralForCausalLM is a Linear8bit, but a plain nn.Linear"),
        (no_head, "output head of MistralForCausalLM is a NoneType"),
    ],
)
def test_a_head_whose_weights_are_not_known_is_refused_by_name(change: Callable[[Any], Any], said: str):
    model = causal_model(change(tiny("Mistral")))
    with pytest.raises(InputError, match=said):
        install(model)


def test_a_backbone_is_refused_by_name():
    with pytest.raises(InputError, match="head of LlamaModel is a NoneType"):
        install(tiny("Llama").model)


def test_a_model_without_a_decoder_of_its_own_is_refused_by_name():
    model = tiny("Llama")
    model.base_model_prefix = "nothing"
    with pytest.raises(InputError, match="LlamaForCausalLM has no decoder of its own; use a causal"):
        install(model)


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2", "GptOss"])
def test_the_stock_forward_and_generation_still_work_after_install(architecture: str):
    model = tiny(architecture)
    ids = torch.arange(3, 20)[None]
    stock = copy.deepcopy(model)
    stock.config._attn_implementation = stock_implementation(model)
    settings = {"max_new_tokens": 9, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        expected, continued = stock(input_ids=ids).logits, stock.generate(ids, **settings)
    install(model)
    install(model)  # a second time changes nothing
    assert inspect.signature(model.forward) == inspect.signature(stock.forward)
    model.config._attn_implementation = NAME
    with torch.no_grad(), attention_switched(model, stock_implementation(model)):
        assert torch.equal(model(input_ids=ids).logits, expected)
        assert torch.equal(model.generate(ids, **settings), continued)
    assert model.config._attn_implementation == NAME


def test_the_attention_is_switched_back_after_an_error():
    model = tiny("Llama")
    with contextlib.suppress(KeyError), attention_switched(model, NAME):
        assert model.config._attn_implementation == NAME
        raise KeyError
    assert model.config._attn_implementation == "sdpa"


def test_soft_caps_and_sinks_need_eager_attention():
    kinds = {name: stock_implementation(tiny(name)) for name in ("Llama", "Gemma2", "Gemma3", "GptOss")}
    assert kinds == {"Llama": "sdpa", "Gemma2": "eager", "Gemma3": "sdpa", "GptOss": "eager"}


def test_a_saved_model_is_a_stock_model(tmp_path: Path):
    model, items = tiny("Granite"), odd_shapes()
    expected = torch.cat(oracle.scored_logps(oracle.stock_copy(model), items))
    install(model)
    with attention_switched(model, NAME):
        model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert NAME not in json.dumps(config)
    assert config["architectures"] == ["GraniteForCausalLM"]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"
    found = torch.cat(oracle.scored_logps(loaded, items))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
