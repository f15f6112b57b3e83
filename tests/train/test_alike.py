"""Policy and reference before the first step: rounding of any size is no fault, and no fault passes as rounding."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from peft import LoraConfig

from helpers.tiny_runs import RENAMED, metric_rows, moved, tiny_model, token_pairs, trainer
from minordpo.engine.models import REFERENCE_ADAPTER, causal_model
from minordpo.errors import InputError
from minordpo.train.loader import Packer

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]
LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], lora_dropout=0.0)


def rounding_by_row(model: Any, size: float, *, below: int = 1 << 40) -> None:
    """Under autocast, scale the last hidden states by what the row's length says, as kernels that differ would."""

    def hook(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        length = output.shape[1]
        if not torch.is_autocast_enabled("cpu") or length >= below:
            return output
        return output * (1 + size * ((length * 37) % 11 - 5))

    causal_model(model).model.norm.register_forward_hook(hook)


def noisy(tmp_path: Any, *, size: float = 3.0, below: int = 1 << 40, **settings: Any) -> Any:
    """A bf16 trainer whose model rounds by its rows; a step has several pairs, the reference pass has one a row."""
    settings = {"model": moved(tiny_model(), by=0.1), "bf16": True, "objective": "minordpo"} | settings
    made = trainer(
        tmp_path,
        **settings,
        pairs=token_pairs(12),
        per_device_train_batch_size=6,
        gradient_accumulation_steps=1,
    )
    rounding_by_row(made.policy, size, below=below)
    return made


@pytest.mark.parametrize("config", [None, LORA], ids=["full", "adapter"])
def test_rounding_of_nats_is_told_and_trained_through(tmp_path, capsys, config):
    made = noisy(tmp_path, peft_config=config, max_steps=2)
    made.train()
    first = metric_rows(tmp_path)[0]
    assert first["largest_logratio"] > 5
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bfloat16 rounding")]
    assert len(told) == 1
    assert f"the largest is {first['largest_logratio']:.2g}" in told[0]


def dropout_left_on(made: Any) -> None:
    made.policy.model.layers[0].register_forward_hook(
        lambda module, inputs, output: output * 1.02 if module.training else output
    )


def positions_shifted(made: Any) -> None:
    def shifted(module: Any, inputs: Any, keywords: dict[str, Any]) -> Any:
        moved = keywords["position_ids"] * (1 if made.policy.training else 2)
        return inputs, {**keywords, "position_ids": moved}

    made.policy.model.register_forward_pre_hook(shifted, with_kwargs=True)


def other_tokens(made: Any) -> None:
    known = made._precomputed["train"]
    made._precomputed["train"] = {index: logps - 0.5 / (len(logps) // 2) for index, logps in known.items()}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            dropout_left_on,
            r"in float32, in one row, a response's log-probs differ by .* they do not run alike",
        ),
        (positions_shifted, r"in float32, in one row, a response's log-probs differ by"),
        (
            other_tokens,
            r"reference log-probs of row \d+, computed before, differ by 0\.\d+ nats .* Empty the ref",
        ),
    ],
)
def test_a_fault_smaller_than_rounding_is_refused(tmp_path, fault, message):
    made = noisy(tmp_path)
    made.precompute_reference()
    fault(made)
    with pytest.raises(InputError, match=message):
        made.train()


def test_an_adapter_that_is_off_in_the_reference_alone_is_refused(tmp_path, monkeypatch):
    made = noisy(tmp_path, peft_config=LORA)
    layer = made.policy.get_base_model().model.layers[1].self_attn.q_proj
    with torch.no_grad():
        for weight in layer.lora_B.values():
            weight.weight.add_(0.2)
    assert REFERENCE_ADAPTER not in made.policy.peft_config
    with pytest.raises(InputError, match="do not run alike"):
        made.train()


