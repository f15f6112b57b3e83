"""How often a run answers prompts, and what that takes: the monitor's probes, and the samples before and after."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

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
    probe = None if monitor is None else monitor.make_probe(trainer.policy, steps)
    if monitor is None or probe is None:
        return None
    prompts = [prompt.ids for prompt in probe.prompts]
    later = sum(is_due(step, steps, monitor.probe_every) for step in range(1, steps + 1))
    with autocast(trainer.args):  # as the monitor asks
        return _tried(trainer, tokenizer, prompts, probe.max_new_tokens, len(prompts), later)


def samples(
    trainer: PreferenceTrainer, tokenizer: PreTrainedTokenizerBase, config: SamplesConfig
) -> Answering | None:
    """Those of samples.jsonl; None where there are none."""
    prompts = [pair.prompt_ids for pair in trainer.held_out[: config.prompts]]
    if not prompts:
        return None
    return _tried(trainer, tokenizer, prompts, config.max_new_tokens, SAMPLES_AT_ONCE, 1)


def _tried(
    trainer: PreferenceTrainer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    max_new_tokens: int,
    batch_size: int,
    later: int,
) -> Answering:
    """What answering before training, unless that is kept, and `later` times takes at most; by the longest prompts."""
    trainer.policy.to(trainer.args.device)  # type: ignore[arg-type]  # `to` is typed as its decorator
    sizes = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    known = trainer.initial_answers.known(trainer.policy, tokenizer, prompts, **sizes)
    longest = sorted(prompts, key=len)[-batch_size:]
    first, tokens = _timed(trainer, tokenizer, longest, 1)
    seconds, tokens = _timed(trainer, tokenizer, longest, min(max_new_tokens, 1 + _TRIED))
    each = max(0.0, seconds - first) / (tokens - 1) if tokens > 1 else 0.0
    times, batches = later + (not known), -(-len(prompts) // batch_size)
    return Answering(times, len(prompts), times * batches * (first + each * (max_new_tokens - 1)), known)


def _timed(
    trainer: PreferenceTrainer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    max_new_tokens: int,
) -> tuple[float, int]:
    """Seconds, and the longest answer's tokens; answers that end early end the batch."""
    started = time.perf_counter()
    answers = generate_answers(
        trainer.policy, tokenizer, prompts, max_new_tokens=max_new_tokens, batch_size=len(prompts)
    )
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, max(answer.tokens for answer in answers)
