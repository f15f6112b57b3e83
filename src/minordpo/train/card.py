"""The model card of a tuned model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minordpo import __version__, objectives
from minordpo.config import RunConfig, dump_config

if TYPE_CHECKING:
    from minordpo.train.trainer import PreferenceTrainer


def model_card(config: RunConfig, trainer: PreferenceTrainer, answers: dict[str, float]) -> str:
    """README.md of the model folder: what it was made from, how, and what was measured."""
    hyper = {**objectives.hyperparameter_defaults(config.objective.name), **config.objective.hyper}
    last = trainer.last_metrics
    rows = [
        ("steps", f"{trainer.state.global_step}"),
        ("chosen log-ratio, last step (nats)", f"{last['logratios/chosen']:+.2f}"),
        ("rejected log-ratio, last step (nats)", f"{last['logratios/rejected']:+.2f}"),
    ]
    held_out = trainer.last_evaluation
    if held_out:
        rows += [
            ("held-out chosen log-ratio (nats)", f"{held_out['eval_logratios/chosen']:+.2f}"),
            ("held-out rejected log-ratio (nats)", f"{held_out['eval_logratios/rejected']:+.2f}"),
            ("held-out pairs ranked right", f"{held_out['eval_rewards/accuracies']:.1%}"),
        ]
    rows += [(f"sample answers, {name}", f"{value:.3g}") for name, value in answers.items()]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    base = f"base_model: {config.model.path}\n" if not config.model.path.startswith(("/", ".", "~")) else ""
    return f"""---
library_name: {"peft" if config.lora is not None else "transformers"}
{base}tags: [preference-tuning, {config.objective.name}, minordpo]
---
# Tuned with {config.objective.name}

Tuned with minordpo {__version__} on preference pairs: {objectives.OBJECTIVES[config.objective.name].__name__} with
{", ".join(f"{name} = {value:g}" for name, value in hyper.items())}.

| measured | |
|---|---|
{table}

A log-ratio is log π/π_ref of a response, summed over its tokens: negative for a chosen response means that the tuned
model finds it less likely than the model it started from.

The whole configuration of the run:

```yaml
{dump_config(config)}```
"""