def test_rows_are_filled_to_where_they_agree(tmp_path, capsys):
    made = noisy(tmp_path, below=200, max_steps=2, token_budget=1024)
    made.train()
    assert made.reference.floor.tokens == 256
    assert made.reference.floor.spread > 0.1
    rows = metric_rows(tmp_path)
    assert rows[0]["largest_logratio"] == 0
    assert rows[0]["tokens"] == 256
    assert rows[0]["rejected_at_or_below_reference"] == 1
    out = capsys.readouterr().out
    assert "bfloat16 rounding" not in out
    assert "rows are filled up to 256 tokens: in shorter ones a response's log-prob rounds otherwise" in out


def test_rows_are_not_filled_beyond_a_budget_that_memory_has_lowered():
    packer = Packer(1024)
    packer.least_tokens = 256
    (pair, *_) = token_pairs(1)
    assert [len(row.input_ids) for row in packer([(0, pair)]).batches] == [256]
    packer.token_budget = 128
    assert [len(row.input_ids) for row in packer([(0, pair)]).batches] == [128]


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("config", [None, LORA], ids=["full", "adapter"])
@pytest.mark.parametrize("batch", [1, 2, 7, 8, 32])
def test_every_gate_is_closed_before_the_first_step(tmp_path, batch, config, bf16):
    settings = {"objective": "minordpo", "max_steps": 1, "bf16": bf16, "peft_config": config}
    made = trainer(
        tmp_path,
        **settings,
        pairs=token_pairs(33),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
    )
    made.train()
    first = metric_rows(tmp_path)[0]
    assert (made.reference.floor.tokens, made.reference.floor.spread) == (0, 0)
    assert (0 < made.reference.floor.narrow < 1) == bf16
    assert first["largest_logratio"] == 0
    assert first["coefficient/rejected"] == 0
    assert first["no_rejected_gradient"] == 1


# ---- gates that rounding may have opened ----
def open_gates(tmp_path: Any) -> list[list[float]]:
    """The rejected log-ratios above 0 of each training step."""
    lines = (tmp_path / "responses.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [row for row in map(json.loads, lines) if row["split"] == "train"]
    return [[ratios[1] for ratios in row["logratios"] if ratios[1] > 0] for row in steps]


def test_open_gates_within_rounding_are_counted_and_said_once(tmp_path, capsys):
    made = noisy(tmp_path, max_steps=4, learning_rate=1e-2)
    made.train()
    rounding = made.reference.floor.rounding
    assert rounding > 1
    shares = [row.get("gates_within_rounding") for row in metric_rows(tmp_path)]
    expected = [
        sum(ratio < rounding for ratio in gates) / len(gates) if gates else None
        for gates in open_gates(tmp_path)
    ]
    assert shares == pytest.approx(expected)
    assert any(share for share in shares)
    told = [line for line in capsys.readouterr().out.splitlines() if "of the open gates" in line]
    first = next(step for step, share in enumerate(shares, 1) if share and share > 0.01)
    assert len(told) == 1
    assert told[0].startswith(f"step {first}: ")


def test_a_margin_above_rounding_leaves_no_gate_to_it_and_is_never_set_by_itself(tmp_path, capsys):
    made = noisy(tmp_path, max_steps=3, learning_rate=1e-2, gate_margin=1000.0)
    made.train()
    assert all("gates_within_rounding" not in row for row in metric_rows(tmp_path))  # no gate is open
    assert all(row["no_rejected_gradient"] == 1 for row in metric_rows(tmp_path))
    assert "of the open gates" not in capsys.readouterr().out


def test_in_float32_no_open_gate_is_within_rounding(tmp_path, capsys):
    made = noisy(tmp_path, bf16=False, max_steps=3, learning_rate=1e-2)
    made.train()
    assert made.reference.floor.rounding == 0
    assert any(open_gates(tmp_path))
    assert all(row.get("gates_within_rounding", 0) == 0 for row in metric_rows(tmp_path))
    assert "of the open gates" not in capsys.readouterr().out
