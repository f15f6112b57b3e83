"""One preference step against autograd through the stock model, one sequence at a time, however the step is cut."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import oracle
from helpers.example_pairs import token_pair
from helpers.tiny_models import VOCAB, odd_shapes, tiny
from helpers.tiny_runs import gradient_error, gradients, moved, token_pairs
from minordpo.data.packing import pack, tree_size
from minordpo.data.tokens import TokenExample, TokenResponse
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.logprobs import install
from minordpo.engine.reference import reference_logps
from minordpo.engine.reference_cache import ReferenceCache
from minordpo.objectives import resolve
from minordpo.train.loader import Packer, StepSampler, step_loader
from minordpo.train.metrics import response_metrics
from minordpo.train.step import Context, StepBatch, StepRecord, preference_evaluation, preference_step

HYPER: dict[str, dict[str, float]] = {
    "dpo": {"beta": 0.1},
    "minordpo": {"beta": 0.2},
    "dpop": {"beta": 0.05, "dpop_lambda": 5.0},
}


def odd_pairs(seed: int = 0) -> list[TokenExample]:
    """Every odd shape that has two responses, and a few more pairs."""
    found = [item for item in odd_shapes(seed) if len(item.responses) == 2] + [
        item for item in odd_shapes(seed + 1) if len(item.responses) == 2
    ]
    return [token_pair(item.prompt_ids, *item.responses, row=i) for i, item in enumerate(found)]


def reference_of(model: Any, pairs: Sequence[TokenExample]) -> list[np.ndarray]:
    install(model)
    with attention_switched(model, NAME):
        return reference_logps(model, pairs, ReferenceCache(None, ""), token_budget=64)


def stepped(
    model: Any, step: StepBatch, name: str, reference: Sequence[np.ndarray], *, scale: float = 1.0
) -> list[StepRecord]:
    """One step's gradient in `model`, added to nothing."""
    model.zero_grad()
    install(model)
    with attention_switched(model, NAME):
        return preference_step(
            model,
            step,
            Context(objective=resolve(name, HYPER[name]), reference=reference),
            scale=scale,
            backward=torch.Tensor.backward,
            around_row=lambda last: contextlib.nullcontext(),
        )


def cut(pairs: Sequence[TokenExample], budget: int) -> StepBatch:
    return Packer(budget)(list(enumerate(pairs)))


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2", "Qwen3"])
@pytest.mark.parametrize("name", sorted(HYPER))
def test_the_gradient_is_that_of_the_plain_loss(architecture, name):
    base, policy, pairs = tiny(architecture), moved(tiny(architecture), by=0.02), odd_pairs()
    plain = oracle.stock_copy(policy)
    losses = oracle.pair_losses(getattr(oracle, name), plain, oracle.stock_copy(base), pairs, **HYPER[name])
    losses.mean().backward()
    records = stepped(policy, cut(pairs, 64), name, reference_of(base, pairs))
    assert gradient_error(gradients(policy), gradients(plain)) < 1e-4
    # The test would pass on a loss without a reference too, were the policy not away from it on both sides.
    ratios = torch.cat([r.logps.pairs().rejected_logratios for r in records])
    assert (ratios > 0).any()
    assert (ratios < 0).any()
    assert ratios.abs().max() > 0.3
    found = response_metrics(records, beta=1.0, reduce=lambda x: x, device=torch.device("cpu"))
    assert found["loss"] == pytest.approx(losses.mean().item(), rel=1e-4)


