"""What the trainer refuses before it starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from helpers.tiny_runs import RENAMED, chat_rows, metric_rows, tiny_model, token_pairs, trainer
from minordpo.errors import InputError
from minordpo.train import checks
from minordpo.train.checks import refuse_wrong_types

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def test_a_model_without_a_trainable_weight_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="every weight of the model is frozen; unfreeze some, or pass peft_config"
    ):
        trainer(tmp_path, model=tiny_model().requires_grad_(False))


def test_token_examples_with_other_rows_among_them_are_refused(tmp_path):
    with pytest.raises(InputError, match="row 3 of train_dataset is no TokenExample as the first is"):
        trainer(tmp_path, pairs=[*token_pairs(2), *chat_rows(2)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"eval_steps": 2},
            r"training.eval_steps is 2, but training.eval_strategy is no, so it would not be looked",
        ),
        (
            {"metric_for_best_model": "eval_rewards/accuracy"},
            r"metric_for_best_model is eval_rewards/accuracy, which is not measured \(did you mean rewards/accuracies",
        ),
        ({"token_budget": 0}, "token_budget is 0, but a row holds at least 1 token"),
        ({"pairs": 5}, "train_dataset is a int, but a Dataset or a list of rows is needed"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        trainer(tmp_path, eval_dataset=token_pairs(2), **settings)


def test_a_model_that_lacks_tokens_of_the_pairs_is_refused_in_python_too(tmp_path):
    with pytest.raises(InputError, match=r"knows 50 tokens, but the pairs have token \d+: .* Name a model"):
        trainer(tmp_path, model=tiny_model(vocab_size=50))
    with pytest.raises(InputError, match=r"knows 50 tokens, .* Name a reference"):
        trainer(tmp_path, ref_model=tiny_model(vocab_size=50))


def test_a_second_train_goes_on_from_where_the_first_ended(tmp_path):
    made = trainer(tmp_path)
    made.train()
    first = made.last_step.values["logratios/chosen"]
    made.train()  # the policy is away from its reference now, which is no mismatch
    assert made.last_step.step == 3
    assert "largest_logratio" not in made.last_step.values
    assert made.last_step.values["logratios/chosen"] != first


@pytest.mark.parametrize("kept", ["both", "metrics.jsonl", "responses.jsonl"])
def test_training_anew_over_the_steps_of_an_earlier_run_is_refused_before_anything_slow(
    tmp_path, monkeypatch, kept
):
    trainer(tmp_path).train()
    for name in {"metrics.jsonl", "responses.jsonl"} - {kept} if kept != "both" else ():
        (tmp_path / name).unlink()
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    made = trainer(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(made, "precompute_reference", None)
        with pytest.raises(
            InputError,
            match=rf"{'metrics.jsonl' if kept == 'both' else kept} holds the steps of an earlier run, and training "
            r"from step 0 would replace them. Name another output_dir, delete this one, or go on .*"
            r"resume_from_checkpoint=True",
        ):
            made.train()
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    for file in before:
        file.unlink()
    made.train()  # as it was told
    assert [row["step"] for row in metric_rows(tmp_path)] == [1, 2, 3]


def test_what_was_measured_before_training_is_in_nobodys_way(tmp_path):
    settings = {"eval_dataset": token_pairs(10)[8:]}
    trainer(tmp_path, **settings).evaluate()
    (tmp_path / "responses.jsonl").write_text('{"step": 1, "spl')  # cut short: no row
    made = trainer(tmp_path, **settings)
    made.evaluate()
    made.train()
    made.evaluate()
    assert [row["step"] for row in metric_rows(tmp_path)] == [0, 1, 2, 3, 3]


class Interrupt(TrainerCallback):
    """Ctrl-C in a notebook, after the second step of the first training."""

    stopped = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2 and not self.stopped:
            self.stopped = True
            raise KeyboardInterrupt


def test_a_second_train_writes_its_steps_in_place_of_the_first_ones(tmp_path):
    made = trainer(tmp_path)
    made.train()
    first = metric_rows(tmp_path)
    made.train()
    second = metric_rows(tmp_path)
    assert [row["step"] for row in second] == [row["step"] for row in first] == [1, 2, 3]
    assert first[0]["logratios/chosen"] == pytest.approx(0, abs=1e-4)
    assert abs(second[0]["logratios/chosen"]) > 1e-3  # from where the first one ended
    assert len((tmp_path / "responses.jsonl").read_text().splitlines()) == 3


def test_a_train_that_was_interrupted_can_be_begun_again_from_the_weights_as_they_are(tmp_path):
    interrupt = Interrupt()
    made = trainer(tmp_path, callbacks=[interrupt], ref_model=tiny_model())
    with pytest.raises(KeyboardInterrupt):
        made.train()
    assert interrupt.stopped
    made.train()
    rows = metric_rows(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["logratios/chosen"] != 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("path", None, "skip", None), "invalid is 'skip', but must be refuse or drop"),
        (("path", {"r": 4}, "drop", None), "peft_config is a dict, but a PeftConfig or None is needed"),
        ((5, None, "drop", None), "model is a int, but a PreTrainedModel or PeftModel or str is needed"),
    ],
)
def test_arguments_of_another_type_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        refuse_wrong_types(*given)


@pytest.mark.parametrize(("ratio", "said"), [(21.4, "takes 21 times as long as a float32 one"), (1.9, "")])
def test_a_processor_that_emulates_bfloat16_is_told_of(monkeypatch, capsys, tmp_path, ratio, said):
    seconds = {torch.float32: 0.001, torch.bfloat16: 0.001 * ratio}
    monkeypatch.setattr(checks, "_seconds_of_product", seconds.__getitem__)
    checks.tell_slow_bfloat16(TrainingArguments(str(tmp_path), bf16=True, use_cpu=True))
    told = capsys.readouterr().err
    assert (said in told) if said else not told


def test_float32_runs_measure_no_products(monkeypatch, tmp_path):
    monkeypatch.setattr(checks, "_seconds_of_product", lambda dtype: pytest.fail("measured"))
    checks.tell_slow_bfloat16(TrainingArguments(str(tmp_path), use_cpu=True))


def test_a_product_takes_time():
    assert 0 < checks._seconds_of_product(torch.float32) < 10
