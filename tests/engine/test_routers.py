"""The auxiliary loss on routers: transformers' value and gradient, over packed and plain rows."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from helpers.plain_models import PLAIN
from helpers.tiny_models import odd_shapes, prompt, tiny
from helpers.tiny_runs import RENAMED, metric_rows, tiny_model, trainer
from minordpo.data.packing import pack
from minordpo.engine.logprobs import Engine, engine_attention, install, logps_and_router_loss
from minordpo.engine.routers import RouterLoss, token_weights
from minordpo.errors import InputError

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
ASKED = {"output_router_logits": True, "router_aux_loss_coef": 0.02}
MODELS: dict[str, dict[str, Any]] = {
    "Mixtral": EXPERTS,
    "Qwen3Moe": {},
    "GptOss": {},
    "Qwen3Next": PLAIN["Qwen3Next"],
}


def stock_loss(model: Any, items: Any) -> torch.Tensor:
    """Transformers' own, of the sequences without their last token, padded at their ends."""
    rows = [np.concatenate([item.prompt_ids, r.ids])[:-1] for item in items for r in item.responses]
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in map(list, rows)])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return model(input_ids=ids, attention_mask=mask, use_cache=False, output_router_logits=True).aux_loss


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("engine", Engine)
def test_value_and_gradient_are_those_of_transformers(architecture: str, engine: Engine):
    if architecture == "Qwen3Next" and engine is Engine.PACKED:
        pytest.skip("it has layers that keep state")
    model = tiny(architecture, **MODELS[architecture], **ASKED)
    items = [item for item in odd_shapes() if len(item.responses) == 2][
        1:3
    ]  # neither a beginning of the other
    stock = copy.deepcopy(model)
    expected = stock_loss(stock, items)
    expected.backward()
    routers = RouterLoss.of(model, wanted=None)
    assert routers is not None
    install(model, engine)
    with engine_attention(model):
        _, found = logps_and_router_loss(model, pack(items, at_least=300), None, routers)
        assert found is not None
        found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, theirs in zip(model.parameters(), stock.parameters(), strict=True):
        if theirs.grad is not None and theirs.grad.abs().max() > 1e-6:
            assert (mine.grad - theirs.grad).abs().max() < 1e-3 * theirs.grad.abs().max() + 1e-7


def test_a_shared_token_counts_once_for_each_sequence_and_a_filling_one_never():
    item = prompt([5, 6, 7], [8, 9, 10], [8, 11, 12])
    weights = token_weights(pack([item], at_least=20).tree)
    assert (
        weights.tolist() == [2.0] * 4 + [1.0] * 2 + [0.0] * 14
    )  # of each response the last token is not laid


def test_it_is_off_unless_the_config_asks_or_the_key_is_set():
    quiet = tiny("Mixtral", **EXPERTS)
    assert RouterLoss.of(quiet, wanted=None) is None
    assert RouterLoss.of(quiet, wanted=True) is not None
    assert RouterLoss.of(tiny("Mixtral", **EXPERTS, **ASKED), wanted=False) is None
    with pytest.raises(InputError, match="LlamaForCausalLM has no auxiliary loss on routers"):
        RouterLoss.of(tiny("Llama"), wanted=True)


def test_a_run_trains_on_it_and_logs_it(tmp_path):
    logged, left = {}, {}
    for wanted in (None, False):
        made = trainer(
            tmp_path / str(wanted),
            model=tiny_model(architecture="Mixtral", **EXPERTS, **ASKED | {"router_aux_loss_coef": 20.0}),
            router_aux_loss=wanted,
            objective="sft",
            max_steps=12,
            learning_rate=3e-3,
        )
        made.train()
        logged[wanted] = [row.get("router_aux_loss") for row in metric_rows(tmp_path / str(wanted))]
        left[wanted] = stock_loss(made.model.eval(), odd_shapes()).item()
    assert set(logged[False]) == {None}
    assert all(each >= 1.99 for each in logged[None])  # 2 experts a token: 2 is wholly even
    assert left[None] < left[False] - 0.01


def test_the_cut_of_a_step_changes_it_and_nothing_else(tmp_path):
    both = []
    for budget in (100_000, 200):
        made = trainer(
            tmp_path / str(budget),
            model=tiny_model(architecture="Mixtral", **EXPERTS, **ASKED),
            token_budget=budget,
            max_steps=1,
        )
        made.train()
        both.append(metric_rows(tmp_path / str(budget))[0])
    assert both[0]["loss"] == pytest.approx(both[1]["loss"], abs=1e-6)
    assert both[0]["router_aux_loss"] == pytest.approx(both[1]["router_aux_loss"], rel=0.1)
