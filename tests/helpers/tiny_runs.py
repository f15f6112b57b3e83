"""Whole runs in seconds: preference rows, a tiny model with a tokenizer, trainers and run configs made of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from helpers.small_tokenizers import byte_level
from helpers.tiny_models import tiny
from minordpo.data.read.examples import examples_from_rows
from minordpo.data.tokens import TokenExample, TokenOptions, tokenize_examples
from minordpo.engine.models import save_model
from minordpo.train.trainer import PreferenceTrainer

# peft 0.21 and transformers 5.17 know gradient checkpointing under names that transformers 5.23 renames.
RENAMED = (
    "ignore:`gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning",
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
)

_ANSWERS = ("Yes", "No", "Yes, the answer is Yes", "hello", "The answer is No.", "you are there")


def text_rows(count: int) -> list[dict[str, str]]:
    """Plain prompt, chosen, rejected; lengths differ, some responses begin alike, all rows are distinct."""
    rows = []
    for i in range(count):
        begins = "The answer is " if i % 3 == 0 else ""
        chosen, rejected = f"{begins}{_ANSWERS[i % 6]}", f"{begins}{_ANSWERS[(i + 1) % 6]} {i}"
        rows.append(
            {"prompt": f"hello {i}, how are you?" * (1 + i % 2), "chosen": chosen, "rejected": rejected}
        )
    return rows


def chat_rows(count: int) -> list[dict[str, Any]]:
    """The same as conversations."""
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in text_rows(count)
    ]


@functools.cache
def tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level, with a ChatML template."""
    made = byte_level()
    made.pad_token = made.eos_token
    return made


def token_pairs(count: int, *, chat: bool = True) -> list[TokenExample]:
    """The rows as tokens."""
    rows = chat_rows(count) if chat else text_rows(count)
    made = tokenize_examples(
        examples_from_rows(rows, source="rows").examples, tokenizer(), options=TokenOptions()
    )
    assert all(isinstance(pair, TokenExample) for pair in made)
    return made  # type: ignore[return-value]


def tiny_model(*, seed: int = 0, architecture: str = "Llama", **overrides: Any) -> PreTrainedModel:
    """A tiny model of the tokenizer's vocabulary; weights narrow enough that it learns."""
    settings = {"vocab_size": len(tokenizer()), "initializer_range": 0.1}
    settings |= {"num_hidden_layers": 2} if architecture == "Llama" else {}
    return tiny(architecture, seed=seed, **settings | overrides)


def moved(model: PreTrainedModel, *, by: float, seed: int = 3) -> PreTrainedModel:
    """The model with noise on every weight: a policy away from its reference."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return model


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    """Quiet CPU arguments: no checkpoints, three steps."""
    quiet = {
        "max_steps": 3,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(output_dir=str(folder), **quiet | settings)


_OURS = """
objective beta gate_margin router_aux_loss dpop_lambda undesirable_weight eval_dataset ref_model peft_config callbacks
optimizers token_options invalid token_budget dropout cache metrics_file processing_class
""".split()  # noqa: SIM905


def trainer(folder: Path, *, model: Any = None, pairs: Any = None, **settings: Any) -> PreferenceTrainer:
    """A trainer on the tiny model; settings that `PreferenceTrainer` does not have are TrainingArguments."""
    own = {name: settings.pop(name) for name in _OURS if name in settings}
    return PreferenceTrainer(
        tiny_model() if model is None else model,
        args=settings.pop("args", None) or arguments(folder, **settings),
        train_dataset=token_pairs(8) if pairs is None else pairs,
        **{"processing_class": tokenizer()} | own,
    )


def metric_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without their seconds."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if not name.endswith("seconds")} for row in rows]


def measured_rows(folder: Path) -> list[dict[str, Any]]:
    """Those of training steps and held-out pairs, without what the monitor wrote."""
    return [row for row in metric_rows(folder) if "loss" in row or "eval_loss" in row]


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every trainable parameter's gradient; zeros where there is none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def gradient_error(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of any entry, relative to the largest entry of all."""
    assert found.keys() == expected.keys()
    scale = max(each.abs().max().item() for each in (*found.values(), *expected.values()))
    return max((found[n].double() - expected[n].double()).abs().max().item() for n in found) / scale


def save_tiny(folder: Path, **overrides: Any) -> Path:
    """A model folder with weights and tokenizer."""
    save_model(tiny_model(**overrides), tokenizer(), folder)
    return folder


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as .jsonl."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_config(path: Path, *, base: Path, pairs: Path, output: Path, **sections: Any) -> Path:
    """A run config of three steps of four pairs, with `sections` laid over it key by key."""
    config: dict[str, Any] = {
        "model": {"path": str(base)},
        "data": {"train": str(pairs), "eval": 2},
        "objective": {"name": "minordpo", "beta": 0.1},
        "training": {
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "disable_tqdm": True,
        },
        "samples": {"prompts": 2, "max_new_tokens": 4},
        "monitor": {"prompts": 2, "max_new_tokens": 4},
        "output": str(output),
    }
    for name, section in sections.items():
        config[name] = {**config.get(name, {}), **section} if isinstance(section, dict) else section
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def logits(model: Any) -> torch.Tensor:
    """What the model says to a fixed row of tokens."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 40)[None]).logits


def weights(model: Any) -> dict[str, torch.Tensor]:
    """A copy of every parameter."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def first_gradients(made: PreferenceTrainer) -> dict[str, torch.Tensor]:
    """Train, and return the gradients of the first step, before they are clipped."""
    found: dict[str, torch.Tensor] = {}
    accumulate = made._accumulate

    def spy(model: Any, step: Any) -> Any:
        records = accumulate(model, step)
        found.update(found or gradients(made.model))
        return records

    made._accumulate = spy  # type: ignore[method-assign]
    made.train()
    return found
