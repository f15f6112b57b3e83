"""Models that cannot run packed: each response by itself equals stock transformers, and a run says so."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from helpers import oracle
from helpers.packed_and_plain import assert_close, compare
from helpers.plain_models import PLAIN
from helpers.tiny_models import odd_shapes, tiny
from minordpo.data.packing import pack, tree_size
from minordpo.engine.check import check_engine
from minordpo.engine.logprobs import Engine, engine_attention, engine_of, install, packed_logps
from minordpo.engine.models import switch_off_dropout
from minordpo.engine.plain import computed_tokens, leaf_paths
from minordpo.errors import InputError

# peft 0.21 asks for a property that transformers 5.23 renames.
pytestmark = pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")

# RecurrentGemma's own float32 forward is 1.5e-4 from float64 on these weights.
LOOSER = {"RecurrentGemma": 1e-3, "Qwen3Next": 4e-4, "Qwen3_5": 4e-4}


@pytest.fixture(params=PLAIN)
def architecture(request) -> str:
    return request.param


@pytest.mark.parametrize("engine", [Engine.ALONE, Engine.PADDED])
def test_values_and_gradients_are_those_of_stock_transformers(architecture: str, engine: Engine):
    model = tiny(architecture, **PLAIN[architecture])
    switch_off_dropout(model)
    errors = compare(model, odd_shapes(), train=True, engine=engine)
    assert engine_of(model) is engine
    assert_close(errors, LOOSER.get(architecture, 1e-4))


def test_the_check_chooses_the_plain_engine_and_says_why(architecture: str):
    model = tiny(architecture, **PLAIN[architecture])
    switch_off_dropout(model)
    checked = check_engine(model, longest=64)
    assert checked.engine is engine_of(model) is Engine.ALONE
    assert re.match(rf"{type(model).__name__} (has|does not take)", checked.why_plain or "")


def test_an_adapter_on_a_plain_model_equals_stock():
    model = get_peft_model(
        tiny("Lfm2", **PLAIN["Lfm2"]), LoraConfig(target_modules=["in_proj", "w1"], init_lora_weights=False)
    )
    assert_close(compare(model, odd_shapes(), engine=Engine.ALONE))
    assert check_engine(model, longest=64).engine is Engine.ALONE


def test_both_engines_give_the_same_metrics_of_a_packed_model():
    model, items = tiny("Llama"), odd_shapes()
    batch = pack(items)
    found = []
    for engine in Engine:
        install(model, engine)
        with engine_attention(model), torch.no_grad():
            found.append(packed_logps(model, batch))
    assert all(torch.allclose(each, found[0], atol=2e-5) for each in found)


def test_alone_a_response_has_the_same_bits_whatever_stands_beside_it():
    model, items = tiny("Qwen3_5", **PLAIN["Qwen3_5"]), odd_shapes()
    check_engine(model, longest=64)

    def logps(*of: int) -> Tensor:
        batch = pack([items[i] for i in of])
        with engine_attention(model), torch.no_grad():
            return packed_logps(model, batch)[batch.member_tokens]

    alone = logps(8)
    assert torch.equal(alone, logps(1, 6, 8)[-len(alone) :])


def test_the_tokens_that_are_computed_are_counted():
    items = odd_shapes()
    tree = pack(items).tree
    # Of a prompt whose responses share nothing each is computed with the prompt of its own.
    assert computed_tokens(pack(items[2:3]).tree) == 2 * 5 + 9 + 2
    assert tree_size(items[2]) == 5 + 9 + 2
    assert computed_tokens(pack(items[4:5]).tree) == tree_size(items[4])  # the same response twice
    positions = torch.cat([leaf.positions(tree) for leaf in leaf_paths(tree)])
    assert positions.unique().tolist() == list(range(sum(map(tree_size, items))))


class _Leaking(nn.Module):
    """A layer that adds a little of what the sequence before it ended with."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.left: Tensor | float = 0.0

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        hidden = hidden + 0.2 * self.left
        self.left = hidden[:, -1:].mean(0, keepdim=True).detach()
        return self.layer(hidden, *args, **kwargs)


def test_state_left_over_between_responses_is_refused():
    model = tiny("Mamba2", **PLAIN["Mamba2"])
    model.backbone.layers[1] = _Leaking(model.backbone.layers[1])
    with pytest.raises(InputError, match="keeps state from one sequence to the next"):
        check_engine(model, longest=64)


def test_padding_that_changes_a_model_is_seen_by_the_comparison():
    model, items = tiny("Mamba2", **PLAIN["Mamba2"]), odd_shapes()
    expected = torch.cat(oracle.scored_logps(oracle.stock_copy(model, torch.float32), items))
    install(model, Engine.PADDED)
    backbone = model.backbone
    stock = backbone.forward

    def from_the_end(input_ids: Tensor, **kwargs: Any) -> Any:  # what looks at padding behind a sequence
        found = stock(input_ids=input_ids, **kwargs)
        found.last_hidden_state = found.last_hidden_state + found.last_hidden_state[:, -1:]
        return found

    backbone.forward = from_the_end
    batch = pack(items)
    with engine_attention(model), torch.no_grad():
        found = packed_logps(model, batch)[batch.member_tokens]
    assert (found - expected).abs().max() > 0.1


def test_a_router_that_draws_at_random_is_refused_by_its_key():
    model = tiny("Phimoe", num_local_experts=4, num_experts_per_tok=2)
    with pytest.raises(InputError, match=r"has router_jitter_noise 0.01.* Set router_jitter_noise to 0"):
        check_engine(model, longest=64)


def test_the_line_says_what_it_costs():
    from minordpo.data.stored import StoredExamples
    from minordpo.data.tokens import TokenExample

    items = [
        TokenExample(item.prompt_ids, item.responses, item.grades, row)
        for row, item in enumerate(odd_shapes()[1:3], 1)
    ]
    line = check_engine(tiny("Mamba2", **PLAIN["Mamba2"]), longest=64).line(StoredExamples.of(items))
    shared = sum(map(tree_size, items))
    alone = sum(len(i.prompt_ids) + len(r.ids) - 1 for i in items for r in i.responses)
    assert f"which is {alone} tokens of the data where sharing would compute {shared} " in (line or "")
    assert check_engine(tiny("Llama"), longest=64).line(StoredExamples.of(items)) is None
