"""The packed engine against stock transformers, one sequence at a time in float64: values and gradients."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from helpers import oracle
from helpers.packed_and_plain import TOLERANCE, assert_close, compare
from helpers.tiny_models import ARCHITECTURES, odd_shapes, prompt, tiny
from minordpo.data.packing import Node, PackedBatch, Tree, pack
from minordpo.engine import attention
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.head import LogitTransform
from minordpo.engine.logprobs import install, packed_logps, sequence_logps
from minordpo.errors import InputError

# transformers 5.23 renames gradient checkpointing, which 5.17 and peft 0.21 know under its old names.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


def with_lora(model: Any, **settings: Any) -> Any:
    """The model under LoRA with random weights on both sides, so that the adapter shows in its log-probs."""
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "target_modules": "all-linear"} | settings))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapted


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_equals_plain_in_value_and_gradient(architecture: str):
    assert_close(compare(tiny(architecture), odd_shapes()))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_equals_plain_under_gradient_checkpointing(architecture: str):
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if architecture == "GPT2" else {}
    model = tiny(architecture, **no_dropout)
    model.gradient_checkpointing_enable()
    assert_close(compare(model, odd_shapes(1), train=True))


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Gemma2", "Phi3", "Granite"])
def test_packed_equals_plain_under_lora(architecture: str):
    errors = compare(with_lora(tiny(architecture)), odd_shapes(2), train=True)
    assert_close(errors)


@pytest.mark.parametrize("architecture", ["GPT2", "Llama"])
def test_packed_equals_plain_in_float64(architecture: str):
    # GPT-2 computes in float64 throughout; Llama's norms are float32 in both, and only products differ.
    tolerance = {"GPT2": 1e-11, "Llama": 1e-5}[architecture]
    assert_close(compare(tiny(architecture).double(), odd_shapes()), tolerance)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_attention_of_the_tiny_models_is_far_from_uniform(architecture: str):
    model = oracle.stock_copy(tiny(architecture), torch.float32)
    ids = torch.arange(3, 33)[None]
    for probabilities in model(input_ids=ids, output_attentions=True).attentions:
        late = probabilities[0, :, 10:].detach()
        entropy = -torch.special.xlogy(late, late).sum(-1)
        assert (entropy / (late > 0).sum(-1).log()).mean() < 0.9


SHAPES = {
    "one token each": prompt([4], [5], [6]),
    "everything shared": prompt([4, 5], [6, 7, 8], [6, 7, 8]),
    "a prefix of the other": prompt([4], [6], [6, 7, 8, 9, 10, 11, 12, 13]),
    "nothing shared": prompt([4, 5, 6], [7, 8, 9], [10, 11]),
    "no prompt, first token unscored": prompt([], [4, 5, 6], [4, 7, 8, 9], unscored={0: [0], 1: [0]}),
    "a single response": prompt([4, 5], list(range(3, 40))),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("architecture", ["Mistral", "Gemma2"])
def test_a_prompt_alone_in_its_row_is_computed_right(architecture: str, shape: str):
    assert_close(compare(tiny(architecture), [SHAPES[shape]]))


def test_a_sequence_is_the_sum_of_its_scored_tokens():
    model, items = tiny("Llama"), odd_shapes()
    expected = torch.stack([logps.sum() for logps in oracle.scored_logps(oracle.stock_copy(model), items)])
    install(model)
    batch = pack(items)
    with attention_switched(model, NAME), torch.no_grad():
        found = sequence_logps(packed_logps(model, batch), batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-4)


def test_a_backward_in_another_thread_finds_its_tree():
    model = tiny("Gemma2")
    model.gradient_checkpointing_enable()
    raised: list[BaseException] = []

    def elsewhere(loss: Tensor) -> None:
        def run() -> None:
            try:
                loss.backward()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    errors = compare(model, odd_shapes(), train=True, backward=elsewhere)
    assert not raised
    assert_close(errors)


def test_two_batches_in_flight_keep_their_own_trees():
    one, two = odd_shapes(1), odd_shapes(2)[:5]
    model = tiny("Mistral")
    model.gradient_checkpointing_enable()

    def with_another_forward(loss: Tensor) -> None:
        with torch.no_grad():
            packed_logps(model, pack(two))
        loss.backward()

    assert_close(compare(model, one, train=True, backward=with_another_forward))


def test_a_deep_copy_computes_with_its_own_weights():
    model, items = tiny("Granite"), odd_shapes()
    install(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    assert_close(compare(copied, items))
    ids = torch.arange(3, 20)[None]
    assert copied(input_ids=ids).logits.isfinite().all()
    assert not model(input_ids=ids).logits.isfinite().any()


def test_a_batch_that_was_moved_gives_the_same_numbers():
    items = odd_shapes()
    assert_close(compare(tiny("Phi3"), items, batch=pack(items).to("cpu")))


def rms(values: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    differences = [(a.double() - b).flatten() for a, b in zip(values, exact, strict=True)]
    return torch.cat(differences).square().mean().sqrt().item()


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Gemma3", "Phi3"])
def test_under_bfloat16_autocast_packed_is_as_near_to_exact_as_plain(architecture: str):
    # A tame draw: on the wide one rounding to 8 bits is amplified into chaos, packed or not.
    model, items = tiny(architecture, initializer_range=0.1), odd_shapes()
    exact_model, plain_model = oracle.stock_copy(model), oracle.stock_copy(model, torch.float32)
    exact = torch.cat(oracle.scored_logps(exact_model, items))
    exact.sum().backward()
    install(model)
    batch = pack(items)
    with torch.autocast("cpu", torch.bfloat16):
        plain = torch.cat(oracle.scored_logps(plain_model, items))
        with attention_switched(model, NAME):
            packed = packed_logps(model, batch)[batch.member_tokens]
    plain.sum().backward()
    with attention_switched(model, NAME):
        packed.sum().backward()
    assert packed.dtype == torch.float32
    values = [rms([each], [exact]) for each in (packed, plain)]
    assert values[0] < 1.5 * values[1]
    assert 1e-4 < values[1] < 0.3  # autocast was on, and the comparison says something
    gradients = [
        rms([p.grad for p in each.parameters()], [p.grad for p in exact_model.parameters()])
        for each in (model, plain_model)
    ]
    assert gradients[0] < 1.5 * gradients[1]


def ignored_window(monkeypatch: pytest.MonkeyPatch) -> None:
    change_attend(monkeypatch, window=None)


def dropped_softcap(monkeypatch: pytest.MonkeyPatch) -> None:
    change_attend(monkeypatch, softcap=None)


def dropped_scaling(monkeypatch: pytest.MonkeyPatch) -> None:
    change_attend(monkeypatch, scaling=16**-0.5)


def dropped_sinks(monkeypatch: pytest.MonkeyPatch) -> None:
    change_attend(monkeypatch, sinks=None)


def change_attend(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    attend = attention._attend
    signature = inspect.signature(attend)

    def faulty(*args: Any) -> Tensor:
        return attend(**signature.bind(*args).arguments | changed)

    monkeypatch.setattr(attention, "_attend", faulty)


def dropped_logit_transform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LogitTransform, "of", classmethod(lambda cls, config: cls()))


WINDOWED = ("Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3", "Phi3", "SmolLM3", "GptOss")
FAULTS = [
    *((ignored_window, name) for name in WINDOWED),
    (dropped_softcap, "Gemma2"),
    *((dropped_logit_transform, name) for name in ("Gemma2", "Gemma3", "Granite", "Cohere")),
    *((dropped_scaling, name) for name in ("Gemma2", "Gemma3", "Granite")),
    (dropped_sinks, "GptOss"),
]


@pytest.mark.parametrize(("fault", "architecture"), FAULTS)
def test_a_fault_in_the_computation_breaks_the_tolerance_a_hundredfold(
    fault: Callable[[pytest.MonkeyPatch], None], architecture: str, monkeypatch: pytest.MonkeyPatch
):
    fault(monkeypatch)
    errors = compare(tiny(architecture), odd_shapes())
    assert errors.values > 100 * TOLERANCE
    assert errors.gradients > 100 * TOLERANCE


def shifted_positions(batch: PackedBatch) -> PackedBatch:
    return dataclasses.replace(batch, position_ids=torch.arange(len(batch.input_ids)))


def tails_that_see_their_neighbours(batch: PackedBatch) -> PackedBatch:
    nodes = list(batch.tree.nodes)
    for number, node in enumerate(nodes):
        if node.ancestors and number - 1 not in node.ancestors:
            nodes[number] = Node(node.start, node.end, (*node.ancestors, number - 1))
    return dataclasses.replace(batch, tree=Tree(tuple(nodes), batch.tree.subtree_end))


@pytest.mark.parametrize("fault", [shifted_positions, tails_that_see_their_neighbours])
@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "Gemma3", "SmolLM3"])
def test_a_fault_in_the_row_breaks_the_tolerance_a_hundredfold(
    fault: Callable[[PackedBatch], PackedBatch], architecture: str
):
    items = odd_shapes()
    errors = compare(tiny(architecture), items, batch=fault(pack(items)))
    assert errors.values > 100 * TOLERANCE
    assert errors.gradients > 100 * TOLERANCE


# ---- what a model tells its attention ----
def test_a_keyword_that_packed_rows_cannot_honour_is_refused_with_the_architecture():
    module = tiny("Gemma2").model.layers[0].self_attn
    batch = pack(odd_shapes()[:1])
    inputs = [torch.randn(1, 2, len(batch.input_ids), 4) for _ in range(3)]
    kept = {"position_ids": torch.arange(3), "use_cache": False, "is_causal": True, "cu_seq_lens_q": None}
    attention.tree_attention(module, *inputs, None, tree=batch.tree, **kept)
    message = r"\(architecture gemma2, Gemma2Attention\) is called with position_bias, alibi, which packed rows cannot"
    with pytest.raises(InputError, match=message):
        attention.tree_attention(module, *inputs, None, tree=batch.tree, position_bias=inputs[0], alibi=1.0)
    with pytest.raises(InputError, match=r"is called with is_causal=False, which packed rows cannot honour"):
        attention.tree_attention(module, *inputs, None, tree=batch.tree, is_causal=False)
