"""Configs of LLaMA-Factory and TRL: recognised, and each of their keys sent to its place here."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig
from transformers import TrainingArguments

from helpers.places import ROOT
from minordpo.cli import main
from minordpo.config import describe_keys, load_config
from minordpo.config.foreign import tools
from minordpo.errors import InputError
from minordpo.objectives import OBJECTIVES

# As the tool's own examples of preference training are laid out.
LLAMA_FACTORY_YAML = """
model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
stage: dpo
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all
pref_beta: 0.1
pref_loss: sigmoid
dataset: dpo_en_demo
template: qwen
cutoff_len: 2048
output_dir: saves/dpo
plot_loss: true
learning_rate: 5.0e-6
warmup_ratio: 0.1
bf16: true
quantization_bit: 4
"""
TRL_YAML = """
model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
dataset_name: trl-lib/ultrafeedback_binarized
beta: 0.1
loss_type: [sigmoid, sft]
max_length: 1024
use_peft: true
lora_r: 32
padding_free: true
output_dir: dpo
learning_rate: 5.0e-6
f_divergence_type: js_divergence
"""


def refusal(folder: Path, text: str, *overrides: str) -> str:
    file = folder / "theirs.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"theirs\.yaml is a config of (LLaMA-Factory|TRL), but") as caught:
        load_config(file, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            LLAMA_FACTORY_YAML,
            [
                "is a config of LLaMA-Factory, but minordpo's keys stand in sections: model_name_or_path → model.path",
                "finetuning_type → the section lora (full: none), lora_rank → lora.r, lora_target → lora.targ",
                "pref_beta → objective.beta, pref_loss → objective.name (sigmoid is dpo), dataset → data.train (the",
                "cutoff_len → data.max_length, output_dir → output, warmup_ratio → training.warmup_steps",
                "as they are, in the section training: learning_rate, bf16;",
                "to be left out: stage (objective.name says it), do_train (",
                "without a place here: quantization_bit. Write a config of these keys; recipes/llamafactory-chat",
            ],
        ),
        (
            TRL_YAML,
            [
                "is a config of TRL, but minordpo's keys stand in sections: model_name_or_path → model.path, "
                "dataset_name → data.train, beta → objective.beta, loss_type → objective.name (sigmoid is dpo, ",
                "lora_r → lora.r, output_dir → output; as they are, in the section training: learning_rate; ",
                "to be left out: padding_free (nothing is padded); without a place here: f_divergence_type. Write",
            ],
        ),
    ],
    ids=["llama-factory", "trl"],
)
def test_a_config_of_another_tool_is_told_key_by_key_what_it_is_called_here(tmp_path, capsys, text, said):
    found = refusal(tmp_path, text)
    for each in said:
        assert each in found
    assert all(key in found for key in yaml.safe_load(text))
    assert main(["train", str(tmp_path / "theirs.yaml"), "output=x"]) == 2
    assert capsys.readouterr().err == f"minordpo: {found}\n"


def test_only_the_keys_that_stand_there_are_spoken_of(tmp_path):
    found = refusal(tmp_path, "model_name_or_path: m\nlora_rank: 8\n")
    assert "sections: model_name_or_path → model.path, lora_rank → lora.r. Write" in found


@pytest.mark.parametrize("tool", tools(), ids=lambda tool: tool.name)
def test_every_place_is_a_key_of_minordpo(tool):
    here = {line.partition("  (")[0] for line in describe_keys().splitlines() if not line.startswith(" ")}
    here |= {f"training.{field.name}" for field in dataclasses.fields(TrainingArguments)}
    here |= {f"lora.{field.name}" for field in dataclasses.fields(LoraConfig)}
    here |= {f"objective.{key}" for name in OBJECTIVES for key in OBJECTIVES[name].defaults}
    for place in (*tool.places.values(), *tool.needless.values()):
        for named in re.findall(r"\b(?:model|data|objective|training|lora)\.\w+", place):
            assert named in here
    assert (ROOT / tool.recipe).exists()
    assert not tool.places.keys() & tool.needless.keys()


@pytest.mark.parametrize(
    "text",
    [
        "modle: {path: m}\nlora_rank: 8\n",
        "lora_rank: 8\n",
        "learning_rate: 1.0e-5\nbf16: true\n",
        LLAMA_FACTORY_YAML + "objective: {name: dpo}\n",
    ],
)
def test_a_config_of_ours_with_a_wrong_key_is_not_taken_for_one_of_theirs(tmp_path, text):
    file = tmp_path / "ours.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"is not a key of minordpo"):
        load_config(file, [])


@pytest.mark.peer
def test_the_keys_of_trl_are_those_of_its_dpo_command():
    trl = pytest.importorskip("trl")
    classes = (trl.DPOConfig, trl.KTOConfig, trl.ModelConfig, trl.ScriptArguments)
    theirs = {tool.name: tool.keys for tool in tools()}
    there = {field.name for each in classes for field in dataclasses.fields(each)}
    older = {
        "evaluation_strategy",
        "warmup_ratio",
        "overwrite_output_dir",
        "torch_dtype",
        "max_prompt_length",
        "max_completion_length",
        "rpo_alpha",
        "simpo_gamma",
    }
    assert there >= theirs["TRL"] - older
    assert "lora_rank" not in there | theirs["TRL"]
    assert "lora_r" not in theirs["LLaMA-Factory"]
