"""Losses and coefficients beside TRL 1.16's own, on the same random log-probs of the same tokens.

TRL computes its losses inside its trainers. The trainers here are made without their constructors and given only what
their loss reads; the model is a stand-in that knows a log-prob for each token. The formulas are TRL's own code.
"""

from __future__ import annotations

import types
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor

from minordpo.objectives import Gradient, ResponseLogps, gradient, resolve

pytestmark = [
    pytest.mark.peer,
    # TRL's own notice that what lies in trl.experimental may change.
    pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'"),
]

VOCAB, PAIRS, LONGEST = 50, 6, 9


@pytest.fixture(scope="module", autouse=True)
def trl() -> Any:
    return pytest.importorskip("trl", minversion="1.16", reason="TRL 1.16 is not installed")


class Accelerator:
    """One process on the CPU."""

    device = torch.device("cpu")

    def gather(self, values: Any) -> Any:
        return values

    gather_for_metrics = gather


class Table(torch.nn.Module):
    """A model whose log-prob of a token is its own parameter, whatever stands before it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        drawn = torch.rand(VOCAB, generator=torch.Generator().manual_seed(seed))
        self.logps = torch.nn.Parameter(-4 * drawn - 0.01)

    def forward(self, input_ids: Tensor, labels: Tensor, **other: Any) -> Any:
        scored = labels[:, 1:] != -100
        log_probs = torch.where(scored, self.logps[input_ids[:, 1:]], 0.0)
        unread = torch.zeros_like(log_probs)
        return types.SimpleNamespace(
            log_probs=log_probs, entropy=unread, mean_logits=unread, is_top1=unread.bool()
        )


def bare(trainer: Any, **attributes: Any) -> Any:
    """A trainer without its constructor: what every loss reads, and these."""
    made = trainer.__new__(trainer)
    common = {
        "accelerator": Accelerator(),
        "model": Table(0).train(),
        "aux_loss_enabled": False,
        "beta": 0.3,
        "label_smoothing": 0.0,
        "precompute_ref_logps": True,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    for name, value in {**common, **attributes}.items():
        setattr(made, name, value)
    return made


def sequences(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Token ids and which are scored: a prompt of two tokens, then three to seven."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCAB, (count, LONGEST), generator=generator)
    ends = torch.randint(5, LONGEST + 1, (count, 1), generator=generator)
    places = torch.arange(LONGEST)
    return ids, ((places >= 2) & (places < ends)).long()


def sums(logps: Tensor, ids: Tensor, scored: Tensor) -> Tensor:
    return (logps[ids] * scored).sum(dim=1)


def ours(
    name: str,
    logps: Tensor,
    ref_logps: Tensor | None,
    tokens: Tensor,
    *,
    mismatched: Any = None,
    **hyper: Any,
) -> Gradient:
    """Ours on pairs, the chosen responses given first as TRL has them."""
    count = len(logps) // 2
    order = torch.arange(2 * count).view(2, count).T.flatten()
    result = gradient(
        resolve(name, hyper),
        ResponseLogps(
            logps[order].detach(),
            None if ref_logps is None else ref_logps[order],
            tokens[order],
            torch.arange(count).repeat_interleave(2),
            torch.tensor([1.0, 0.0]).repeat(count),
            mismatched,
        ),
    )
    back = torch.argsort(order)
    return Gradient(result.losses, result.sequences[back])


def assert_same(found: Gradient, loss: Tensor, logps: Tensor, table: Table) -> None:
    """The mean loss is TRL's, and so is its gradient, in the table and so in every log-prob."""
    torch.testing.assert_close(found.losses.mean(), loss.detach(), rtol=2e-6, atol=1e-7)
    (expected,) = torch.autograd.grad(loss, table.logps, retain_graph=True)
    (via_ours,) = torch.autograd.grad((logps * found.sequences).sum() / len(found.losses), table.logps)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(via_ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "loss_types", "hyper", "theirs"),
    [
        ("dpo", ["sigmoid"], {}, {}),
        ("hinge", ["hinge"], {}, {}),
        ("ipo", ["ipo"], {}, {}),
        ("robust", ["robust"], {"label_smoothing": 0.2}, {"label_smoothing": 0.2}),
        ("dpo_nll", ["sigmoid", "sft"], {"alpha": 0.7}, {"loss_weights": [1.0, 0.7]}),
    ],
)
def test_losses_with_a_reference_are_those_of_the_dpo_trainer(trl, name, loss_types, hyper, theirs):
    count = (
        1 if name == "dpo_nll" else PAIRS
    )  # TRL's NLL is a mean over a batch's tokens, ours over each pair's
    table, reference = Table(1), Table(2)
    ids, scored = sequences(2 * count, seed=3)
    with torch.no_grad():
        ref_logps = sums(reference.logps, ids, scored)
    given = {
        "loss_types": loss_types,
        "loss_weights": [1.0] * len(loss_types),
        "ld_alpha": None,
        "f_divergence_type": "reverse_kl",
        "use_weighting": False,
    }
    trainer = bare(trl.DPOTrainer, **{**given, **theirs})
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": scored,
        "ref_chosen_logps": ref_logps[:count],
        "ref_rejected_logps": ref_logps[count:],
    }
    loss = trainer._compute_loss(table, inputs, False)
    logps = sums(table.logps, ids, scored)
    found = ours(name, logps, ref_logps, scored.sum(dim=1), beta=0.3, **hyper)
    assert_same(found, loss, logps, table)


