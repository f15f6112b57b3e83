"""One step of every objective against autograd through the stock model, on pairs, single and ranked responses."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from helpers import oracle
from helpers.example_pairs import token_pair
from helpers.tiny_models import odd_shapes, tiny
from helpers.tiny_runs import gradient_error, gradients, moved
from minordpo.data.packing import pack
from minordpo.data.tokens import TokenExample
from minordpo.engine import head as head_module
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.head import LogitTransform, draw_others
from minordpo.engine.logprobs import install
from minordpo.engine.reference import reference_logps
from minordpo.engine.reference_cache import ReferenceCache
from minordpo.objectives import OBJECTIVES, ResponseLogps, TokenLogps, resolve
from minordpo.train.loader import Packer, mismatched
from minordpo.train.metrics import response_metrics, response_rows
from minordpo.train.step import Context, StepRecord, draw_places, mismatched_logratio, preference_step

LONGEST = 10**6
SUMS = {**{name: name for name in OBJECTIVES}, "sum": "minordpo + 0.1*sft"}


def examples(kind: str) -> list[TokenExample]:
    """Odd shapes as pairs, as single responses of either label, or as rankings of up to all their responses."""
    shapes = [*odd_shapes(0), *odd_shapes(1)]
    if kind == "pairs":
        pairs = [shape for shape in shapes if len(shape.responses) == 2]
        return [token_pair(each.prompt_ids, *each.responses, row=i) for i, each in enumerate(pairs)]
    if kind == "ranked":
        several = [shape for shape in shapes if len(shape.responses) >= 2]
        return [
            TokenExample(each.prompt_ids, each.responses, each.grades, row=i)
            for i, each in enumerate(several)
        ]
    return [
        TokenExample(each.prompt_ids, each.responses[:1], (float(i % 3 > 0),), row=i)
        for i, each in enumerate(shapes)
    ]


def references(model: Any, items: Sequence[TokenExample], *, others: bool) -> dict[Hashable, np.ndarray]:
    known: dict[Hashable, TokenExample] = dict(enumerate(items))
    if others:
        known.update(mismatched(list(enumerate(items)), LONGEST))
    install(model)
    with attention_switched(model, NAME):
        found = reference_logps(model, list(known.values()), ReferenceCache(None, ""), token_budget=64)
    return dict(zip(known, found, strict=True))


def stepped(policy: Any, items: Sequence[TokenExample], context: Context, budget: int) -> list[StepRecord]:
    policy.zero_grad()
    install(policy)
    step = Packer(budget, mismatch=context.objective.mismatched, longest=LONGEST)(list(enumerate(items)))
    with attention_switched(policy, NAME):
        return preference_step(
            policy,
            step,
            context,
            scale=1.0,
            backward=torch.Tensor.backward,
            around_row=lambda last: contextlib.nullcontext(),
        )


def plain_logps(model: Any, items: Sequence[TokenExample]) -> tuple[torch.Tensor, ...]:
    """Sums, scored tokens, prompts and grades by the stock model, one sequence at a time."""
    found = oracle.scored_logps(model, items)
    sums = torch.stack([logps.sum() for logps in found])
    lengths = torch.tensor([len(logps) for logps in found])
    groups = torch.tensor([i for i, each in enumerate(items) for _ in each.responses])
    grades = torch.tensor([grade for each in items for grade in each.grades])
    return sums, lengths, groups, grades


def plain_losses(name: str, policy: Any, base: Any, items: Sequence[TokenExample]) -> torch.Tensor:
    objective = resolve(name, {})
    sums, lengths, groups, grades = plain_logps(policy, items)
    with torch.no_grad():
        ref = plain_logps(base, items)[0]
        between = None
        if objective.mismatched:
            others = [each for _, each in mismatched(list(enumerate(items)), LONGEST)]
            between = (plain_logps(policy, others)[0] - plain_logps(base, others)[0]).mean()
    return objective(ResponseLogps(sums, ref, lengths, groups, grades, between))


@pytest.mark.parametrize("kind", ["pairs", "labelled", "ranked"])
@pytest.mark.parametrize("name", sorted(set(SUMS.values()) - {"pairwise_cringe"}))
def test_the_gradient_is_that_of_the_plain_loss(name, kind):
    objective = resolve(name, {})
    if kind not in objective.data:
        pytest.skip(f"{name} takes no {kind}")
    items = [each for each in examples(kind) if objective.undesirable or kind != "labelled" or each.grades[0]]
    base, policy = tiny("Llama"), moved(tiny("Llama"), by=0.02)
    plain = oracle.stock_copy(policy)
    losses = plain_losses(name, plain, oracle.stock_copy(base), items)
    losses.mean().backward()
    context = Context(objective=objective, reference=references(base, items, others=objective.mismatched))
    records = stepped(policy, items, context, 64)
    assert len(records) > 2
    assert gradient_error(gradients(policy), gradients(plain)) < 1e-4
    found = {i: x for r in records for i, x in zip(r.indices, r.gradient.losses.tolist(), strict=True)}
    assert [found[i] for i in range(len(items))] == pytest.approx(losses.tolist(), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ["kto", "minordpo", "pairwise_cringe", "rrhf", "simpo"])
def test_how_a_step_is_cut_into_rows_changes_nothing(name):
    items = examples("pairs")
    base, policy = tiny("Llama"), moved(tiny("Llama"), by=0.02)
    objective = resolve(name, {})
    reference = references(base, items, others=objective.mismatched)
    context = Context(objective=objective, reference=reference, seed=(7, 3))
    found = []
    for budget in (1, 60, 1 << 40):
        records = stepped(policy, items, context, budget)
        found.append((len(records), gradients(policy), measured(records)))
    assert [rows for rows, _, _ in found][:: len(found) - 1] == [len(items), 1]
    for _, each, metrics in found:
        assert gradient_error(each, found[-1][1]) < 1e-5
        assert metrics == pytest.approx(found[-1][2], rel=1e-4, abs=1e-6)


def measured(records: list[StepRecord]) -> dict[str, float]:
    reports = sorted(records[0].reports)
    return response_metrics(
        records, beta=0.1, reduce=lambda sums: sums, device=torch.device("cpu"), reports=reports
    )


# ---- responses to other prompts ----
def test_each_prompt_is_paired_with_the_responses_of_the_next_example_that_has_another():
    items = list(enumerate(examples("pairs")))[:3]
    again = TokenExample(items[0][1].prompt_ids, items[1][1].responses, (1.0, 0.0), row=9)
    pairings = mismatched([*items, (7, again)], LONGEST)
    # example 7 has the prompt of example 0, so it goes past it
    assert [key for key, _ in pairings] == [(0, 1), (1, 2), (2, 7), (7, 1)]
    for (own, other), pairing in pairings:
        known = dict([*items, (7, again)])
        assert np.array_equal(pairing.prompt_ids, known[own].prompt_ids)
        assert pairing.responses[0].ids.tolist() == known[other].responses[0].ids.tolist()


def test_mismatched_responses_are_cut_to_the_longest_sequence_of_the_data():
    items = list(enumerate(examples("pairs")))
    longest = max(len(each.prompt_ids) for _, each in items) + 1
    pairings = mismatched(items, longest)
    lengths = [len(each.prompt_ids) + len(r.ids) for _, each in pairings for r in each.responses]
    assert max(lengths) == longest
    assert all(r.scored.any() for _, each in pairings for r in each.responses)


def test_the_baseline_is_the_whole_steps_however_it_is_sharded():
    items = examples("labelled")[:7]
    base, policy = tiny("Llama"), moved(tiny("Llama"), by=0.02)
    reference = references(base, items, others=True)
    others = [each for _, each in mismatched(list(enumerate(items)), LONGEST)]
    with torch.no_grad():
        ratios = (
            plain_logps(oracle.stock_copy(policy), others)[0]
            - plain_logps(oracle.stock_copy(base), others)[0]
        )
    expected = ratios.mean().item()
    assert abs(expected) > 0.1
    install(policy)
    for world in (1, 2, 3):
        sums: list[torch.Tensor] = []

        def gather(own: torch.Tensor, sums: list[torch.Tensor] = sums) -> torch.Tensor:
            sums.append(own)
            return own

        for rank in range(world):
            packer = Packer(40, rank=rank, world=world, mismatch=True, longest=LONGEST)
            context = Context(objective=resolve("kto", {}), reference=reference, reduce=gather)
            with attention_switched(policy, NAME):
                mismatched_logratio(policy, packer(list(enumerate(items))), context)
        total = torch.stack(sums).sum(dim=0)
        assert (total[0] / total[1]).item() == pytest.approx(expected, rel=1e-4)
        assert total[1] == len(others)


@pytest.mark.parametrize("above", [False, True])
def test_the_baseline_of_kto_is_reported_however_the_step_is_cut(above):
    items = examples("labelled")[:7]
    one, other = tiny("Llama"), moved(tiny("Llama"), by=0.02)
    others = [each for _, each in mismatched(list(enumerate(items)), LONGEST)]
    with torch.no_grad():
        sums = [plain_logps(oracle.stock_copy(model), others)[0].mean().item() for model in (one, other)]
    # One of the two is likelier to say something foreign to the prompt: as the policy it has a baseline above 0.
    policy, base = (one, other) if (sums[0] > sums[1]) == above else (other, one)
    expected = abs(sums[0] - sums[1]) if above else 0.0
    assert abs(sums[0] - sums[1]) > 0.1
    for name in ("kto", "kto + 0.1*sft"):
        context = Context(objective=resolve(name, {}), reference=references(base, items, others=True))
        for budget in (1, 60, 1 << 40):
            records = stepped(policy, items, context, budget)
            assert measured(records)["z0"] == pytest.approx(expected, rel=1e-4)
            assert len({record.reports["z0"].item() for record in records}) == 1


def test_a_step_of_one_prompt_has_a_baseline_of_0():
    items = examples("labelled")[:1]
    policy = tiny("Llama")
    context = Context(objective=resolve("kto", {}), reference=references(policy, items, others=False))
    assert measured(stepped(policy, items, context, 64))["z0"] == 0
    context = Context(objective=resolve("minor_sft", {}), reference=context.reference)
    assert "z0" not in measured(stepped(policy, items[:1], context, 64))


def test_a_step_of_one_prompt_has_no_mismatched_response():
    items = examples("labelled")[:1]
    policy = tiny("Llama")
    install(policy)
    context = Context(objective=resolve("kto", {}), reference=references(policy, items, others=False))
    step = Packer(40, mismatch=True, longest=LONGEST)(list(enumerate(items)))
    assert step.mismatched == ()
    assert mismatched_logratio(policy, step, context) is None


# ---- other tokens than the rejected ones ----
def test_the_gradient_of_cringe_is_that_of_the_plain_loss_with_the_same_draws():
    items = examples("pairs")
    policy = moved(tiny("Llama"), by=0.02)
    plain = oracle.stock_copy(policy)
    context = Context(
        objective=resolve("pairwise_cringe", {"alpha": 0.5, "top_k": 4}), reference=None, seed=(5,)
    )
    losses = []
    for number, item in enumerate(items):
        uniforms = np.random.default_rng((5, number)).random(int(item.responses[-1].scored.sum()))
        chosen, rejected = oracle.scored_logps(plain, [item])
        others = drawn_by_hand(plain, item, uniforms, top_k=4)
        tokens = torch.cat([chosen, rejected])
        owners = torch.tensor([0] * len(chosen) + [1] * len(rejected))
        sums = torch.stack([chosen.sum(), rejected.sum()])
        lengths = torch.bincount(owners)
        members = torch.arange(len(chosen), len(tokens))
        by_token = TokenLogps(tokens, owners, others, members)
        groups, grades = torch.tensor([0, 0]), torch.tensor([1.0, 0.0])
        losses.append(context.objective(ResponseLogps(sums, None, lengths, groups, grades, None, by_token)))
    torch.cat(losses).mean().backward()
    stepped(policy, items, context, 64)
    assert gradient_error(gradients(policy), gradients(plain)) < 1e-4


def drawn_by_hand(model: Any, item: TokenExample, uniforms: np.ndarray, *, top_k: int) -> torch.Tensor:
    """Log-probs of the tokens that the uniform numbers choose, from whole softmaxes."""
    ids = torch.from_numpy(np.concatenate([item.prompt_ids, item.responses[-1].ids]).astype(np.int64))
    logps = model(input_ids=ids[None], use_cache=False).logits[0].double().log_softmax(dim=-1)
    found = []
    places = np.flatnonzero(item.responses[-1].scored) + len(item.prompt_ids)
    for place, uniform in zip(places.tolist(), uniforms.tolist(), strict=True):
        row = logps[place - 1]
        others = sorted(
            sorted(set(range(len(row))) - {int(ids[place])}, key=lambda i: -row[i].item())[:top_k]
        )
        shares = np.exp([row[i].item() for i in others])
        choice = int(np.searchsorted(np.cumsum(shares / shares.sum()), uniform, side="right"))
        found.append(row[others[min(choice, top_k - 1)]])
    return torch.stack(found)


def test_draws_follow_the_seed_and_the_prompt_and_nothing_else():
    items = examples("pairs")
    objective = resolve("pairwise_cringe", {})

    def uniforms(order: list[int], seed: tuple[int, ...]) -> dict[int, list[float]]:
        batch = pack([items[i] for i in order], order)
        draw = draw_places(batch, Context(objective=objective, reference=None, seed=seed))
        assert draw is not None
        counts = [int(items[i].responses[-1].scored.sum()) for i in order]
        assert batch.member_sequences[draw.members].unique().tolist() == list(range(1, 2 * len(order), 2))
        return {i: part.tolist() for i, part in zip(order, draw.uniforms.split(counts), strict=True)}

    assert uniforms([0, 1, 2], (3, 1)) == uniforms([2, 0, 1], (3, 1))
    assert uniforms([0, 1], (3, 1))[1] == uniforms([1], (3, 1))[1]
    assert uniforms([0], (3, 1)) != uniforms([0], (3, 2))


@pytest.mark.parametrize("block", [(3, 256), (1 << 10, 1 << 11)])
def test_another_token_is_drawn_from_the_likeliest_others_by_their_shares(block, monkeypatch):
    monkeypatch.setattr(head_module, "BLOCK", {"cpu": block})
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 6, generator=generator).repeat(4000, 1)
    head = torch.nn.Linear(6, 700)
    logits = head(hidden[:1])[0]
    target = int(logits.argmax())  # the likeliest is the target, so it is none of the others
    uniforms = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    found = draw_others(hidden, head, torch.full((4000,), target), uniforms, LogitTransform(), top_k=3)
    others = logits.argsort(descending=True)[1:4]
    shares = logits[others].double().softmax(dim=0)
    counts = torch.stack([(found == other).sum() for other in others])
    assert counts.sum() == 4000
    assert (counts / 4000 - shares).abs().max() < 1e-3


def test_more_likely_others_than_there_are_tokens_are_all_of_them():
    head = torch.nn.Linear(2, 3)
    found = draw_others(
        torch.randn(50, 2),
        head,
        torch.zeros(50, dtype=torch.int64),
        torch.rand(50, dtype=torch.float64),
        LogitTransform(),
        top_k=99,
    )
    assert set(found.tolist()) <= {1, 2}


# ---- metrics ----
def test_without_a_reference_there_are_no_metrics_of_log_ratios():
    policy = moved(tiny("Llama"), by=0.02)
    context = Context(objective=resolve("simpo", {}), reference=None)
    found = measured(stepped(policy, examples("pairs"), context, 64))
    assert set(found) == {
        "loss",
        "logps/chosen",
        "logps/rejected",
        "coefficient/chosen",
        "coefficient/rejected",
        "no_rejected_gradient",
    }


def test_metrics_of_labelled_responses_are_means_over_those_of_each_label():
    items = examples("labelled")
    base, policy = tiny("Llama"), moved(tiny("Llama"), by=0.02)
    context = Context(objective=resolve("kto", {}), reference=references(base, items, others=True))
    found = measured(stepped(policy, items, context, 64))
    ratios = plain_logps(oracle.stock_copy(policy), items)[0] - plain_logps(oracle.stock_copy(base), items)[0]
    desirable = torch.tensor([each.grades[0] > 0 for each in items])
    assert found["logratios/chosen"] == pytest.approx(ratios[desirable].mean().item(), rel=1e-3, abs=1e-4)
    assert found["logratios/rejected"] == pytest.approx(ratios[~desirable].mean().item(), rel=1e-3, abs=1e-4)
    assert "logratios/margin" not in found
    assert "rewards/accuracies" not in found
    only = [each for each in items if each.grades[0]]
    context = Context(objective=resolve("kto", {}), reference=references(base, only, others=True))
    assert "logratios/rejected" not in measured(stepped(policy, only, context, 64))


def test_the_shares_of_pairs_without_rejected_gradient_and_of_saturated_ones():
    items = examples("pairs")
    base, policy = tiny("Llama"), moved(tiny("Llama"), by=0.02)
    reference = references(base, items, others=False)
    ratios = plain_logps(oracle.stock_copy(policy), items)[0] - plain_logps(oracle.stock_copy(base), items)[0]
    chosen, rejected = ratios.view(-1, 2).unbind(1)
    for beta in (0.1, 20.0):
        context = Context(objective=resolve("minordpo", {"beta": beta}), reference=reference)
        found = measured(stepped(policy, items, context, 64))
        assert found["no_rejected_gradient"] == (rejected <= 0).double().mean().item()
        push = torch.sigmoid(-beta * (chosen - rejected.relu())) * (1 + (rejected > 0))
        assert found["saturated"] == pytest.approx((push <= 0.01 * 0.5).double().mean().item())
    assert found["saturated"] > 0  # at the high beta some are


def test_a_row_of_responses_says_what_each_did_in_the_order_of_the_source():
    items = examples("ranked")
    policy = moved(tiny("Llama"), by=0.02)
    context = Context(objective=resolve("rrhf", {}), reference=references(tiny("Llama"), items, others=False))
    records = stepped(policy, items, context, 64)
    rows = response_rows(records, [100 - i for i in range(len(items))])
    assert sorted(row["rows"] for row in rows) == [100 - i for i in reversed(range(len(items)))]
    for row in rows:
        item = items[100 - row["rows"]]
        assert row["tokens"] == [int(r.scored.sum()) for r in item.responses]
        plain = [logps.sum().item() for logps in oracle.scored_logps(oracle.stock_copy(policy), [item])]
        assert row["logps"] == pytest.approx(plain, abs=1e-3)
        assert len(row["logratios"]) == len(item.responses)
