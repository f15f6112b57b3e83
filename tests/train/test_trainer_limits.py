"""Precision, memory and dropout in training, and runs that stop or are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import TrainerCallback

from helpers.tiny_runs import (
    RENAMED,
    chat_rows,
    first_gradients,
    gradient_error,
    logits,
    metric_rows,
    moved,
    tiny_model,
    token_pairs,
    trainer,
    weights,
)
from minordpo.data.tokens import TokenOptions
from minordpo.engine.models import load_model, switch_off_dropout
from minordpo.errors import InputError, TrainingStopped
from minordpo.train import step as step_module

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_trained_in_float32_and_a_line_says_so(tmp_path, capsys, dtype):
    made = trainer(tmp_path / "narrow", model=tiny_model().to(dtype))
    assert (
        f"the weights were {str(dtype).removeprefix('torch.')} and are trained in float32"
        in capsys.readouterr().out
    )
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    made.train()
    wide = trainer(tmp_path / "wide", model=tiny_model().to(dtype).float())
    assert "are trained in float32" not in capsys.readouterr().out
    wide.train()
    assert metric_rows(tmp_path / "narrow") == metric_rows(tmp_path / "wide")


def test_trainable_weights_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(InputError, match="trainable weights are float64, but float32 is needed"):
        trainer(tmp_path, model=tiny_model().double())


def test_a_frozen_bfloat16_base_trains_under_a_float32_adapter(tmp_path):
    made = trainer(
        tmp_path,
        model=tiny_model().bfloat16(),
        peft_config=LORA,
        bf16=True,
        learning_rate=1e-2,
        objective="dpo",
    )
    made.train()
    assert {p.dtype for p in made.model.parameters() if p.requires_grad} == {torch.float32}
    rows = metric_rows(tmp_path)
    assert rows[-1]["logratios/margin"] > rows[0]["logratios/margin"]


def test_bf16_means_autocast_over_float32_weights(tmp_path):
    for name, bf16 in (("narrow", True), ("wide", False)):
        made = trainer(tmp_path / name, bf16=bf16, objective="dpo", eval_dataset=token_pairs(3))
        made.train()
        made.evaluate()
        assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    narrow, wide = (metric_rows(tmp_path / name) for name in ("narrow", "wide"))
    assert narrow[0]["logps/chosen"] != wide[0]["logps/chosen"]
    assert narrow[0]["logps/chosen"] == pytest.approx(wide[0]["logps/chosen"], rel=0.02)
    assert (
        narrow[0]["largest_logratio"] == 0
    )  # one pair a row on a CPU in both passes would be needed for exactness


@pytest.mark.parametrize("config", [None, LORA], ids=["full", "adapter"])
def test_gradient_checkpointing_gives_the_same_gradient(tmp_path, config):
    found = []
    for on in (False, True):
        torch.manual_seed(0)
        settings = {"activation_checkpointing": True} if on else {}
        made = trainer(
            tmp_path / str(on),
            model=moved(tiny_model(), by=0.02),
            ref_model=tiny_model(),
            peft_config=config,
            **settings,
        )
        found.append(first_gradients(made))
    assert max(each.abs().max() for each in found[0].values()) > 0
    assert gradient_error(found[1], found[0]) < 1e-6


def noisy() -> Any:
    return tiny_model(attention_dropout=0.5)


def test_dropout_is_off_by_default_loras_too(tmp_path):
    config = dataclasses.replace(LORA, lora_dropout=0.5, init_lora_weights=True)
    for name, model, lora in (("on", noisy(), config), ("off", tiny_model(), dataclasses.replace(LORA))):
        torch.manual_seed(1)
        trainer(tmp_path / name, model=model, peft_config=lora).train()
    on, off = (metric_rows(tmp_path / name) for name in ("on", "off"))
    assert on == off


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_dropout_is_on_when_asked_for(tmp_path, kind):
    rows = []
    for dropout in (False, True):
        torch.manual_seed(1)
        config = dataclasses.replace(LORA, lora_dropout=0.5)
        model, lora = (noisy(), None) if kind == "model" else (tiny_model(), config)
        folder = tmp_path / str(dropout)
        made = trainer(folder, model=model, peft_config=lora, dropout=dropout, learning_rate=1e-2)
        made.train()
        rows.append(metric_rows(folder))
    if kind == "model":
        assert rows[1][0]["logratios/chosen"] != 0  # the reference has none
        assert "largest_logratio" not in rows[1][0]
    assert rows[1][-1]["loss"] != rows[0][-1]["loss"]


def test_every_kind_of_dropout_is_found():
    model = tiny_model(architecture="GPT2", n_positions=64, attn_pdrop=0.1, resid_pdrop=0.2, embd_pdrop=0.3)
    assert len(switch_off_dropout(model)) > 3
    assert switch_off_dropout(model) == []
    assert all(m.p == 0 for m in model.modules() if isinstance(m, torch.nn.Dropout))


def test_a_reference_model_with_dropout_is_taken_without_it(tmp_path):
    trainer(tmp_path, ref_model=noisy(), objective="dpo").train()
    first = metric_rows(tmp_path)[0]
    assert first["logratios/chosen"] == pytest.approx(0, abs=1e-5)
    assert first["logratios/rejected"] == pytest.approx(0, abs=1e-5)


def over(limit: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Make memory run out for rows of more than `limit` tokens in training; returns their sizes as they come."""
    packed, refused = step_module.packed_logps, []

    def narrow(model: Any, batch: Any, *draw: Any) -> Any:
        found = packed(model, batch, *draw)
        if torch.is_grad_enabled() and len(batch.input_ids) > limit:
            refused.append(len(batch.input_ids))
            raise torch.OutOfMemoryError("out of memory")
        return found

    monkeypatch.setattr(step_module, "packed_logps", narrow)
    return refused