@pytest.mark.parametrize("name", sorted(HYPER))
def test_how_a_step_is_cut_into_rows_changes_nothing(name):
    base, policy, pairs = tiny("Llama"), moved(tiny("Llama"), by=0.02), odd_pairs()
    reference = reference_of(base, pairs)
    found = {}
    for budget in (1, 40, 100, 1 << 40):
        step = cut(pairs, budget)
        records = stepped(policy, step, name, reference)
        metrics = response_metrics(records, beta=0.1, reduce=lambda x: x, device=torch.device("cpu"))
        found[len(step.batches)] = (gradients(policy), metrics)
    assert max(found) == len(pairs)
    assert min(found) == 1
    assert len(found) >= 3
    whole, metrics = found[1]
    for each, measured in found.values():
        assert gradient_error(each, whole) < 1e-5
        assert measured == pytest.approx(metrics, rel=1e-4, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_order_and_any_cut_give_the_same_gradient(data):
    base, policy, pairs = tiny("Llama"), moved(tiny("Llama"), by=0.02), odd_pairs()[:5]
    reference = reference_of(base, pairs)
    stepped(policy, cut(pairs, 1 << 40), "minordpo", reference)
    expected = gradients(policy)
    order = data.draw(st.permutations(range(5)))
    cuts = sorted(data.draw(st.sets(st.integers(1, 4))))
    rows = [order[a:b] for a, b in zip([0, *cuts], [*cuts, 5], strict=True)]
    batches = tuple(pack([pairs[i] for i in row], row) for row in rows)
    stepped(policy, StepBatch(batches, (1.0,) * len(rows), 5), "minordpo", reference)
    assert gradient_error(gradients(policy), expected) < 1e-5


def test_a_row_of_weight_zero_changes_neither_gradient_nor_metrics():
    base, policy, pairs = tiny("Llama"), moved(tiny("Llama"), by=0.02), odd_pairs()
    reference = reference_of(base, pairs)
    step = cut(pairs[:4], 1 << 40)
    plain = stepped(policy, step, "dpo", reference)
    expected = gradients(policy)
    extra = pack([pairs[5]], [5])
    records = stepped(policy, StepBatch((extra, *step.batches, extra), (0.0, 1.0, 0.0), 4), "dpo", reference)
    assert gradient_error(gradients(policy), expected) < 1e-6
    assert len(records) == len(plain) == 1


def test_the_gradient_is_a_mean_over_the_whole_steps_pairs_times_the_scale():
    policy, pairs = moved(tiny("Llama"), by=0.02), odd_pairs()[:3]
    reference = reference_of(tiny("Llama"), pairs)
    step = cut(pairs, 1 << 40)
    stepped(policy, step, "dpo", reference)
    one = gradients(policy)
    stepped(policy, StepBatch(step.batches, step.weights, 12), "dpo", reference, scale=2.0)
    half = {each: 2 * value for each, value in gradients(policy).items()}
    assert gradient_error(half, one) < 1e-5


def test_gradients_meet_other_ranks_after_the_last_row_only():
    policy, pairs = tiny("Llama"), odd_pairs()
    install(policy)
    seen: list[bool] = []

    @contextlib.contextmanager
    def around_row(last: bool) -> Any:
        seen.append(last)
        before = gradients(policy)
        yield
        assert gradient_error(gradients(policy), before) > 0  # the backward pass ran inside

    step = cut(pairs, 40)
    reference = reference_of(policy, pairs)
    with attention_switched(policy, NAME):
        preference_step(
            policy,
            step,
            Context(objective=resolve("dpo", {}), reference=reference),
            scale=1.0,
            backward=torch.Tensor.backward,
            around_row=around_row,
        )
    assert seen == [False] * (len(step.batches) - 1) + [True]
    assert len(seen) > 2


def test_records_are_in_the_order_of_the_batches_pairs():
    base, policy, pairs = tiny("Llama"), moved(tiny("Llama"), by=0.02), odd_pairs()
    sums = [
        (a.sum().item(), b.sum().item())
        for a, b in zip(*[iter(oracle.scored_logps(oracle.stock_copy(policy), pairs))] * 2, strict=True)
    ]
    reference = reference_of(base, pairs)
    step = cut(pairs[::-1], 60)
    step = StepBatch(
        tuple(_renumbered(b, len(pairs)) for b in step.batches), step.weights, step.global_prompts
    )
    records = stepped(policy, step, "dpo", reference)
    for batch, record in zip(step.batches, records, strict=True):
        found = record.logps.pairs()
        assert found.chosen_logps.tolist() == pytest.approx([sums[i][0] for i in batch.indices], abs=1e-3)
        assert found.rejected_logps.tolist() == pytest.approx([sums[i][1] for i in batch.indices], abs=1e-3)
        lengths = [[int(r.scored.sum()) for r in pairs[i].responses] for i in batch.indices]
        assert found.chosen_tokens.tolist() == [each[0] for each in lengths]
        assert found.rejected_tokens.tolist() == [each[1] for each in lengths]
        ref = [reference[i] for i in batch.indices]
        ref_chosen = [float(r[: n[0]].sum()) for r, n in zip(ref, lengths, strict=True)]
        assert found.ref_chosen_logps.tolist() == pytest.approx(ref_chosen, abs=1e-4)


def _renumbered(batch: Any, count: int) -> Any:
    """A batch packed from reversed pairs, with the indices of the pairs themselves."""
    return dataclasses.replace(batch, indices=tuple(count - 1 - i for i in batch.indices))


def test_metrics_are_means_over_pairs_and_not_over_rows():
    base, policy, pairs = tiny("Llama"), moved(tiny("Llama"), by=0.02), odd_pairs()[:4]
    reference = reference_of(base, pairs)
    rows = (pack(pairs[:1], [0]), pack(pairs[1:], [1, 2, 3]))
    records = stepped(policy, StepBatch(rows, (1.0, 1.0), 4), "dpo", reference)
    found = response_metrics(records, beta=0.1, reduce=lambda x: x, device=torch.device("cpu"))
    plain, stock = oracle.stock_copy(policy), oracle.stock_copy(base)
    sums, ref = (
        np.array([logps.sum().item() for logps in oracle.scored_logps(m, pairs)]).reshape(-1, 2)
        for m in (plain, stock)
    )
    chosen, rejected = (sums - ref).T
    margin = chosen - rejected
    expected = {
        "loss": np.log1p(np.exp(-0.1 * margin)).mean(),
        "logratios/chosen": chosen.mean(),
        "logratios/rejected": rejected.mean(),
        "logratios/margin": margin.mean(),
        "rewards/chosen": 0.1 * chosen.mean(),
        "rewards/rejected": 0.1 * rejected.mean(),
        "rewards/margins": 0.1 * margin.mean(),
        "rewards/accuracies": (margin > 0).mean(),
        "logps/chosen": sums[:, 0].mean(),
        "logps/rejected": sums[:, 1].mean(),
        "coefficient/chosen": (-0.1 / (1 + np.exp(0.1 * margin))).mean(),
        "coefficient/rejected": (0.1 / (1 + np.exp(0.1 * margin))).mean(),
        "no_rejected_gradient": 0.0,
        "saturated": (1 / (1 + np.exp(0.1 * margin)) <= 0.01 * 0.5).mean(),
        "chosen_below_reference": (chosen < 0).mean(),
        "rejected_at_or_below_reference": (rejected <= 0).mean(),
    }
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_metrics_of_a_rank_without_pairs_are_the_other_ranks():
    def other_rank(sums: torch.Tensor) -> torch.Tensor:
        assert sums.tolist() == [[0.0] * sums.shape[1]] * 2
        others = torch.zeros_like(sums)
        others[:, :2] = torch.tensor([[3.0, 8.0], [6.0, 4.0]])
        return sums + others

    found = response_metrics([], beta=0.1, reduce=other_rank, device=torch.device("cpu"))
    assert found == {"loss": 0.5, "logratios/chosen": 2.0}  # and nothing of what no rank measured


def test_an_evaluation_measures_the_same_without_a_gradient():
    base, policy, pairs = tiny("Llama"), moved(tiny("Llama"), by=0.02), odd_pairs()[:4]
    reference = reference_of(base, pairs)
    step = cut(pairs, 1 << 40)
    (expected,) = stepped(policy, step, "minordpo", reference)
    policy.zero_grad()
    with attention_switched(policy, NAME):
        context = Context(objective=resolve("minordpo", HYPER["minordpo"]), reference=reference)
        (found,) = preference_evaluation(policy, step, context)
    assert all(parameter.grad is None for parameter in policy.parameters())
    torch.testing.assert_close(found.gradient.losses, expected.gradient.losses, rtol=0, atol=1e-6)
    assert not found.gradient.losses.requires_grad


def test_a_step_of_pairs_whose_penalty_has_stopped_leaves_their_rejected_tails_alone():
    # MinorDPO at the reference: the gradient is that of the chosen responses alone
    policy, pairs = tiny("Llama"), odd_pairs()
    plain = oracle.stock_copy(policy)
    chosen = torch.stack([logps.sum() for logps in oracle.scored_logps(plain, pairs)[::2]])
    (-0.2 * 0.5 * chosen.mean()).backward()
    reference = reference_of(policy, pairs)
    stepped(
        policy, cut(pairs, 1), "minordpo", reference
    )  # a pair a row, as the reference ran: ratios are exactly 0
    assert gradient_error(gradients(policy), gradients(plain)) < 1e-4


# ---- who is in which step ----
def numbered(count: int) -> list[TokenExample]:
    return [
        token_pair(
            np.arange(3, 5 + i % 7, dtype=np.int32),
            TokenResponse(np.full(1 + i % 3, 9, np.int32), np.ones(1 + i % 3, bool)),
            TokenResponse(np.full(2, 10 + i % VOCAB, np.int32), np.ones(2, bool)),
            row=i,
        )
        for i in range(count)
    ]


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.sampled_from([1, 20, 60, 10**9]))
def test_every_pair_is_on_exactly_one_rank_and_all_ranks_have_as_many_rows(count, world, budget):
    items = list(enumerate(numbered(count)))
    steps = [Packer(budget, rank=rank, world=world)(items) for rank in range(world)]
    assert len({len(step.batches) for step in steps}) == 1
    assert {step.global_prompts for step in steps} == {count}
    real = [i for s in steps for b, w in zip(s.batches, s.weights, strict=True) if w for i in b.indices]
    assert sorted(real) == list(range(count))
    for step in steps:
        for batch in step.batches:
            size = sum(tree_size(items[i][1]) for i in batch.indices)
            assert len(batch.input_ids) == size
            assert size <= budget or len(batch.indices) == 1
    assert sum(len(step.batches) for step in steps) > 0


