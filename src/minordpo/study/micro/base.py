"""The micro world's base model: a character tokenizer, and a Llama of 0.85 million weights trained from nothing."""

from __future__ import annotations

import itertools
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from minordpo.evaluate.answers import last_number
from minordpo.evaluate.generation import generate_answers
from minordpo.study.micro.questions import SLIP, Family, Question, draw, draw_task

CHARACTERS = "\n 0123456789+-*/=?,.:abcdefghijklmnopqrstuvwxyzS"
Distance = Literal["none", "half", "full"]
# Of what the base is trained on: terse answers, worked ones. The rest are tasks beside them. The further its own style
# is from the chosen answers', the more there is to imitate.
MIXTURE: dict[Distance, tuple[float, float]] = {"none": (0.0, 0.8), "half": (0.4, 0.4), "full": (0.7, 0.1)}
BATCH, RATE = 32, 2e-3
WARM_UP, COOL_DOWN = 100, 100  # steps
EVERY, ASKED = 25, 64  # the base answers so many fresh questions every so many steps …
ENOUGH = 0.15  # … and cools down once this share is right; 17 % became 66 % for seed 1
MAX_POSITIONS = 256
ANSWER_TOKENS = 64  # more than a worked answer has


def character_tokenizer() -> PreTrainedTokenizerFast:
    """A token a character; an end token closes each answer."""
    vocabulary = {token: place for place, token in enumerate(("<pad>", "<end>", "<unknown>", *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        clean_up_tokenization_spaces=False,
    )


def small_llama(seed: int) -> LlamaForCausalLM:
    """Four layers of width 128, weights drawn from the seed."""
    config = LlamaConfig(
        vocab_size=len(CHARACTERS) + 3,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        tie_word_embeddings=True,
        # Both for so narrow a model and so short a text; with 0.02 and 10,000 it needs more than twice the steps.
        initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def example(family: Family, distance: Distance, rng: random.Random) -> tuple[str, str]:
    """What the base is trained on: a prompt and its answer."""
    terse, worked = MIXTURE[distance]
    kind = rng.random()
    if kind < terse:
        question = draw(family, rng)
        return question.text, question.terse()
    if kind < terse + worked:
        question = draw(family, rng, slip=SLIP)
        return question.text, question.worked()
    task = draw_task(rng)
    return task.text, task.answer


def train_base(
    folder: Path,
    *,
    family: Family,
    distance: Distance,
    seed: int,
    steps: int,
    allowed: Callable[[str], bool] = lambda text: True,
) -> None:
    """Train the base from nothing and save it with its tokenizer; every step draws fresh examples.

    Cross-entropy on the answers, AdamW with a linear decay over `steps`; once the base is right often enough, the rate
    goes from where it is to zero within COOL_DOWN. Arithmetic is learnt of a sudden, at another step for each seed, and
    a base that is nearly always right or wrong could show nothing. `allowed` keeps prompts out, those of the test.
    """
    rng = random.Random(f"base of {family}, {distance}, seed {seed}")
    tokenizer, model = character_tokenizer(), small_llama(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()  # type: ignore[arg-type]  # `to` is typed as its decorator
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    questions = _questions(family, seed, allowed)
    end, right = steps, 0.0  # where the rate reaches zero
    bar = tqdm(range(steps), desc="training a base model", unit="step", dynamic_ncols=True)
    for step in bar:
        if step == end:
            break
        if step and step % EVERY == 0 and end == steps:
            right = share_right(model, tokenizer, questions)
            end = min(steps, step + COOL_DOWN) if right >= ENOUGH else steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * _share_of_rate(step, steps, end)
        loss = _loss(model, tokenizer, _batch(family, distance, rng, allowed), device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % EVERY == 0:
            bar.set_postfix_str(f"loss {loss.item():.3f}, {right:.0%} right")
    bar.close()
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _share_of_rate(step: int, steps: int, end: int) -> float:
    if end == steps:
        return min((step + 1) / WARM_UP, 1 - step / steps)
    return (1 - (end - COOL_DOWN) / steps) * (end - step) / COOL_DOWN


def share_right(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Question]
) -> float:
    """The share of greedy answers whose last number is right."""
    prompts = [np.array(tokenizer.encode(question.text)) for question in questions]
    answers = generate_answers(
        model, tokenizer, prompts, max_new_tokens=ANSWER_TOKENS, batch_size=len(prompts)
    )
    found = [last_number(answer.text) for answer in answers]
    return statistics.fmean(
        number == str(question.answer) for number, question in zip(found, questions, strict=True)
    )


def _questions(family: Family, seed: int, allowed: Callable[[str], bool]) -> list[Question]:
    rng = random.Random(f"questions to the base of {family}, seed {seed}")
    drawn = (draw(family, rng) for _ in itertools.count())
    return list(itertools.islice((question for question in drawn if allowed(question.text)), ASKED))


def _batch(
    family: Family, distance: Distance, rng: random.Random, allowed: Callable[[str], bool]
) -> list[tuple[str, str]]:
    drawn = (example(family, distance, rng) for _ in itertools.count())
    return list(itertools.islice((each for each in drawn if allowed(each[0])), BATCH))


def _loss(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    drawn: list[tuple[str, str]],
    device: torch.device,
) -> torch.Tensor:
    """Mean over the answers' tokens, with rows of like length beside each other."""
    rows = [
        (tokenizer.encode(prompt), [*tokenizer.encode(answer), tokenizer.eos_token_id])
        for prompt, answer in drawn
    ]
    tokens = sum(len(answer) for _, answer in rows)
    return (
        sum((_summed(model, alike, device) for alike in _alike(rows)), torch.zeros((), device=device))
        / tokens
    )


def _alike(rows: list[tuple[list[int], list[int]]]) -> list[list[tuple[list[int], list[int]]]]:
    """Rows in groups of which none is half as long again as another: most answers are short, some are not."""

    def length(row: tuple[list[int], list[int]]) -> int:
        return len(row[0]) + len(row[1])

    groups: list[list[tuple[list[int], list[int]]]] = []
    for row in sorted(rows, key=length):
        if not groups or length(row) > 1.5 * length(groups[-1][0]):
            groups.append([])
        groups[-1].append(row)
    return groups


def _summed(
    model: LlamaForCausalLM, rows: list[tuple[list[int], list[int]]], device: torch.device
) -> torch.Tensor:
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for place, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[place, :end] = torch.tensor([*prompt, *answer])
        labels[place, len(prompt) : end] = torch.tensor(answer)
    # Padding stands behind everything that is read, so causal attention needs no mask of it.
    logits = model(input_ids=ids.to(device)).logits[:, :-1]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels[:, 1:].flatten().to(device), reduction="sum"
    )
