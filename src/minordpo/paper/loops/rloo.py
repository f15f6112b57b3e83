"""A round by TRL's RLOOTrainer: Eq. 1 of the MinorDPO paper, reward less β · KL, on the same prompts and verifier.

Over its steps the trainer draws as many answers as the round's sampling does in the other arms. The reward is 1 for a
right answer; the reference is the model that the round starts from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from minordpo.engine.models import load_model, load_tokenizer, model_folder
from minordpo.errors import InputError
from minordpo.onpolicy.loop.rounds import Round
from minordpo.run_folder.files import written_folder
from minordpo.verify.prompts import AskedPrompt, Prompts, read_prompts
from minordpo.verify.verifier import Verifier

# What RLOOConfig has by other names or other defaults than we want of every arm.
_EQUAL_TERMS = {"bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no"}
_EQUAL_TERMS |= {"disable_tqdm": True, "logging_steps": 1}


def rloo_round(
    this: Round,
    entry: dict[str, Any],
    prompts: Prompts,
    verifier: Verifier,
    *,
    beta: float,
    keep: Callable[[], None],
    **_: Any,
) -> str | None:
    """Train the round's model, where it is not there yet; a round that was stopped begins anew.

    Raises:
        InputError: TRL is not installed, or the prompts of a step do not come out even.
    """
    if "training_s" in entry and this.run.is_dir():
        return None
    asked = read_prompts(str(this.prompts)).prompts
    rewards = _Rewards(asked, verifier)
    trainer = _trainer(this, asked, rewards, beta)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    with written_folder(this.run) as aside:
        trainer.model.save_pretrained(aside)
        load_tokenizer(this.start).save_pretrained(aside)
    entry["sampling"] = {
        "prompts": len(asked),
        "pass_rate": rewards.right / rewards.answers,
        "with_contrast": None,
        "pairs": None,
        "tokens": rewards.tokens,
        "sampling_s": None,
        "scoring_s": None,
    }
    entry["training_s"] = seconds
    entry["health"] = None
    keep()
    return None


class _Rewards:
    """The verifier as a reward function of TRL, and a count of what was generated."""

    def __init__(self, prompts: list[AskedPrompt], verifier: Verifier) -> None:
        self.asked = {each.asked.row: each.asked for each in prompts}
        self.verifier = verifier
        self.answers = self.tokens = 0
        self.right = 0.0

    def scores(
        self, *, completions: list[str], completion_ids: list[Any], row: list[int], **_: Any
    ) -> list[float | None]:
        """The score of each completion."""
        groups = [
            (place, self.asked[number], [text])
            for place, (number, text) in enumerate(zip(row, completions, strict=True))
        ]
        verdicts = dict(self.verifier.verdicts(groups))
        scores = [verdicts[place][0].score for place in range(len(completions))]
        self.answers += len(completions)
        self.tokens += sum(len(ids) for ids in completion_ids)
        self.right += sum(scores)
        return list(scores)


def _trainer(this: Round, asked: list[AskedPrompt], rewards: _Rewards, beta: float) -> Any:
    try:
        from trl import RLOOConfig, RLOOTrainer
    except ImportError as error:
        raise InputError("the arm rloo needs TRL. Install it with pip install 'minordpo[peers]'") from error
    import datasets

    config, arguments = this.config, this.training().training.arguments
    samples, steps = config.sampling.samples, arguments["max_steps"]
    answers = len(asked) * samples
    if answers % (steps * samples):
        raise InputError(
            f"{len(asked)} prompts in {steps} steps do not come out even, so rloo would not draw as many tokens as the "
            "other arms. Make sampling.prompts_per_round a multiple of run.training.max_steps"
        )
    given = {name: value for name, value in arguments.items() if name != "per_device_train_batch_size"}
    made = RLOOConfig(
        output_dir=str(Path(config.output) / "rloo"),
        per_device_train_batch_size=answers // steps,
        num_generations=samples,
        max_completion_length=config.sampling.max_new_tokens,
        temperature=config.sampling.temperature,
        beta=beta,
        **{**_EQUAL_TERMS, **given},
    )
    tokenizer = load_tokenizer(this.start)
    model = load_model(this.start)
    model.config._name_or_path = model_folder(this.start)  # where TRL reads the reference from
    rows = [{"prompt": each.asked.prompt, "row": each.asked.row} for each in asked]
    torch.manual_seed(made.seed)
    return RLOOTrainer(
        model=model,
        reward_funcs=rewards.scores,
        args=made,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
