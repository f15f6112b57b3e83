"""The tokens of a row that a GPU's memory holds: the arithmetic, what is measured for it, and what is said."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainingArguments

from helpers.tiny_runs import RENAMED, arguments, tiny_model, token_pairs, trainer
from minordpo.data.packing import pack, tree_size
from minordpo.engine import head
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.device import autocast
from minordpo.engine.logprobs import packed_logps
from minordpo.engine.models import causal_model
from minordpo.train import row_memory
from minordpo.train.row_memory import Room, SavedBytes, default_token_budget, measure_room

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


@pytest.mark.parametrize(
    ("free", "fixed", "token", "tokens"),
    [
        (80e9, 12e9, 10e6, 5888),  # (72 − 12) GB / 10 MB = 6,000, in steps of 256
        (140e9, 2e9, 3e6, 16384),  # 41,333 would fit; more than 16,384 do not fill a device better
        (16e9, 2e9, 100e6, 1024),  # 124 would fit: a row is shortened further only when memory has run out
        (8e9, 20e9, 1e6, 1024),  # nothing would fit
    ],
)
def test_a_row_takes_what_is_left_of_the_free_memory(free, fixed, token, tokens):
    assert Room(free, fixed, token).tokens == tokens


SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, bfloat16": {"bf16": True},
    "lora": {"peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"])},
    "lora, bfloat16": {"peft_config": LoraConfig(r=2, target_modules=["q_proj"]), "bf16": True},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_bytes_measured_on_short_rows_foretell_a_long_one(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(row_memory, "_free", lambda device: 10**9)
    made = trainer(tmp_path, pairs=token_pairs(8), **settings)
    room = measure_room(made.policy, made.args, made.examples)
    example = sorted(made.examples, key=tree_size)[4]
    row, saved = pack([example] * 12), SavedBytes(made.policy)
    made.policy.train()
    with attention_switched(causal_model(made.policy), NAME), autocast(made.args), saved.counted():
        logps = packed_logps(made.policy, row)
    assert logps.requires_grad
    trained = [p for p in made.policy.parameters() if p.requires_grad]
    block = head.BLOCK["cpu"]
    vocabulary = made.policy.config.vocab_size
    weights = 12 * sum(p.numel() for p in trained)  # float32 gradients, two float32 of AdamW
    once = room.fixed - weights - 12 * block[0] * min(block[1], vocabulary)
    assert once >= 0
    foretold = room.token / row_memory._BACKWARD * len(row.input_ids) + once
    assert foretold == pytest.approx(saved.bytes, rel=0.05)
    assert all(p.grad is None for p in made.policy.parameters())


def test_checkpointing_keeps_a_layers_input_and_one_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(row_memory, "_free", lambda device: 10**9)
    plain, kept = (
        measure_room(made.policy, made.args, made.examples)
        for made in (
            trainer(tmp_path / str(switched), pairs=token_pairs(4), gradient_checkpointing=switched)
            for switched in (False, True)
        )
    )
    layers, width = 2, tiny_model().config.hidden_size
    assert kept.token == pytest.approx(plain.token / layers + row_memory._BACKWARD * layers * width * 4)


def test_measuring_draws_no_random_number_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(row_memory, "_free", lambda device: 10**9)
    settings = {"architecture": "GPT2", "attn_pdrop": 0.5, "resid_pdrop": 0.5}
    made = trainer(tmp_path, model=tiny_model(**settings), pairs=token_pairs(4), dropout=True)
    state = torch.get_rng_state()
    measure_room(made.policy, made.args, made.examples)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_reference_that_is_not_on_the_device_yet_takes_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(row_memory, "_free", lambda device: 10**9)
    made, other = trainer(tmp_path, pairs=token_pairs(4)), tiny_model().to("meta")
    alone, beside = (
        measure_room(made.policy, made.args, made.examples, beside=each) for each in (None, other)
    )
    assert beside.fixed - alone.fixed == sum(p.nbytes for p in other.parameters())


def test_on_a_cpu_the_budget_stays(tmp_path):
    assert trainer(tmp_path, pairs=token_pairs(4), token_budget=None).token_budget == 2048


class OnGpu:
    """A policy as far as its device is asked for."""

    def parameters(self) -> Any:
        weight = torch.zeros(1)
        yield type("Weight", (), {"device": torch.device("cuda"), "nbytes": weight.nbytes})()


@pytest.fixture
def gpu(tmp_path, monkeypatch: pytest.MonkeyPatch) -> TrainingArguments:
    """Arguments of a run on a GPU of which 80 GB are free."""
    args = arguments(tmp_path)
    monkeypatch.setattr(TrainingArguments, "device", torch.device("cuda"))
    monkeypatch.setattr(row_memory, "measure_room", lambda *given, **named: Room(80e9, 12e9, 10e6))
    return args


def test_the_budget_of_a_gpu_is_said_with_its_numbers(gpu: TrainingArguments, capsys):
    assert default_token_budget(OnGpu(), gpu, token_pairs(1)) == 5888
    assert capsys.readouterr().out == (
        "token budget: 5888 tokens a row, since 80 GB are free, of which gradients, optimizer and head take 12 GB and "
        "a token of a row 10 MB; training.token_budget sets another\n"
    )


def test_where_not_even_a_few_prompts_fit_the_least_is_taken(gpu: TrainingArguments, capsys, monkeypatch):
    def full(*given: Any, **named: Any) -> Room:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(row_memory, "measure_room", full)
    assert default_token_budget(OnGpu(), gpu, token_pairs(1)) == 1024
    assert "1024 tokens a row, since memory ran out on a row of a few prompts" in capsys.readouterr().out


def test_another_error_than_memory_is_not_swallowed(gpu: TrainingArguments, monkeypatch):
    def broken(*given: Any, **named: Any) -> Room:
        raise RuntimeError("an illegal instruction")

    monkeypatch.setattr(row_memory, "measure_room", broken)
    with pytest.raises(RuntimeError, match="illegal instruction"):
        default_token_budget(OnGpu(), gpu, token_pairs(1))


def test_ranks_agree_on_the_smallest_budget(gpu: TrainingArguments, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    monkeypatch.setattr(row_memory, "gather_object", lambda own: [*own, 4096])
    assert default_token_budget(OnGpu(), gpu, token_pairs(1)) == 4096


def test_a_model_that_is_still_to_be_sharded_is_not_measured(gpu: TrainingArguments, capsys):
    assert default_token_budget(torch.nn.Linear(2, 2), gpu, token_pairs(1)) == 16384
    assert capsys.readouterr().out == ""


def test_free_memory_counts_what_torch_holds_and_does_not_use(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (70, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5)
    assert row_memory._free(torch.device("cuda")) == 85
