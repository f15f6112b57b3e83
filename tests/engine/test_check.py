"""The check each run starts with: what it measures, what it refuses by name, and that it leaves no trace."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

from helpers.tiny_models import ARCHITECTURES, VOCAB, tiny
from minordpo.engine import attention, check
from minordpo.engine.attention import NAME
from minordpo.engine.check import check_engine
from minordpo.engine.head import LogitTransform
from minordpo.engine.logprobs import Engine
from minordpo.errors import InputError

# peft 0.21 asks for a property that transformers 5.23 renames; the tests use its old name as well.
pytestmark = pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")

NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_supported_architectures_differ_by_rounding_only(architecture: str):
    settings = NO_DROPOUT if architecture == "GPT2" else {}
    assert 0 < check_engine(tiny(architecture, **settings), longest=64).difference < 5e-5


def test_another_seed_is_another_probe_and_the_same_seed_the_same():
    model = tiny("Llama")
    first, again, other = (check_engine(model, longest=64, seed=seed).difference for seed in (0, 0, 1))
    assert first == again != other


def test_an_unknown_logit_scale_is_refused_with_the_difference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LogitTransform, "of", classmethod(lambda cls, config: cls()))
    message = (
        r"GraniteForCausalLM: its log-probs, each .* differ from those of stock .* by \d.* nats .* not supp"
    )
    with pytest.raises(InputError, match=message):
        check_engine(tiny("Granite"), longest=64)


def test_a_nan_is_refused():
    model = tiny("Llama")
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    with pytest.raises(
        InputError, match=r"LlamaForCausalLM: its weight model.norm.weight holds values that are not"
    ):
        check_engine(model, longest=64)


def test_a_forward_that_takes_no_tree_is_refused_by_name(monkeypatch: pytest.MonkeyPatch):
    model = tiny("Llama")
    layer = model.model.layers[1].self_attn
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda *args, tree=None, **kwargs: forward(*args, **kwargs))
    checked = check_engine(model, longest=64)
    assert checked.engine is Engine.ALONE
    assert re.match(r"LlamaForCausalLM cannot run packed \(RuntimeError.*without a tree", checked.why_plain)


def ignore_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = attention._attend
    # The sixth positional argument after the tensors, the tree, the scaling and the dropout.
    monkeypatch.setattr(attention, "_attend", lambda *args: attend(*args[:6], None, *args[7:]))


@pytest.mark.parametrize("architecture", ["Mistral", "Gemma3"])
def test_the_probe_is_longer_than_the_windows_where_the_data_is(
    architecture: str, monkeypatch: pytest.MonkeyPatch
):
    model = tiny(architecture, sliding_window=48)
    assert check_engine(model, longest=200).difference < 5e-5
    ignore_windows(monkeypatch)
    assert check_engine(model, longest=48).difference < 5e-5  # such data never meets the window
    checked = check_engine(model, longest=64)
    assert checked.engine is Engine.ALONE
    assert "packed has other log-probs than plain, by" in checked.why_plain


@pytest.mark.parametrize(("longest", "expected"), [(8, 24), (40, 24), (45, 45), (200, 56)])
def test_the_probe_exceeds_the_window_by_sixteen_tokens_at_most(longest: int, expected: int):
    probe = check._probe(tiny("Mistral", sliding_window=40), longest, seed=0)
    assert len(probe) == 3
    lengths = [len(pair.prompt_ids) + len(each.ids) for pair in probe for each in pair.responses]
    assert max(lengths) == expected


def test_a_dropout_left_on_is_refused_as_that():
    with pytest.raises(InputError, match=r"nats in training mode, but by .*dropout or router noise is on"):
        check_engine(tiny("Llama", attention_dropout=0.5), longest=64)
    adapted = get_peft_model(tiny("Llama"), LoraConfig(lora_dropout=0.5, init_lora_weights=False))
    with pytest.raises(InputError, match=r"lora.lora_dropout, to 0"):
        check_engine(adapted, longest=64)


def test_lora_is_checked_with_its_adapter():
    assert (
        check_engine(
            get_peft_model(tiny("Qwen2"), LoraConfig(init_lora_weights=False)), longest=64
        ).difference
        < 5e-5
    )


def test_gradient_checkpointing_and_autocast_do_not_disturb_the_check():
    model = tiny("Gemma2")
    model.gradient_checkpointing_enable()
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert check_engine(model, longest=64).difference < 5e-5


def state_of(model: Any) -> dict[str, Any]:
    return {
        "modes": [module.training for module in model.modules()],
        "attention": model.config._attn_implementation,
        "random": torch.get_rng_state().tolist(),
        "gradients": [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        "dtypes": [tensor.dtype for tensor in (*model.parameters(), *model.buffers())],
    }


def fails(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogitTransform, "of", classmethod(lambda cls, config: cls(softcap=0.1)))
    with pytest.raises(InputError, match="differ from those of stock transformers"):
        check_engine(model, longest=64)


@pytest.mark.parametrize("passes", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_left_as_it_was(dtype: torch.dtype, passes: bool, monkeypatch: pytest.MonkeyPatch):
    model = tiny("Llama").to(dtype)
    model.train()
    model.model.layers[1].eval()
    model.config._attn_implementation = NAME
    ties = model.lm_head.weight is model.model.embed_tokens.weight
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = list(model.parameters())
    before = state_of(model)
    if passes:
        assert check_engine(model, longest=64).difference < 5e-5  # bf16 weights too: the check is in float32
    else:
        fails(model, monkeypatch)
    assert state_of(model) == before
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == ties
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "settings", "reason"),
    [
        ("Bloom", {"n_layer": 2, "n_head": 4}, "does not take another attention"),
        ("Falcon", {"alibi": True}, "does not take another attention"),
        ("Mamba", {}, "linear_attention layers"),
        ("FalconH1", {}, "hybrid layers"),
        ("Lfm2", {"layer_types": ["conv", "full_attention", "conv"]}, "conv layers"),
    ],
)
def test_models_that_mix_tokens_otherwise_run_plain_and_say_why(
    architecture: str, settings: dict[str, Any], reason: str
):
    checked = check_engine(tiny(architecture, **settings), longest=64)
    assert checked.engine is Engine.ALONE
    assert checked.difference < 5e-5
    assert re.match(f"{architecture}ForCausalLM.*{reason}", checked.why_plain)


def test_the_probe_alone_also_finds_a_convolution(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check, "_PACKABLE", {"full_attention", "conv"})
    checked = check_engine(tiny("Lfm2", layer_types=["conv", "full_attention", "conv"]), longest=64)
    assert checked.engine is Engine.ALONE
    assert "Lfm2ForCausalLM packed has other log-probs than plain" in checked.why_plain


def test_an_encoder_decoder_is_refused_by_name():
    config = T5Config(vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(InputError, match="T5ForConditionalGeneration is an encoder-decoder"):
        check_engine(T5ForConditionalGeneration(config), longest=64)


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
    "original_max_position_embeddings": 40,
}


def test_longrope_is_packed_within_its_short_regime_and_plain_beyond():
    model = tiny(
        "Phi3", sliding_window=None, rope_parameters=dict(LONGROPE), original_max_position_embeddings=40
    )
    assert check_engine(model, longest=40).difference < 5e-5
    checked = check_engine(model, longest=60)
    assert (checked.engine, checked.difference < 5e-5) == (Engine.ALONE, True)
    assert re.match(r"Phi3.* longrope .*than 40 tokens, and the data's longest has 60", checked.why_plain)
    probe = check._probe(model, 60, seed=0)
    assert max(len(pair.prompt_ids) + len(each.ids) for pair in probe for each in pair.responses) > 40


def test_dynamic_rope_is_checked_up_to_its_limit_and_refused_beyond():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    model = tiny("Llama", rope_parameters=rope, max_position_embeddings=50)
    assert check_engine(model, longest=50).difference < 5e-5
    with pytest.raises(InputError, match=r"Llama.* dynamic rotary positions.* Set data.max_length to 50"):
        check_engine(model, longest=51)


def test_a_length_dependent_rope_of_one_layer_type_is_not_packed():
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    model = tiny("Gemma3")
    model.config.rope_parameters = {"sliding_attention": plain, "full_attention": dict(LONGROPE)}
    checked = check_engine(model, longest=41)
    assert "Gemma3ForCausalLM has longrope rotary positions" in checked.why_plain


def test_other_rope_types_may_be_longer_than_their_first_training():
    rope = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 128,
    }
    assert check_engine(tiny("Qwen3", rope_parameters=rope), longest=400).difference < 5e-5


def test_data_beyond_a_table_of_positions_is_refused():
    model = tiny("GPT2", max_position_embeddings=48, **NO_DROPOUT)
    assert check_engine(model, longest=48).difference < 5e-5
    with pytest.raises(InputError, match=r"GPT2LMHeadModel has positions for 48 .* 49\. Set data.max_length"):
        check_engine(model, longest=49)


def test_prompt_learning_adapters_are_refused():
    settings = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=3)
    with pytest.raises(InputError, match=r"'default' \(PromptTuningConfig\) .*virtual tokens.* Use LoRA"):
        check_engine(get_peft_model(tiny("Llama"), settings), longest=64)


def test_adapters_that_switch_on_by_an_invocation_are_refused():
    settings = LoraConfig(task_type=TaskType.CAUSAL_LM, alora_invocation_tokens=[5, 6])
    with pytest.raises(InputError, match=r"alora_invocation_tokens.* Use plain LoRA"):
        check_engine(get_peft_model(tiny("Llama"), settings), longest=64)


def test_an_adapted_head_is_checked_with_its_adapter():
    settings = LoraConfig(target_modules=["lm_head"], init_lora_weights=False)
    assert check_engine(get_peft_model(tiny("Mistral"), settings), longest=64).difference < 5e-5
