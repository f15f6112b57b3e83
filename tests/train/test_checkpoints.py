"""What a checkpoint that cannot be gone on from is told."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers.tiny_runs import RENAMED, trainer
from minordpo.errors import InputError

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

SETTINGS = {"save_strategy": "steps", "save_steps": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of three steps."""
    folder = tmp_path_factory.mktemp("trained")
    trainer(folder, **SETTINGS).train()
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """The same, after two of three steps."""
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-3")
    return tmp_path / "run"


WHOLE = [
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "config.json",
    "training_args.bin",
]


@pytest.mark.parametrize("name", WHOLE)
def test_a_checkpoint_with_a_file_cut_off_is_refused_by_the_file(copied, name):
    file = copied / "checkpoint-2" / name
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(
        InputError, match=rf"checkpoint-2/{name} is damaged \(.* Remove .*checkpoint-2; --resume"
    ):
        trainer(copied, **SETTINGS).train(resume_from_checkpoint=True)
    shutil.rmtree(copied / "checkpoint-2")
    again = trainer(copied, **SETTINGS)
    again.train(resume_from_checkpoint=True)  # as it was told
    assert again.state.global_step == 3


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt"])
def test_a_checkpoint_without_the_optimizers_state_is_refused_and_not_begun_anew(copied, name):
    (copied / "checkpoint-2" / name).unlink()
    with pytest.raises(InputError, match=rf"checkpoint-2 lacks {name}, as after training.save_only_model"):
        trainer(copied, **SETTINGS).train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("FULL_STATE_DICT", r"pytorch_model_fsdp\.bin and optimizer\.bin"),
        ("SHARDED_STATE_DICT", "pytorch_model_fsdp_0 and optimizer_0"),
    ],
)
def test_under_fsdp_a_checkpoint_without_its_files_is_refused(copied, monkeypatch, kind, said):
    made = trainer(copied, **SETTINGS)
    made.is_fsdp_enabled = True
    plugin = SimpleNamespace(state_dict_type=kind)
    monkeypatch.setattr(made.accelerator.state, "fsdp_plugin", plugin, raising=False)
    with pytest.raises(InputError, match=rf"checkpoint-2 lacks {said}, as after training.save_only_model"):
        made.find_checkpoint(True)


def test_at_the_last_step_no_optimizer_is_needed(tmp_path):
    settings = {**SETTINGS, "save_only_model": True}
    trainer(tmp_path, **settings).train()
    again = trainer(tmp_path, **settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [("trainer_state.json", "lacks trainer_state.json"), ("model.safetensors", "holds no weights")],
)
def test_a_checkpoint_without_a_file_is_refused(copied, name, said):
    (copied / "checkpoint-2" / name).unlink()
    with pytest.raises(InputError, match=rf"checkpoint-2 {said}. Remove it; --resume then goes on"):
        trainer(copied, **SETTINGS).train(resume_from_checkpoint=True)
