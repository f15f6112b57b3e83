"""Adapters in training: what is trained, what is the reference, what is saved, loaded and merged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, VeraConfig, get_peft_model
from transformers import TrainerCallback

from helpers.tiny_runs import (
    RENAMED,
    logits,
    metric_rows,
    save_tiny,
    tiny_model,
    token_pairs,
    tokenizer,
    trainer,
    weights,
)
from minordpo.engine.export import export_model
from minordpo.engine.models import POLICY_ADAPTER, REFERENCE_ADAPTER, load_model, save_model
from minordpo.errors import InputError
from minordpo.train.trainer import PreferenceTrainer

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])


@pytest.fixture
def sft(tmp_path: Path) -> Path:
    """A model folder with an SFT adapter that changes the model, beside its base."""
    save_tiny(tmp_path / "base")
    torch.manual_seed(4)
    config = dataclasses.replace(LORA, init_lora_weights=False)
    save_model(get_peft_model(load_model(str(tmp_path / "base")), config), tokenizer(), tmp_path / "sft")
    return tmp_path / "sft"


def test_a_new_adapter_is_trained_against_the_model_without_it(tmp_path):
    made = trainer(tmp_path, peft_config=LORA, learning_rate=1e-2, objective="dpo", max_steps=4)
    made.train()
    rows = metric_rows(tmp_path)
    assert rows[0]["logratios/chosen"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["logratios/margin"] > rows[0]["logratios/margin"] + 0.1
    trained = {name for name, p in made.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(f".{POLICY_ADAPTER}." in name for name in trained)
    with made.model.disable_adapter():
        assert torch.equal(logits(made.model), logits(tiny_model()))


def test_an_sft_adapter_stays_active_and_frozen_in_policy_and_reference(tmp_path, sft):
    made = trainer(
        tmp_path / "run", model=str(sft), peft_config=LORA, learning_rate=1e-2, objective="dpo", max_steps=4
    )
    before = {n: w for n, w in weights(made.model).items() if f".{REFERENCE_ADAPTER}." in n}
    assert before
    made.train()
    rows = metric_rows(tmp_path / "run")
    # The reference has the SFT adapter: at step 0 all log-ratios are 0, though the adapter changes the model much.
    assert rows[0]["largest_logratio"] < 1e-4
    assert rows[0]["logratios/chosen"] == pytest.approx(0, abs=1e-5)
    assert (logits(load_model(str(sft))) - logits(tiny_model())).abs().max() > 0.1
    after = weights(made.model)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not torch.allclose(logits(made.model), logits(load_model(str(sft))), atol=1e-3)


def test_a_model_tuned_above_an_sft_adapter_is_saved_loaded_and_exported(tmp_path, sft):
    made = trainer(tmp_path / "run", model=str(sft), peft_config=LORA, learning_rate=1e-2)
    made.train()
    save_model(made.model, tokenizer(), tmp_path / "tuned")
    loaded = load_model(str(tmp_path / "tuned"))
    torch.testing.assert_close(logits(loaded), logits(made.model), rtol=0, atol=1e-5)
    export_model(str(tmp_path / "tuned"), tmp_path / "plain")
    plain = load_model(str(tmp_path / "plain"))
    assert not isinstance(plain, PeftModel)
    torch.testing.assert_close(logits(plain), logits(made.model), rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [None, LORA], ids=["full", "adapter"])
def test_a_tuned_model_is_saved_loaded_and_exported(tmp_path, config):
    save_tiny(tmp_path / "base")
    made = trainer(tmp_path / "run", model=str(tmp_path / "base"), peft_config=config, learning_rate=1e-2)
    made.train()
    assert not torch.allclose(logits(made.model), logits(tiny_model()), atol=1e-3)
    save_model(made.model, tokenizer(), tmp_path / "tuned")
    loaded = load_model(str(tmp_path / "tuned"))
    torch.testing.assert_close(logits(loaded), logits(made.model), rtol=0, atol=1e-5)
    export_model(str(tmp_path / "tuned"), tmp_path / "plain")
    torch.testing.assert_close(
        logits(load_model(str(tmp_path / "plain"))), logits(made.model), rtol=0, atol=1e-4
    )


def test_a_new_adapter_is_drawn_by_the_runs_seed_and_the_users_config_stays_as_it_was(tmp_path):
    config = dataclasses.replace(LORA)
    drawn = []
    for state, seed in ((1, 42), (2, 42), (2, 43)):
        torch.manual_seed(state)
        made = trainer(tmp_path, peft_config=config, seed=seed)
        drawn.append(torch.cat([w.flatten() for n, w in weights(made.model).items() if "lora_A" in n]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert config == LORA


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "PiSSA"])
def test_initialisations_that_change_the_base_are_refused(tmp_path, start):
    config = LoraConfig(r=4, target_modules=["q_proj"])
    config.init_lora_weights = start
    with pytest.raises(InputError, match=rf"init_lora_weights is '{start}', which rewrites the base weights"):
        trainer(tmp_path, peft_config=config)


@pytest.mark.filterwarnings("ignore:`init_lora_weights` is 'eva':UserWarning")
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"inference_mode": True}, "inference_mode is true, which freezes the new adapter"),
        ({"task_type": "SEQ_CLS"}, "task_type is SEQ_CLS, but a causal language model is tuned"),
        ({"init_lora_weights": "eva"}, "init_lora_weights is eva, which needs activations"),
        (
            {"init_lora_weights": False},
            "init_lora_weights is false, which draws the whole adapter at random, .* Leave it out",
        ),
        ({"modules_to_save": ["nope"]}, "modules_to_save names nope, which LlamaForCausalLM does not have"),
        (
            {"target_modules": ["q_proj", "attn_out"]},
            "target_modules names attn_out, which LlamaForCausalLM does not",
        ),
        (
            {"target_modules": ["q_porj", "v_proj"]},
            r"target_modules names q_porj, .* \(did you mean q_proj\?\)",
        ),
        ({"target_modules": r".*\.q_prj"}, "target_modules is the pattern .* which fits no module"),
        ({"target_modules": "*proj"}, r"target_modules has .*, which is no regular expression"),
        ({"exclude_modules": ["gates"]}, "exclude_modules names gates"),
        ({"exclude_modules": r"layers\.9\..*"}, "exclude_modules is the pattern"),
        ({"rank_pattern": {"k_prj": 2}}, "rank_pattern has 'k_prj'"),
        ({"alpha_pattern": {"k_prj": 2}}, "alpha_pattern has 'k_prj'"),
        (
            {"layers_to_transform": [0, 7]},
            "layers_to_transform names layer 7, but LlamaForCausalLM has layers 0 to 1",
        ),
        ({"layers_to_transform": 2}, "layers_to_transform names layer 2"),
        ({"target_parameters": ["nope"]}, "target_parameters names nope, which LlamaForCausalLM does not"),
    ],
)
def test_what_peft_would_pass_over_in_silence_is_refused(tmp_path, setting, said):
    with pytest.raises(InputError, match=rf"lora\.{said}"):
        trainer(tmp_path, peft_config=dataclasses.replace(LORA, **setting))


def test_a_module_that_is_there_is_trained_whole(tmp_path):
    made = trainer(tmp_path, peft_config=dataclasses.replace(LORA, modules_to_save=["model.norm"]))
    assert any("norm.modules_to_save" in name for name, p in made.model.named_parameters() if p.requires_grad)


def test_adapters_that_cannot_be_stacked_or_are_not_ours_are_refused(tmp_path, sft):
    with pytest.raises(InputError, match="a VeraConfig cannot be stacked on an adapter; use a LoraConfig"):
        trainer(tmp_path, model=str(sft), peft_config=VeraConfig(target_modules=["q_proj"]))
    named = get_peft_model(tiny_model(), LORA, adapter_name="mine")
    with pytest.raises(InputError, match="wears an adapter named 'mine'; load it with"):
        trainer(tmp_path, model=named, peft_config=LORA)
    two = trainer(tmp_path, model=str(sft), peft_config=LORA).policy
    with pytest.raises(
        InputError, match=r"named 'reference and default'; .* or merge several into one model"
    ):
        trainer(tmp_path, model=two, peft_config=LORA)
    with pytest.raises(
        InputError, match="every weight of the model is frozen; unfreeze some, or pass peft_config"
    ):
        trainer(tmp_path, model=str(sft))


def test_a_prompt_learning_adapter_is_refused(tmp_path):
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(InputError, match="learns virtual tokens before every sequence"):
        trainer(tmp_path, peft_config=config)


# ---- checkpoints ----
def test_no_more_checkpoints_are_kept_than_asked_for_and_none_half_written(tmp_path):
    trainer(tmp_path, save_strategy="steps", save_steps=1, save_total_limit=2, max_steps=5).train()
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "checkpoint-4",
        "checkpoint-5",
        "metrics.jsonl",
        "responses.jsonl",
    ]


@pytest.mark.parametrize("kind", ["full", "adapter", "above sft"])
def test_the_best_checkpoint_is_loaded_at_the_end(tmp_path, sft, kind):
    class Measure(TrainerCallback):
        """The second evaluation is the best, whatever was measured."""

        def on_evaluate(self, args: Any, state: Any, control: Any, *, metrics: Any, **kwargs: Any) -> None:
            metrics["eval_loss"] = float(abs(state.global_step - 2))

    made = trainer(
        tmp_path / "run",
        model=str(sft) if kind == "above sft" else tiny_model(),
        peft_config=None if kind == "full" else LORA,
        callbacks=[Measure()],
        eval_dataset=token_pairs(2),
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        learning_rate=1e-2,
        max_steps=4,
    )
    made.train()
    folder = tmp_path / "run"
    assert Path(str(made.state.best_model_checkpoint)) == folder / "checkpoint-2"
    assert sorted(each.name for each in folder.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    state = json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]) == folder / "checkpoint-2"
    if kind == "adapter":
        best: Any = PeftModel.from_pretrained(tiny_model(), folder / "checkpoint-2")
    else:
        best = load_model(str(folder / "checkpoint-2"))
    torch.testing.assert_close(logits(made.model), logits(best), rtol=0, atol=1e-5)


def test_a_checkpoint_that_cannot_be_written_is_said_and_the_last_one_stays(tmp_path, monkeypatch):
    save = PreferenceTrainer._save_optimizer_and_scheduler

    def full(self: Any, folder: str) -> None:
        if self.state.global_step == 2:
            raise OSError(28, "No space left on device")
        save(self, folder)

    monkeypatch.setattr(PreferenceTrainer, "_save_optimizer_and_scheduler", full)
    made = trainer(tmp_path, save_strategy="steps", save_steps=1)
    with pytest.raises(
        InputError, match=r"checkpoint-2 cannot be written: No space left on device. Free some space"
    ):
        made.train()
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "checkpoint-1",
        "metrics.jsonl",
        "responses.jsonl",
    ]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["lm_head"]},
        {"target_modules": ["lm_head", "embed_tokens"]},
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]},
    ],
)
def test_adapters_of_plain_peft_on_embeddings_and_heads_are_exported_as_they_compute(
    tmp_path, settings, tied
):
    save_model(tiny_model(tie_word_embeddings=tied), tokenizer(), tmp_path / "base")
    config = LoraConfig(r=4, init_lora_weights=False, **settings)
    model = get_peft_model(load_model(str(tmp_path / "base")), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    model.save_pretrained(tmp_path / "adapter")
    export_model(str(tmp_path / "adapter"), tmp_path / "out")
    assert (logits(load_model(str(tmp_path / "out"))) - logits(model)).abs().max() < 1e-4
    assert (logits(load_model(str(tmp_path / "base"))) - logits(model)).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_that_cannot_be_merged_as_it_computes_is_refused_and_nothing_is_left(tmp_path):
    save_model(tiny_model(tie_word_embeddings=True), tokenizer(), tmp_path / "base")
    config = LoraConfig(
        r=4, init_lora_weights=False, target_modules=["embed_tokens"], ensure_weight_tying=True
    )
    get_peft_model(load_model(str(tmp_path / "base")), config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(InputError, match=r"adapter cannot be exported: merged, its log-probs differ by"):
        export_model(str(tmp_path / "adapter"), tmp_path / "out")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["adapter", "base"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("settings", [{"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}])
def test_a_head_trains_and_is_saved(tmp_path, settings):
    config = dataclasses.replace(LORA, **settings)
    made = trainer(tmp_path / "run", peft_config=config, learning_rate=1e-2, objective="dpo", max_steps=4)
    before = {name: value for name, value in weights(made.model).items() if "lm_head" in name}
    made.train()
    rows = metric_rows(tmp_path / "run")
    assert rows[0]["largest_logratio"] == 0.0
    assert rows[-1]["logratios/margin"] > rows[0]["logratios/margin"] + 0.05
    after = weights(made.model)
    assert any(not torch.equal(after[name], value) for name, value in before.items())
    save_model(made.model, tokenizer(), tmp_path / "tuned")
    base = tiny_model()
    save_model(base, tokenizer(), tmp_path / "base")
    assert torch.equal(logits(made.model), logits(PeftModel.from_pretrained(base, tmp_path / "tuned")))
