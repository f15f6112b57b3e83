"""Every TrainingArguments field is honoured, redefined or refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from transformers import TrainingArguments

from helpers.tiny_runs import (
    RENAMED,
    arguments,
    token_pairs,
    trainer,
)
from minordpo.errors import InputError
from minordpo.train import arguments as arguments_module
from minordpo.train.arguments import HONOURED, REDEFINED, REFUSED, own_copy

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def test_every_training_argument_is_honoured_redefined_or_refused():
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    listed = [*HONOURED, *REDEFINED, *REFUSED]
    assert len(listed) == len(set(listed))
    assert names - set(listed) == set(), "say of each in train/arguments.py what becomes of it"
    # a name that no transformers has is a slip; older and newer ones may lack or have a few
    assert set(listed) - names == set()


def other_value(name: str, default: Any) -> Any:
    """Some value that is not the default."""
    special = {"accelerator_config": {"split_batches": True}, "fp16": True}
    if name in special:
        return special[name]
    return {bool: not default, int: 3, float: 0.5, str: "other"}.get(type(default), "other")


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_refused_training_argument_is_refused_by_name(tmp_path, name):
    # Set on the object: what TrainingArguments itself makes of an odd value is not the question here.
    args = arguments(tmp_path)
    setattr(args, name, other_value(name, getattr(args, name)))
    with pytest.raises(InputError, match=rf"training\.{name} is not supported: .*\. Leave it out$"):
        own_copy(args)
    own_copy(arguments(tmp_path))


def test_what_training_arguments_sets_by_itself_is_not_refused(tmp_path):
    own, _ = own_copy(arguments(tmp_path, eval_strategy="steps", eval_steps=1))
    assert own.do_eval
    with pytest.raises(InputError, match=r"training\.do_eval is not supported: set data\.eval"):
        own_copy(arguments(tmp_path, do_eval=True))


def test_the_users_arguments_are_left_as_they_were(tmp_path):
    args = arguments(tmp_path, gradient_accumulation_steps=3, per_device_train_batch_size=2)
    own, pairs = own_copy(args)
    assert pairs == 6
    assert (args.gradient_accumulation_steps, args.per_device_train_batch_size) == (3, 2)
    assert (own.gradient_accumulation_steps, own.per_device_train_batch_size) == (1, 6)
    assert not own.logging_nan_inf_filter
    assert not own.remove_unused_columns


def test_values_without_a_meaning_here_are_refused(tmp_path):
    with pytest.raises(InputError, match="a step of 0 pairs trains nothing"):
        own_copy(arguments(tmp_path, per_device_train_batch_size=0))
    with pytest.raises(
        InputError, match="train_sampling_strategy is 'group_by_length'; use random or sequential"
    ):
        own_copy(arguments(tmp_path, train_sampling_strategy="group_by_length"))


def test_another_trainers_arguments_are_refused(tmp_path):
    @dataclasses.dataclass
    class TheirConfig(TrainingArguments):
        beta: float = 0.5

    with pytest.raises(InputError, match="args is a TheirConfig, whose beta … mean nothing here"):
        own_copy(TheirConfig(output_dir=str(tmp_path), use_cpu=True))


def test_sequential_sampling_keeps_the_files_order(tmp_path, monkeypatch):
    made = trainer(tmp_path, train_sampling_strategy="sequential", pairs=token_pairs(8))
    assert list(made.sampler) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    other = trainer(tmp_path, data_seed=5, seed=1)
    same = trainer(tmp_path, data_seed=5, seed=2)
    assert list(other.sampler) == list(same.sampler) != list(trainer(tmp_path, seed=1).sampler)


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(
        InputError, match=r"2 GPUs are visible to one process\. Start one process a GPU with torchrun"
    ):
        trainer(tmp_path)


def test_the_defaults_compared_with_are_those_of_the_installed_version():
    assert arguments_module._defaults()["label_smoothing_factor"] == 0.0


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"seed": -1}, r"training.seed is -1, but 0 or more and 4294967295 at most"),
        ({"seed": 2**32}, r"training.seed is 4294967296, but"),
        ({"data_seed": -1}, r"training.data_seed is -1, but 0 or more is needed"),
        ({"dataloader_num_workers": -1}, r"training.dataloader_num_workers is -1"),
        ({"learning_rate": -1e-5}, r"training.learning_rate is -1e-05"),
        ({"learning_rate": float("inf")}, r"training.learning_rate is inf"),
        ({"max_steps": 0}, r"training.max_steps is 0, but 1 or more is needed, or -1"),
        ({"max_steps": -1, "num_train_epochs": 0}, r"training.num_train_epochs is 0, which trains nothing"),
        ({"save_strategy": "best"}, r"Set training.metric_for_best_model"),
        (
            {"report_to": "nonsense"},
            r"training.report_to names nonsense, which is not installed or not known",
        ),
        (
            {"adam_beta1": 2.0},
            r"training.optim=adamw_.* cannot be built: Invalid beta parameter at index 0: 2.0",
        ),
        ({"adam_epsilon": -1.0}, r"cannot be built: Invalid epsilon value: -1.0"),
        ({"optim_args": "foo"}, r"cannot be built: not enough values"),
        ({"lr_scheduler_kwargs": {"a": 1}}, r"cannot be built: .*unexpected keyword argument 'a'"),
        ({"optim": "galore_adamw"}, r"training.optim=galore_adamw .*install"),
    ],
)
def test_values_that_the_trainer_would_fail_on_are_refused_before_it_starts(tmp_path, setting, said):
    with pytest.raises(InputError, match=said):
        own_copy(arguments(tmp_path, **setting))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "inverse_sqrt", "cosine_with_restarts"])
@pytest.mark.parametrize("optimizer", ["adamw_torch", "sgd", "adafactor", "rmsprop", "lion_32bit"])
def test_optimizers_and_schedules_that_are_there_are_not_refused(tmp_path, schedule, optimizer):
    if optimizer == "lion_32bit":
        pytest.importorskip("bitsandbytes")
    own_copy(arguments(tmp_path, lr_scheduler_type=schedule, optim=optimizer, warmup_steps=0.1))
