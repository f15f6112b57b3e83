"""Sharding that would fail late, train whole weights or run in another precision is refused at the start."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate import Accelerator
from accelerate.utils import DistributedType

from helpers.tiny_runs import RENAMED, arguments, trainer
from minordpo.errors import InputError
from minordpo.train import sharding
from minordpo.train.sharding import refuse_sharding, set_up_sharding

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]


def test_fsdp1_is_refused(tmp_path, monkeypatch):
    made = trainer(tmp_path)
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.FSDP))
    monkeypatch.setattr(made.accelerator.state, "fsdp_plugin", SimpleNamespace(fsdp_version=1), raising=False)
    with pytest.raises(
        InputError, match=r"sharded by FSDP1, but only FSDP2 .* training\.fsdp_config=\{version: 2\}"
    ):
        set_up_sharding(made.args, made.accelerator)


def test_fsdp_that_would_train_whole_weights_is_refused(tmp_path):
    made = trainer(tmp_path)
    made.args.fsdp = True
    with pytest.raises(
        InputError, match=r"accelerate shards no weights on the device cpu: .* leave training\.fsdp out"
    ):
        set_up_sharding(made.args, made.accelerator)


@pytest.mark.parametrize(
    ("settings", "fsdp", "said"),
    [
        (
            {"save_only_model": True, "load_best_model_at_end": True},
            {},
            r"training\.save_only_model keeps no weights that training\.load_best_model_at_end could load",
        ),
        (
            {"save_only_model": True},
            {"state_dict_type": "SHARDED_STATE_DICT"},
            r"training\.save_only_model writes no weights where training\.fsdp_config\.state_dict_type is SHARDED",
        ),
        (
            {"gradient_checkpointing": True, "activation_checkpointing": True},
            {"activation_checkpointing": True},
            r"training\.gradient_checkpointing and training\.fsdp_config\.activation_checkpointing are both set",
        ),
    ],
)
def test_settings_that_the_trainer_would_fail_on_under_fsdp_are_refused(tmp_path, settings, fsdp, said):
    args = arguments(tmp_path)
    for name, value in {**settings, "fsdp": True, "fsdp_config": fsdp}.items():
        setattr(args, name, value)
    with pytest.raises(InputError, match=said):
        refuse_sharding(args, own_optimizer=False)
    args.fsdp = None
    refuse_sharding(args, own_optimizer=True)


def test_an_optimizer_of_the_users_is_refused_under_fsdp(tmp_path):
    args = arguments(tmp_path)
    args.fsdp = True
    refuse_sharding(args, own_optimizer=False)
    with pytest.raises(InputError, match=r"optimizers are passed, but under training\.fsdp"):
        refuse_sharding(args, own_optimizer=True)


def test_ranks_that_load_empty_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # as accelerate launch has it
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    with pytest.raises(
        InputError, match=r"cpu_ram_efficient_loading, which leaves the weights of all ranks but one"
    ):
        trainer(tmp_path)


def test_what_deepspeed_would_do_to_the_weights_is_refused(tmp_path, monkeypatch):
    args = arguments(tmp_path)
    args.deepspeed = {"zero_optimization": {"stage": 2}}
    refuse_sharding(args, own_optimizer=False)
    args.bf16 = True
    with pytest.raises(
        InputError, match=r"training\.bf16 is set with DeepSpeed, .* Shard by training\.fsdp=true instead"
    ):
        refuse_sharding(args, own_optimizer=False)
    monkeypatch.setattr(sharding, "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(InputError, match=r"asked for ZeRO-3, .* Shard by training\.fsdp=true instead"):
        refuse_sharding(args, own_optimizer=False)


def test_zero3_of_accelerate_launch_is_refused(tmp_path, monkeypatch):
    args = arguments(tmp_path)  # which looks for an installed DeepSpeed
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(InputError, match="asked for ZeRO-3"):
        refuse_sharding(args, own_optimizer=False)
