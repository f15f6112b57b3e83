"""Beside TRL 1.16's DPOTrainer: the same rows, the same policy away from its reference, one forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset

from helpers.tiny_runs import RENAMED, chat_rows, gradients, moved, text_rows, tiny_model, tokenizer
from minordpo.data.read.examples import examples_from_rows
from minordpo.data.tokens import TokenOptions, tokenize_examples
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.logprobs import install
from minordpo.engine.reference import reference_logps
from minordpo.engine.reference_cache import ReferenceCache
from minordpo.objectives import PairLogps, resolve
from minordpo.objectives.pairwise import dpo
from minordpo.train.loader import Packer
from minordpo.train.step import Context, preference_step

pytestmark = [
    pytest.mark.peer,
    *(pytest.mark.filterwarnings(each) for each in RENAMED),
    # TRL's own: it imports and calls what newer versions of its dependencies rename.
    pytest.mark.filterwarnings("ignore::FutureWarning:trl"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:trl"),
]

BETA = 0.1


@pytest.fixture(scope="module")
def trl() -> Any:
    return pytest.importorskip("trl", minversion="1.16", reason="TRL 1.16 is not installed")


def models() -> tuple[Any, Any]:
    """A reference, and a policy some 5 nats a response away from it."""
    return tiny_model(num_hidden_layers=3), moved(tiny_model(num_hidden_layers=3), by=0.06)


def theirs(
    trl: Any, rows: list[dict[str, Any]], folder: Any, **settings: Any
) -> tuple[Any, Any, dict[str, Any]]:
    """TRL's trainer after one backward pass, the loss and the batch, with its metrics."""
    reference, policy = models()
    config = trl.DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        per_device_train_batch_size=len(rows),
        max_length=None,
        use_cpu=True,
        report_to="none",
        bf16=False,
        disable_dropout=True,
        **settings,
    )
    made = trl.DPOTrainer(
        policy,
        ref_model=reference,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    batch = made.data_collator([made.train_dataset[i] for i in range(len(rows))])
    policy.train()
    loss = made.compute_loss(policy, batch)
    loss.backward()
    return policy, loss.item(), {name: values[-1] for name, values in made._metrics["train"].items()}


def ours(rows: list[dict[str, Any]]) -> tuple[Any, PairLogps, float]:
    """Our policy after one step's backward pass, what its pairs did, and their mean loss."""
    reference, policy = models()
    loaded = examples_from_rows(rows, source="rows").examples
    pairs = tokenize_examples(loaded, tokenizer(), options=TokenOptions(max_length=None))
    for model in (reference, policy):
        install(model)
    with attention_switched(reference, NAME):
        ref = reference_logps(reference, pairs, ReferenceCache(None, ""), token_budget=1)
    step = Packer(1 << 40)(list(enumerate(pairs)))
    with attention_switched(policy, NAME):
        (record,) = preference_step(
            policy.train(),
            step,
            Context(objective=resolve("dpo", {"beta": BETA}), reference=ref),
            scale=1.0,
            backward=torch.Tensor.backward,
            around_row=lambda last: torch.enable_grad(),
        )
    return policy, record.logps.pairs(), record.gradient.losses.mean().item()


@pytest.mark.parametrize("layout", ["chat", "text"])
def test_log_probs_loss_and_gradients_are_trls(trl, tmp_path, layout):
    rows: list[dict[str, Any]] = chat_rows(6) if layout == "chat" else text_rows(6)
    peer, loss, metrics = theirs(trl, rows, tmp_path)
    policy, logps, mean_loss = ours(rows)
    ratios = torch.stack([logps.chosen_logratios, logps.rejected_logratios])
    assert 2 < ratios.abs().mean() < 20, ratios  # far enough from the reference for the test to say something
    assert mean_loss == pytest.approx(loss, rel=1e-5)
    assert logps.chosen_logps.mean().item() == pytest.approx(metrics["logps/chosen"], rel=1e-5)
    assert logps.rejected_logps.mean().item() == pytest.approx(metrics["logps/rejected"], rel=1e-5)
    assert BETA * ratios[0].mean().item() == pytest.approx(metrics["rewards/chosen"], rel=1e-4)
    assert BETA * ratios[1].mean().item() == pytest.approx(metrics["rewards/rejected"], rel=1e-4)
    found, expected = gradients(policy), gradients(peer)
    assert found.keys() == expected.keys()
    scale = max(each.abs().max() for each in expected.values())
    for name, wanted in expected.items():
        if wanted.abs().max() < 1e-5 * scale:  # keys' biases: their gradient is rounding
            assert found[name].abs().max() < 1e-5 * scale
            continue
        cosine = torch.cosine_similarity(found[name].flatten().double(), wanted.flatten().double(), dim=0)
        assert cosine > 0.9999, name
        assert found[name].norm().item() == pytest.approx(wanted.norm().item(), rel=1e-4)


def test_log_probs_of_each_pair_are_trls(trl, tmp_path):
    rows = chat_rows(5)
    _, logps, _ = ours(rows)
    for number, row in enumerate(rows):
        _, loss, metrics = theirs(trl, [row], tmp_path / str(number))
        assert logps.chosen_logps[number].item() == pytest.approx(metrics["logps/chosen"], abs=2e-4)
        assert logps.rejected_logps[number].item() == pytest.approx(metrics["logps/rejected"], abs=2e-4)
        one = PairLogps(*(getattr(logps, name)[number : number + 1] for name in logps.__dataclass_fields__))
        assert dpo(one, beta=BETA).item() == pytest.approx(loss, rel=1e-4)
