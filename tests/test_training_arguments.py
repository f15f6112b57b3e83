"""Every TrainingArguments field is honoured, redefined or refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from transformers import TrainingArguments

from minordpo.errors import InputError
from minordpo.train import arguments as arguments_module
from minordpo.train.arguments import HONOURED, REDEFINED, REFUSED, own_copy
from tiny_runs import (
    RENAMED,
    arguments,
    token_pairs,
    trainer,
)

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