def test_an_epoch_meets_every_pair_once_and_the_next_in_another_order():
    sampler = StepSampler(11, 4, seed=3, shuffle=True, drop_last=False)
    first, again = list(sampler), list(sampler)
    sampler.epoch = 1
    second = list(sampler)
    assert first == again
    assert [len(step) for step in first] == [4, 4, 3]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(11))
    assert first != second
    assert list(StepSampler(11, 4, seed=4, shuffle=True, drop_last=False)) != first


def test_without_shuffling_the_order_is_that_of_the_file_and_drop_last_drops():
    sampler = StepSampler(11, 4, seed=3, shuffle=False, drop_last=True)
    assert list(sampler) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(sampler) == 2
    assert sampler.visited(2).tolist() == list(range(8))
    assert sampler.visited(20).tolist() == list(range(8))


@given(
    st.integers(1, 20), st.integers(1, 6), st.integers(1, 12), st.booleans(), st.booleans(), st.integers(0, 3)
)
def test_visited_pairs_are_those_that_the_steps_meet(pairs, per_step, steps, shuffle, drop_last, seed):
    sampler = StepSampler(pairs, per_step, seed=seed, shuffle=shuffle, drop_last=drop_last)
    met: set[int] = set()
    done = 0
    while done < steps:
        sampler.epoch = done // len(sampler)
        for step in list(sampler)[: steps - done]:
            met.update(step)
            done += 1
    assert sorted(met) == sampler.visited(steps).tolist()


def test_the_loader_gives_one_step_an_item():
    pairs = token_pairs(7)
    sampler = StepSampler(7, 3, seed=0, shuffle=True, drop_last=False)
    steps = list(step_loader(pairs, sampler, Packer(10**9)))
    assert [step.global_prompts for step in steps] == [3, 3, 1]
    assert [sorted(step.batches[0].indices) for step in steps] == [sorted(each) for each in sampler]
