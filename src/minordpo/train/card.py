"""The model card of a tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minordpo import __version__, objectives
from minordpo.config import RunConfig, dump_config

if TYPE_CHECKING:
    from minordpo.train.trainer import PreferenceTrainer


def model_card(config: RunConfig, trainer: PreferenceTrainer, answers: dict[str, float]) -> str:
    """README.md of the model folder: what it was made from, how, and what was measured."""
    rows = [("steps", f"{trainer.state.global_step}")]
    rows += _measured(trainer.last_metrics, "", "last step")
    rows += _measured(trainer.last_evaluation, "eval_", "held out")
    rows += [(f"sample answers, {name}", f"{value:.3g}") for name, value in answers.items()]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    base = "" if Path(config.model.path).expanduser().exists() else f"base_model: {config.model.path}\n"
    tags = ", ".join(dict.fromkeys(["preference-tuning", config.objective.name, "minordpo"]))
    return f"""---
library_name: {"peft" if config.lora is not None else "transformers"}
{base}tags: [{tags}]
---
# Tuned with {config.objective.name}

Tuned with minordpo {__version__} on preferences: {objectives.resolve(config.objective.name, config.objective.hyper)}.

| measured | |
|---|---|
{table}

A log-ratio is log π/π_ref of a response, summed over its tokens: negative for a chosen response means that the tuned
model finds it less likely than the model it started from.

The whole configuration of the run:

```yaml
{dump_config(config)}```
"""


def _measured(metrics: Mapping[str, Any], prefix: str, when: str) -> list[tuple[str, str]]:
    """The rows of what was measured; without a reference, log-probs stand in for log-ratios."""
    kind = "logratios" if f"{prefix}logratios/chosen" in metrics else "logps"
    what = "log-ratio" if kind == "logratios" else "log-prob"
    rows = [
        (f"{side} {what}, {when} (nats)", f"{metrics[f'{prefix}{kind}/{side}']:+.2f}")
        for side in ("chosen", "rejected")
        if f"{prefix}{kind}/{side}" in metrics
    ]
    accuracy = metrics.get(f"{prefix}rewards/accuracies")
    return rows if accuracy is None else [*rows, (f"pairs ranked right, {when}", f"{accuracy:.1%}")]
