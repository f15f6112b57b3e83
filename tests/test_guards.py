"""What the trainer refuses before it starts."""

from __future__ import annotations

import pytest

from minordpo.errors import InputError
from minordpo.train.guards import refuse_wrong_types
from minordpo.train.metrics import MetricsFile
from tiny_runs import chat_rows, tiny_model, token_pairs, trainer


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
    first = made.last_metrics["logratios/chosen"]
    made.train()  # the policy is away from its reference now, which is no mismatch
    assert made.last_metrics["step"] == 3
    assert "largest_logratio" not in made.last_metrics
    assert made.last_metrics["logratios/chosen"] != first


def test_a_broken_row_of_metrics_is_named_and_lost_steps_are_said(tmp_path, capsys):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1, "loss": 0.5})
    file.append({"step": 3, "loss": 0.5})
    assert file.missing(3) == [2]
    text = file.path.read_text()
    file.path.write_text("[1]\n" + text)
    with pytest.raises(InputError, match=r"line 1 of .*metrics.jsonl is no row of a step. Take the line out"):
        file.cut_back(3)
    assert file.path.read_text() == "[1]\n" + text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("path", None, "skip"), "invalid is 'skip', but must be refuse or drop"),
        (("path", {"r": 4}, "drop"), "peft_config is a dict, but a PeftConfig or None is needed"),
        ((5, None, "drop"), "model is a int, but a PreTrainedModel or PeftModel or str is needed"),
    ],
)
def test_arguments_of_another_type_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        refuse_wrong_types(*given)
