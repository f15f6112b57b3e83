"""Configs of other tools, recognised: what each of their keys is called here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minordpo.config.build import library_class
from minordpo.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool whose configs are flat: where each of its keys stands here, and those that nothing here needs."""

    name: str
    places: Mapping[str, str]  # its key → the key here, and in brackets how the values differ
    needless: Mapping[str, str]  # its key → why it can be left out
    recipe: str

    @property
    def keys(self) -> set[str]:
        """All keys of it that are known here."""
        return {*self.places, *self.needless}


_BOTH = {
    "model_name_or_path": "model.path",
    "model_revision": "model.revision",
    "trust_remote_code": "model.trust_remote_code",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "use_rslora": "lora.use_rslora",
    "use_dora": "lora.use_dora",
    "simpo_gamma": "objective.gamma",
    "output_dir": "output",
    "evaluation_strategy": "training.eval_strategy",
    "warmup_ratio": "training.warmup_steps (below 1 it is the share of all steps)",
}
_OVERWRITING = {"overwrite_output_dir": "a run is never overwritten", "do_train": "train trains"}

LLAMA_FACTORY = Tool(
    name="LLaMA-Factory",
    places={
        **_BOTH,
        "adapter_name_or_path": "model.path (an adapter folder, which names its base)",
        "ref_model": "model.reference",
        "dataset": "data.train (the file itself, no name from dataset_info.json)",
        "eval_dataset": "data.eval (the file itself)",
        "val_size": "data.eval (a number of pairs)",
        "cutoff_len": "data.max_length",
        "max_samples": "data.limit",
        "pref_loss": "objective.name (sigmoid is dpo)",
        "pref_beta": "objective.beta",
        "pref_ftx": "a weight in objective.name (0.1 is dpo + 0.1*sft)",
        "dpo_label_smoothing": "objective.label_smoothing (with objective.name cdpo)",
        "kto_chosen_weight": "objective.desirable_weight",
        "kto_rejected_weight": "objective.undesirable_weight",
        "finetuning_type": "the section lora (full: none)",
        "lora_rank": "lora.r",
        "lora_target": "lora.target_modules (all is all-linear)",
        "additional_target": "lora.modules_to_save",
    },
    needless={
        **_OVERWRITING,
        "stage": "objective.name says it",
        "template": "the tokenizer's own chat template is used",
        "dataset_dir": "data.train names the file",
        "flash_attn": "the engine has its own attention",
        "overwrite_cache": "what is cached goes by its content",
        "plot_loss": "the figure is always drawn",
        "preprocessing_num_workers": "rows are tokenised in one process",
    },
    recipe="recipes/llamafactory-chat.yaml",
)

TRL = Tool(
    name="TRL",
    places={
        **_BOTH,
        "dtype": "model.dtype",
        "torch_dtype": "model.dtype",
        "disable_dropout": "model.dropout (its opposite, false unless set)",
        "dataset_name": "data.train",
        "dataset_train_split": "data.split",
        "dataset_test_split": "data.eval_split (with the set's name again as data.eval)",
        "max_length": "data.max_length",
        "truncation_mode": "data.overlong (keep_start is truncate)",
        "loss_type": "objective.name (sigmoid is dpo, a list is a sum such as dpo + 0.1*sft)",
        "loss_weights": "the weights in objective.name",
        "beta": "objective.beta",
        "label_smoothing": "objective.label_smoothing (with objective.name cdpo or robust)",
        "rpo_alpha": "objective.alpha (with objective.name dpo_nll)",
        "desirable_weight": "objective.desirable_weight",
        "undesirable_weight": "objective.undesirable_weight",
        "use_peft": "the section lora (false: none)",
        "lora_r": "lora.r",
        "lora_target_modules": "lora.target_modules",
        "lora_target_parameters": "lora.target_parameters",
        "lora_modules_to_save": "lora.modules_to_save",
    },
    needless={
        **_OVERWRITING,
        "attn_implementation": "the engine has its own attention",
        "dataset_num_proc": "rows are tokenised in one process",
        "lora_task_type": "it is a causal language model",
        "max_completion_length": "data.max_length bounds prompt and response together",
        "max_prompt_length": "data.max_length bounds prompt and response together",
        "pad_to_multiple_of": "nothing is padded",
        "padding_free": "nothing is padded",
        "precompute_ref_batch_size": "the reference is packed like the policy",
        "precompute_ref_log_probs": "they always are",
    },
    recipe="recipes/dpo-lora.yaml",
)

TOOLS = (LLAMA_FACTORY, TRL)


def refuse_foreign_config(values: Mapping[Any, Any], path: Path, sections: Iterable[str]) -> None:
    """Refuse a config of another tool by the tool's name; `sections` are ours, which none of theirs has.

    Raises: InputError that says for each of its keys what it is called here.
    """
    tool = _recognise(values, sections)
    if tool is None:
        return
    places = [f"{key} → {tool.places[key]}" for key in values if key in tool.places]
    others = [key for key in values if key not in tool.keys]
    library = library_class("transformers.TrainingArguments")
    training = [key for key in others if key in {item.name for item in dataclasses.fields(library)}]
    needless = [f"{key} ({tool.needless[key]})" for key in values if key in tool.needless]
    homeless = [str(key) for key in others if key not in training]
    others_by_fate = {
        "as they are, in the section training": training,
        "to be left out": needless,
        "without a place here": homeless,
    }
    parts = [f"{path} is a config of {tool.name}, but minordpo's keys stand in sections: {', '.join(places)}"]
    parts += [f"{fate}: {', '.join(keys)}" for fate, keys in others_by_fate.items() if keys]
    raise InputError(f"{'; '.join(parts)}. Write a config of these keys; {tool.recipe} is one to begin with")


def _recognise(values: Mapping[Any, Any], sections: Iterable[str]) -> Tool | None:
    """The tool with most keys that no other has; two, or one beside a key of several tools, are enough."""
    if set(sections) & values.keys():
        return None

    def own(tool: Tool) -> int:
        elsewhere = {key for other in TOOLS if other is not tool for key in other.keys}
        return len((tool.keys - elsewhere) & values.keys())

    likeliest = max(TOOLS, key=own)
    return likeliest if own(likeliest) and len(likeliest.keys & values.keys()) > 1 else None