@pytest.mark.parametrize("workers", [0, 1])
def test_a_step_out_of_memory_is_repeated_with_half_the_budget_and_said(
    tmp_path, monkeypatch, capsys, workers
):
    settings = {"per_device_train_batch_size": 8, "objective": "dpo", "dataloader_num_workers": workers}
    expected = trainer(tmp_path / "narrow", token_budget=150, **settings)
    expected.train()
    refused = over(150, monkeypatch)
    made = trainer(tmp_path / "wide", token_budget=300, **settings)
    made.train()
    assert len(refused) == 1  # later steps keep to the lower budget
    assert "memory ran out: the step is repeated with 150 tokens a row" in capsys.readouterr().out
    assert metric_rows(tmp_path / "wide") == metric_rows(tmp_path / "narrow")
    wide, narrow = weights(made.model), weights(expected.model)
    assert all(torch.equal(wide[name], narrow[name]) for name in wide)


def test_gradients_gathered_before_memory_ran_out_are_not_counted_twice(tmp_path, monkeypatch):
    pairs = token_pairs(8)
    expected = first_gradients(
        trainer(tmp_path / "a", pairs=pairs, token_budget=60, per_device_train_batch_size=8)
    )
    packed, calls = step_module.packed_logps, []

    def second_row_fails_once(model: Any, batch: Any, *draw: Any) -> Any:
        calls.append(len(batch.input_ids))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return packed(model, batch, *draw)

    monkeypatch.setattr(step_module, "packed_logps", second_row_fails_once)
    made = trainer(tmp_path / "b", pairs=pairs, token_budget=120, per_device_train_batch_size=8, max_steps=1)
    assert gradient_error(first_gradients(made), expected) < 1e-5


def test_a_single_pair_too_large_for_memory_stops_the_run(tmp_path, monkeypatch):
    over(10, monkeypatch)
    with pytest.raises(
        TrainingStopped,
        match=r"memory ran out on a single prompt of \d+ tokens with its responses. Lower data.max_length",
    ):
        trainer(tmp_path).train()


def test_another_runtime_error_is_not_taken_for_memory(tmp_path, monkeypatch):
    def broken(*args: Any) -> None:
        raise RuntimeError("a fault of its own")

    monkeypatch.setattr(step_module, "packed_logps", broken)
    with pytest.raises(RuntimeError, match="a fault of its own"):
        trainer(tmp_path).train()