@pytest.mark.parametrize(
    "labels", [[1, 0, 0, 1, 1, 0], [1] * 6, [0] * 6], ids=["both", "desirable", "undesirable"]
)
@pytest.mark.parametrize("above", [True, False], ids=["baseline above 0", "baseline below 0"])
def test_kto_is_that_of_the_kto_trainer_in_one_micro_batch(trl, labels, above):
    table, reference = Table(4), Table(5)
    (ids, scored), (other_ids, other_scored) = sequences(6, seed=6), sequences(6, seed=7)
    if above:
        table, reference = reference, table
    with torch.no_grad():
        ref_logps, ref_others = (
            sums(reference.logps, ids, scored),
            sums(reference.logps, other_ids, other_scored),
        )
        mismatched = (sums(table.logps, other_ids, other_scored) - ref_others).mean()
    assert (mismatched > 0.1).item() == above
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.6}
    trainer = bare(trl.KTOTrainer, calculate_KL=True, loss_type="kto", **weights)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "completion_mask": scored,
        "KL_input_ids": other_ids,
        "KL_attention_mask": torch.ones_like(ids),
        "KL_completion_mask": other_scored,
        "label": torch.tensor(labels),
        "ref_logps": ref_logps,
        "ref_KL_logps": ref_others,
    }
    loss = trainer._compute_loss(table, inputs, False)
    logps = sums(table.logps, ids, scored)
    found = gradient(
        resolve("kto", {"beta": 0.3, **weights}),
        ResponseLogps(
            logps.detach(),
            ref_logps,
            scored.sum(dim=1),
            torch.arange(6),
            torch.tensor(labels).float(),
            mismatched,
        ),
    )
    assert trainer._metrics["train"]["kl"] == [pytest.approx(max(0.0, mismatched.item()), rel=1e-6)]
    assert_same(found, loss, logps, table)


@pytest.mark.parametrize(
    ("name", "loss_type", "hyper", "theirs", "per_token"),
    [
        ("simpo", "simpo", {"beta": 2.0, "gamma": 0.7}, {"beta": 2.0, "simpo_gamma": 0.7}, True),
        ("slic", "hinge", {"delta": 1.0}, {"beta": 1.0}, False),
        ("hinge", "hinge", {"beta": 0.3}, {}, False),
        ("cdpo", "sigmoid", {"beta": 0.3, "label_smoothing": 0.2}, {"label_smoothing": 0.2}, False),
    ],
)
def test_losses_without_a_reference_are_those_of_the_cpo_trainer(name, loss_type, hyper, theirs, per_token):
    """Ours that have a reference get one that finds every response sure, as CPO leaves it out."""
    from trl.experimental.cpo import CPOTrainer

    trainer = bare(CPOTrainer, **{"loss_type": loss_type, "alpha": 0.0, "simpo_gamma": 0.0, **theirs})
    table = Table(8)
    ids, scored = sequences(2 * PAIRS, seed=9)
    logps, tokens = sums(table.logps, ids, scored), scored.sum(dim=1)
    losses, _, _ = trainer.cpo_loss(*(logps / tokens if per_token else logps).chunk(2))
    found = ours(name, logps, torch.zeros(2 * PAIRS), tokens, **hyper)
    torch.testing.assert_close(found.losses, losses.detach(), rtol=2e-6, atol=1e-6)
    assert_same(found, losses.mean(), logps, table)


def test_the_odds_term_of_orpo_is_that_of_the_orpo_trainer():
    from trl.experimental.orpo import ORPOTrainer

    table = Table(10)
    ids, scored = sequences(2 * PAIRS, seed=11)
    logps, tokens = sums(table.logps, ids, scored), scored.sum(dim=1)
    chosen, rejected = (logps / tokens).chunk(2)
    odds_term = bare(ORPOTrainer).odds_ratio_loss(chosen, rejected)[0]
    found = ours("orpo", logps, None, tokens, orpo_lambda=0.3)
    # TRL's own NLL includes the prompt; ours is of the response
    assert_same(found, (-odds_term - chosen).mean(), logps, table)
    torch.testing.assert_close(found.losses + chosen.detach(), -odds_term.detach(), rtol=1e-5, atol=1e-6)
