"""PreferenceTrainer as its users call it: data layouts, objectives, evaluation and metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback

from helpers import oracle
from helpers.tiny_runs import (
    RENAMED,
    chat_rows,
    gradient_error,
    gradients,
    logits,
    metric_rows,
    moved,
    text_rows,
    tiny_model,
    token_pairs,
    trainer,
    weights,
)
from minordpo.engine.reference_cache import ReferenceCache
from minordpo.errors import InputError

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


@pytest.mark.parametrize("layout", ["chat", "text", "implicit chat", "implicit text"])
def test_trl_layouts_train_as_a_dataset_or_a_list(tmp_path, layout):
    rows: list[dict[str, Any]] = chat_rows(6) if layout.endswith("chat") else text_rows(6)
    if layout.startswith("implicit"):
        rows = [{"chosen": r["prompt"] + r["chosen"], "rejected": r["prompt"] + r["rejected"]} for r in rows]
    found = {}
    for name, data in (("dataset", Dataset.from_list(rows)), ("list", rows)):
        trainer(tmp_path / name, pairs=data).train()
        found[name] = metric_rows(tmp_path / name)
    assert found["dataset"] == found["list"]
    assert [row["step"] for row in found["list"]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("objective", "hyper"),
    [("dpo", {"beta": 0.5}), ("minordpo", {"beta": 0.5}), ("dpop", {"beta": 0.2, "dpop_lambda": 2.0})],
)
def test_training_lowers_the_loss_and_prefers_the_chosen_responses(tmp_path, objective, hyper):
    settings = {"max_steps": 25, "per_device_train_batch_size": 8, "lr_scheduler_type": "constant"}
    made = trainer(tmp_path, objective=objective, learning_rate=3e-3, **hyper, **settings)
    made.train()
    rows = metric_rows(tmp_path)
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert rows[0]["largest_logratio"] < 1e-4
    assert rows[-1]["loss"] < 0.3
    assert rows[-1]["rewards/accuracies"] == 1
    assert rows[-1]["logratios/margin"] > 2
    assert rows[-1]["rewards/margins"] == pytest.approx(hyper["beta"] * rows[-1]["logratios/margin"])
    assert all("largest_logratio" not in row for row in rows[1:])


def test_one_step_of_plain_descent_is_that_of_the_oracle(tmp_path):
    pairs, rate = token_pairs(5), 0.1
    for name, hyper in (("dpo", {"beta": 0.1}), ("dpop", {"beta": 0.05, "dpop_lambda": 5.0})):
        model = tiny_model()
        plain, stock = oracle.stock_copy(moved(tiny_model(), by=0.03)), oracle.stock_copy(model)
        oracle.pair_losses(getattr(oracle, name), plain, stock, pairs, **hyper).mean().backward()
        policy = moved(tiny_model(), by=0.03)
        before = weights(policy)
        settings = {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "max_steps": 1}
        made = trainer(
            tmp_path / name,
            model=policy,
            ref_model=model,
            pairs=pairs,
            objective=name,
            learning_rate=rate,
            per_device_train_batch_size=5,
            **settings,
            **hyper,
        )
        made.train()
        found = {n: (before[n] - after) / rate for n, after in weights(policy).items()}
        assert gradient_error(found, gradients(plain)) < 1e-4


def test_another_reference_model_is_the_reference(tmp_path):
    model, other, pairs = tiny_model(), moved(tiny_model(), by=0.05), token_pairs(4)
    trainer(tmp_path, model=model, ref_model=other, pairs=pairs, max_steps=1, objective="dpo").train()
    sums = [
        torch.stack([each.sum() for each in oracle.scored_logps(oracle.stock_copy(m), pairs)]).view(-1, 2)
        for m in (tiny_model(), other)
    ]
    (row,) = metric_rows(tmp_path)
    chosen, rejected = (sums[0] - sums[1]).mean(dim=0).tolist()
    assert row["logratios/chosen"] == pytest.approx(chosen, abs=1e-3)
    assert row["logratios/rejected"] == pytest.approx(rejected, abs=1e-3)
    assert abs(chosen) > 0.1


def test_batch_size_times_accumulation_are_the_pairs_of_a_step(tmp_path):
    found = []
    for size, accumulation in ((4, 1), (2, 2), (1, 4)):
        folder = tmp_path / f"{size}"
        trainer(folder, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation).train()
        found.append(metric_rows(folder))
    assert found[0] == found[1] == found[2]
    assert [row["epoch"] for row in found[0]] == [0.5, 1.0, 1.5]


def test_how_rows_are_cut_changes_the_run_by_rounding_only(tmp_path):
    found = {}
    for budget in (1, 80, 4096):
        made = trainer(tmp_path / str(budget), token_budget=budget, pairs=token_pairs(8))
        made.train()
        found[budget] = (made.model, metric_rows(tmp_path / str(budget)))
    for row in (row for _, rows in found.values() for row in rows):
        del row["padded_tokens"]  # it is counted row by row
    for model, rows in found.values():
        torch.testing.assert_close(logits(model), logits(found[1][0]), rtol=0, atol=1e-3)
        for row, expected in zip(rows, found[1][1], strict=True):
            assert row == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_same_run_twice_gives_the_same_bits(tmp_path):
    runs = [trainer(tmp_path / str(i), objective="dpo", max_steps=5) for i in range(2)]
    for run in runs:
        run.train()
    one, two = (weights(run.model) for run in runs)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert metric_rows(tmp_path / "0") == metric_rows(tmp_path / "1")


def test_loader_workers_change_nothing(tmp_path):
    for workers in (0, 1):
        trainer(tmp_path / str(workers), dataloader_num_workers=workers).train()
    assert metric_rows(tmp_path / "0") == metric_rows(tmp_path / "1")


def test_a_reference_cache_is_shared_by_runs_of_other_objectives(tmp_path, monkeypatch):
    trainer(
        tmp_path / "a", cache=tmp_path / "cache", objective="dpo", num_train_epochs=1, max_steps=-1
    ).train()
    monkeypatch.setattr(ReferenceCache, "add", None)  # computing one more would fail
    trainer(tmp_path / "b", cache=tmp_path / "cache", objective="minordpo", seed=7, max_steps=2).train()
    assert len(metric_rows(tmp_path / "b")) == 2


# ---- evaluation and metrics ----
def test_evaluation_counts_each_held_out_pair_once_and_equals_the_oracle(tmp_path):
    held_out = token_pairs(15)[8:]
    policy, base = moved(tiny_model(), by=0.03), tiny_model()
    made = trainer(
        tmp_path,
        model=policy,
        ref_model=base,
        eval_dataset=held_out,
        objective="dpo",
        beta=0.3,
        token_budget=70,
    )
    found = made.evaluate()
    stock = [oracle.stock_copy(m) for m in (policy, base)]
    losses = oracle.pair_losses(oracle.dpo, *stock, held_out, beta=0.3)
    sums = [torch.stack([x.sum() for x in oracle.scored_logps(m, held_out)]).view(-1, 2) for m in stock]
    ratios = sums[0] - sums[1]
    assert found["eval_loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    assert found["eval_logratios/chosen"] == pytest.approx(ratios[:, 0].mean().item(), abs=1e-3)
    assert found["eval_rewards/margins"] == pytest.approx(
        0.3 * (ratios[:, 0] - ratios[:, 1]).mean().item(), abs=1e-3
    )
    assert found["eval_rewards/accuracies"] == pytest.approx(
        (ratios[:, 0] > ratios[:, 1]).double().mean().item()
    )
    assert metric_rows(tmp_path) == [{"step": 0, **found}]
    assert made.evaluate() == found
    assert len(metric_rows(tmp_path)) == 1  # the same measurement again takes the place of the first


def test_evaluation_during_training_leaves_training_as_it_was(tmp_path):
    settings = {"objective": "dpo", "max_steps": 4}
    trainer(tmp_path / "plain", **settings).train()
    made = trainer(
        tmp_path / "evaluated",
        eval_dataset=token_pairs(11)[8:],
        eval_strategy="steps",
        eval_steps=2,
        eval_on_start=True,
        **settings,
    )
    made.train()
    rows = metric_rows(tmp_path / "evaluated")
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 2, 4]
    assert [row for row in rows if "loss" in row] == metric_rows(tmp_path / "plain")
    assert made.evaluated_now()


def test_evaluation_of_what_was_not_given_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"there are no held-out pairs; set data\.eval"):
        trainer(tmp_path).evaluate()
    with pytest.raises(InputError, match=r"evaluate\(\) measures the eval_dataset given at the start"):
        trainer(tmp_path, eval_dataset=token_pairs(2)).evaluate(token_pairs(3))
    with pytest.raises(
        InputError, match=r"eval_strategy is steps, but there are no held-out pairs. Set data.eval"
    ):
        trainer(tmp_path, eval_strategy="steps", eval_steps=1)


def test_the_rate_warms_up_and_decays_linearly(tmp_path):
    trainer(tmp_path, max_steps=6, warmup_steps=2, learning_rate=1e-3, lr_scheduler_type="linear").train()
    expected = [0.0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4]
    assert [row["learning_rate"] for row in metric_rows(tmp_path)] == pytest.approx(expected)


def test_gradients_are_clipped_to_the_norm_and_the_norm_before_is_logged(tmp_path):
    settings = {
        "optim": "sgd",
        "learning_rate": 1.0,
        "lr_scheduler_type": "constant",
        "max_steps": 1,
        "beta": 1.0,
    }
    made = trainer(tmp_path, max_grad_norm=0.01, **settings)
    before = weights(made.model)
    made.train()
    moved_by = torch.sqrt(sum(((weights(made.model)[n] - w) ** 2).sum() for n, w in before.items()))
    assert moved_by.item() == pytest.approx(0.01, rel=1e-3)
    assert metric_rows(tmp_path)[0]["grad_norm"] > 0.1


def test_a_tracker_receives_the_metrics(tmp_path):
    class Tracker(TrainerCallback):
        def __init__(self) -> None:
            self.logs: list[dict[str, float]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.logs.append(dict(logs))

    tracker = Tracker()
    made = trainer(
        tmp_path,
        callbacks=[tracker],
        logging_steps=2,
        max_steps=4,
        eval_dataset=token_pairs(2),
        eval_strategy="steps",
        eval_steps=4,
    )
    made.train()
    rows = [row for row in metric_rows(tmp_path) if "loss" in row]
    training = [logs for logs in tracker.logs if "logratios/chosen" in logs]
    assert len(training) == 2
    for logs, (one, two) in zip(training, (rows[:2], rows[2:]), strict=True):
        for name in ("loss", "logratios/chosen", "rewards/margins", "coefficient/chosen", "logps/rejected"):
            assert logs[name] == pytest.approx((one[name] + two[name]) / 2, abs=1e-6)
        assert {"grad_norm", "learning_rate"} <= logs.keys()
    assert any("eval_logratios/chosen" in logs for logs in tracker.logs)


def test_tokens_are_counted_as_computed_and_as_padding_would_cost(tmp_path):
    pairs = token_pairs(4)
    trainer(tmp_path, pairs=pairs, max_steps=1, token_budget=1).train()
    (row,) = metric_rows(tmp_path)
    lengths = [[len(p.prompt_ids) + len(r.ids) for r in p.responses] for p in pairs]
    assert row["padded_tokens"] == sum(2 * max(each) for each in lengths)
    assert 0 < row["tokens"] < row["padded_tokens"]
