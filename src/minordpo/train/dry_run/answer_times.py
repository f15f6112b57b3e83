"""How often a run answers prompts, and what that takes: the monitor's probes, and the samples before and after."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minordpo.config import SamplesConfig
from minordpo.engine.precision import autocast
from minordpo.generate.generation import generate_answers
from minordpo.monitor.probe import is_due
from minordpo.train.trainer import PreferenceTrainer

SAMPLES_AT_ONCE = 8
_TRIED = 8  # tokens after the first whose mean time stands for all


@dataclass(frozen=True)
class Answering:
    """One set of prompts, and what a run's answers to it take."""

    times: int  # that are still to be answered
    prompts: int
    seconds: float  # for all of them; less where answers end by themselves
    known: bool  # the answers before training are kept from an earlier run, and not in `times`


def probes(trainer: PreferenceTrainer, tokenizer: PreTrainedTokenizerBase, steps: int) -> Answering | None:
    """The monitor's; None where it has none."""
    monitor = trainer.monitor()
    policy = trainer.policy.to(trainer.args.device)  # type: ignore[arg-type]  # `to` is typed as its decorator
    probe = None if monitor is None else monitor.make_probe(policy, steps)
    if monitor is None or probe is None:
        return None
    prompts = [prompt.ids for prompt in probe.prompts]
    with autocast(trainer.args):  # as the monitor asks
        known, seconds = _tried(trainer, tokenizer, prompts, probe.max_new_tokens, len(prompts))
    times = sum(is_due(step, steps, monitor.probe_every) for step in range(1, steps + 1)) + (not known)
    return Answering(times, len(prompts), times * seconds, known)


def samples(
    trainer: PreferenceTrainer, tokenizer: PreTrainedTokenizerBase, config: SamplesConfig
) -> Answering | None:
    """Those of samples.jsonl; None where there are none."""
    prompts = [pair.prompt_ids for pair in trainer.held_out[: config.prompts]]
    if not prompts:
        return None
    trainer.policy.to(trainer.args.device)  # type: ignore[arg-type]  # `to` is typed as its decorator
    known, seconds = _tried(trainer, tokenizer, prompts, config.max_new_tokens, SAMPLES_AT_ONCE)
    times = 1 + (not known)
    return Answering(times, len(prompts), times * seconds, known)


def _tried(
    trainer: PreferenceTrainer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    max_new_tokens: int,
    batch_size: int,
) -> tuple[bool, float]:
    """Whether the answers before training are kept, and the seconds that answering once takes at most."""
    known = trainer.initial_answers.known(
        trainer.policy, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    longest = sorted(prompts, key=len)[-batch_size:]
    first, tokens = _timed(trainer.policy, tokenizer, longest, 1)
    seconds, tokens = _timed(trainer.policy, tokenizer, longest, min(max_new_tokens, 1 + _TRIED))
    each = max(0.0, seconds - first) / (tokens - 1) if tokens > 1 else 0.0
    batches = -(-len(prompts) // batch_size)
    return known, batches * (first + each * (max_new_tokens - 1))


def _timed(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    max_new_tokens: int,
) -> tuple[float, int]:
    """Seconds, and the longest answer's tokens; answers that end early end the batch."""
    started = time.perf_counter()
    answers = generate_answers(
        model, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=len(prompts)
    )
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, max(answer.tokens for answer in answers)
