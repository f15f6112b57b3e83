"""`minordpo loop --dry-run`: everything a loop checks, one batch of answers and one row of training measured."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from minordpo.engine.models import load_model, load_tokenizer
from minordpo.evaluate.evaluation import BATCH_SIZE, TOKEN_BUDGET
from minordpo.evaluate.tasks import load_task
from minordpo.generate.generation import Answer, GenerationOptions, Sampling, generate_answers
from minordpo.onpolicy.loop.config import LoopConfig
from minordpo.onpolicy.loop.loop import check
from minordpo.onpolicy.loop.rounds import Round, prompts_of_round
from minordpo.run_folder.files import write_jsonl
from minordpo.run_folder.ownership import refuse_unwritable
from minordpo.train.dry_run.estimate import missing_references, plan_steps, run_seconds
from minordpo.train.dry_run.measure import duration, measure_row
from minordpo.train.run import build_trainer, load_run_tokenizer
from minordpo.train.run_data import load_data
from minordpo.verify.prompts import AskedPrompt, Prompts

_HEAD = "Dry run: nothing was trained, and nothing written but tokens to the cache."


def estimate(config: LoopConfig, *, allow_code: bool) -> str:
    """The loop's cost, in words. The loop may take less: a prompt without contrast gives no pair.

    Raises:
        InputError: what the loop itself would refuse.
    """
    prompts, verifier = check(config, allow_code=allow_code)
    refuse_unwritable(Path(config.output))
    asked = prompts_of_round(prompts.prompts, config, 1)
    answers, seconds = _answered(config, asked, prompts)
    tokens = sum(answer.tokens for answer in answers) / len(answers)
    an_answer = seconds / len(answers)
    drawn = len(asked) * config.sampling.samples
    pairs = len(asked) * (config.pairs.most or (1 if config.pairs.kind != "all" else config.sampling.samples))
    training = _training_seconds(config, asked, answers, pairs, allow_code=allow_code)
    evaluation = config.evaluation()
    questions = 0
    if evaluation is not None:
        questions = len(load_task(evaluation.task, n=evaluation.n, seed=evaluation.seed).questions)
    evaluating = questions * (1 + config.evaluate.samples) * an_answer
    rounds = config.rounds
    total = rounds * (drawn * an_answer + training + evaluating) + evaluating
    lines = [
        _HEAD,
        f"a round   {len(asked):,} prompts × {config.sampling.samples} answers of some {tokens:.0f} tokens: "
        f"{duration(drawn * an_answer)}",
        f"          training on at most {pairs:,} pairs: {duration(training)}",
    ]
    if questions:
        lines.append(
            f"          {questions:,} questions × {1 + config.evaluate.samples} answers: {duration(evaluating)}; the "
            "first model answers them too"
        )
    if said := verifier.cost(rounds * len(asked), config.sampling.samples):
        lines.append(f"scores    of all rounds: {said}")
    lines += [
        f"in all    {rounds} rounds: {duration(total)}",
        f"measured on {len(answers)} answers and one row of training; loading, the monitor's probes, log-probs of the "
        "evaluation and checkpoints come on top",
    ]
    if config.sampling.backend == "vllm":
        lines.append(
            "the answers were measured with transformers; vLLM takes another time, and some to start"
        )
    return "\n".join(lines)


def _answered(
    config: LoopConfig, asked: Sequence[AskedPrompt], prompts: Prompts
) -> tuple[list[Answer], float]:
    """The first batch of answers, and what it took."""
    tokenizer, model = load_tokenizer(config.model), load_model(config.model, dtype=config.sampling.dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cast(nn.Module, model).to(device)
    batch, samples = config.sampling.batch_size or BATCH_SIZE[device], config.sampling.samples
    few = asked[: max(1, batch // samples)]
    tokens = Prompts(source=prompts.source, prompts=list(few), digest="").tokens(tokenizer)
    options: dict[str, Any] = {
        "max_new_tokens": config.sampling.max_new_tokens,
        "token_budget": TOKEN_BUDGET,
        "sampling": Sampling(temperature=config.sampling.temperature, seed=config.seed),
        "samples": samples,
    }
    GenerationOptions(**options)
    started = time.perf_counter()
    answers = generate_answers(
        model, tokenizer, tokens, batch_size=batch, progress="measuring answers", **options
    )
    return answers, time.perf_counter() - started


def _training_seconds(
    config: LoopConfig,
    asked: Sequence[AskedPrompt],
    answers: Sequence[Answer],
    pairs: int,
    *,
    allow_code: bool,
) -> float:
    """Seconds of a round's training, estimated from one measured row of pairs made of the measured answers."""
    texts = list(dict.fromkeys(answer.text for answer in answers if answer.text.strip()))
    texts += [f"{text} again" for text in texts[:1]] if len(texts) < 2 else []
    with tempfile.TemporaryDirectory(prefix="minordpo-dry-run-") as aside:
        data = Path(aside) / "pairs.jsonl"
        both = zip(itertools.cycle(texts), itertools.cycle([*texts[1:], texts[0]]), strict=False)
        rows = zip(itertools.islice(itertools.cycle(asked), pairs), both, strict=False)
        write_jsonl(data, (_pair(prompt, *texts) for prompt, texts in rows))
        run_config = config.training(Round(config, 1).start, data, Path(aside) / "run")
        loaded = load_data(run_config, load_run_tokenizer(run_config))
        trainer = build_trainer(
            run_config, load_run_tokenizer(run_config), loaded, Path(aside) / "run", allow_code=allow_code
        )
        plan = plan_steps(trainer)
        row = measure_row(trainer, plan.typical_row)
        return sum(run_seconds(trainer, plan, row, missing_references(trainer)))


def _pair(prompt: AskedPrompt, chosen: str, rejected: str) -> dict[str, Any]:
    if isinstance(prompt.asked.prompt, str):
        return prompt.columns() | {"chosen": chosen, "rejected": rejected}
    turns = ([{"role": "assistant", "content": text}] for text in (chosen, rejected))
    return prompt.columns() | dict(zip(("chosen", "rejected"), turns, strict=True))