# ---- stops and refusals ----
class Spoil(TrainerCallback):
    """Write a NaN into a weight before the step after `steps`."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        if state.global_step == self.steps:
            model.model.norm.weight.data[0] = float("nan")


def test_a_loss_that_is_not_finite_stops_the_run_and_no_checkpoint_is_touched(tmp_path):
    made = trainer(tmp_path, callbacks=[Spoil(2)], save_strategy="steps", save_steps=1, max_steps=4)
    with pytest.raises(TrainingStopped, match=r"the loss of step 3 is nan. Lower training.learning_rate"):
        made.train()
    kept = sorted(each.name for each in tmp_path.glob("checkpoint-*"))
    assert kept == ["checkpoint-1", "checkpoint-2"]
    for each in kept:
        loaded = load_model(str(tmp_path / each))
        assert all(torch.isfinite(p).all() for p in loaded.parameters())
    assert [row["step"] for row in metric_rows(tmp_path)] == [1, 2]


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    class SpoilBackward(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
            if state.global_step == 1:
                model.model.norm.weight.register_hook(lambda grad: grad * float("nan"))

    made = trainer(tmp_path, callbacks=[SpoilBackward()], save_strategy="steps", save_steps=1)
    with pytest.raises(TrainingStopped, match=r"the gradient norm of step 2 is nan"):
        made.train()
    assert [each.name for each in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert metric_rows(tmp_path)[-1]["grad_norm"] == "nan"


def test_a_stale_reference_is_refused_before_the_first_step(tmp_path, monkeypatch):
    trainer(tmp_path / "a", cache=tmp_path / "cache").train()
    monkeypatch.setattr("minordpo.engine.reference_pass.fingerprint", lambda *a, **k: planted)
    (planted,) = {each.parent.name for each in (tmp_path / "cache").rglob("*.safetensors")}
    made = trainer(tmp_path / "b", cache=tmp_path / "cache", model=moved(tiny_model(), by=0.05))
    with pytest.raises(
        InputError,
        match=r"log-probs of row \d+, computed before, differ by .* nats .*Empty the reference cache",
    ):
        made.train()
    assert not (tmp_path / "b" / "metrics.jsonl").exists()


def test_what_cannot_be_trained_on_is_refused(tmp_path):
    with pytest.raises(InputError, match="processing_class is missing"):
        trainer(tmp_path, pairs=chat_rows(2), processing_class=None)
    with pytest.raises(InputError, match="train_dataset is a dict of data sets; pass one data set"):
        trainer(tmp_path, pairs={"train": chat_rows(2)})
    with pytest.raises(InputError, match="train_dataset holds no rows"):
        trainer(tmp_path, pairs=[])
    with pytest.raises(InputError, match=r"data.max_length is 8 tokens but 2 rows of train_dataset"):
        trainer(tmp_path, pairs=chat_rows(2), token_options=TokenOptions(max_length=8))
    with pytest.raises(InputError, match=r"has no hyper-parameter 'dpop_lambda'"):
        trainer(tmp_path, objective="dpo", dpop_lambda=5)


def test_a_checkpoint_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint to resume from"):
        trainer(tmp_path / "empty").train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-x").mkdir()
    for name in ("checkpoint-7", "checkpoint-x", "elsewhere"):
        with pytest.raises(InputError, match=rf"{name} is no checkpoint. Name a folder checkpoint-N"):
            trainer(tmp_path).train(resume_from_checkpoint=str(tmp_path / name))


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_resuming_at_the_last_step_takes_no_other(tmp_path, kind):
    # 3 steps of 2 an epoch: the last one is in the middle of an epoch
    settings = {
        "peft_config": None if kind == "full" else LORA,
        "save_strategy": "steps",
        "learning_rate": 1e-2,
    }
    done = trainer(tmp_path, **settings)
    done.train()
    before = metric_rows(tmp_path)
    again = trainer(tmp_path, eval_dataset=token_pairs(2), **settings)
    again.train(resume_from_checkpoint=True)
    assert metric_rows(tmp_path) == before
    assert again.state.global_step == 3
    assert again.last_step.values["logratios/chosen"] == before[-1]["logratios/chosen"] != 0
    assert torch.equal(logits(again.model), logits(done.model))
    assert (
        abs(again.evaluate()["eval_logratios/margin"]) > 1e-4
    )  # against the weights from before the checkpoint
