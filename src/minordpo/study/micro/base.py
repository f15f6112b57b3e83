"""The micro world's base model: a character tokenizer, and a Llama of 0.85 million weights trained from nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from minordpo.study.micro.questions import SLIP, Family, draw, draw_task

CHARACTERS = "\n 0123456789+-*/=?,.:abcdefghijklmnopqrstuvwxyzS"
Distance = Literal["none", "half", "full"]
# Of what the base is trained on: terse answers, worked ones. The rest are tasks beside them. The further its own style
# is from the chosen answers', the more there is to imitate.
MIXTURE: dict[Distance, tuple[float, float]] = {"none": (0.0, 0.8), "half": (0.4, 0.4), "full": (0.7, 0.1)}
BATCH, RATE = 64, 2e-3
MAX_POSITIONS = 256


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

    Cross-entropy on the answers, AdamW with a linear decay to zero. `allowed` keeps prompts out, those of the test.
    """
    rng = random.Random(f"base of {family}, {distance}, seed {seed}")
    tokenizer, model = character_tokenizer(), small_llama(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()  # type: ignore[arg-type]  # `to` is typed as its decorator
    warm_up = max(1, steps // 25)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warm_up) * (1 - step / steps)
    )
    bar = tqdm(range(steps), desc="training a base model", unit="step", dynamic_ncols=True)
    for step in bar:
        drawn: list[tuple[str, str]] = []
        while len(drawn) < BATCH:
            prompt, answer = example(family, distance, rng)
            if allowed(prompt):
                drawn.append((prompt, answer))
        loss = _loss(model, tokenizer, drawn, device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            bar.set_postfix_str(f"loss {loss.item():.3f}")
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _loss(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    drawn: list[tuple[str, str]],
    device: torch.device,
) -> torch.Tensor:
    rows = [
        (tokenizer.encode(prompt), [*tokenizer.encode(answer), tokenizer.eos_token_id])
        for prompt, answer in drawn
    ]
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for place, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[place, :end] = torch.tensor([*prompt, *answer])
        labels[place, len(prompt) : end] = torch.tensor(answer)
    # Padding stands behind everything that is read, so causal attention needs no mask of it.
    logits = model(input_ids=ids.to(device)).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten().to(device))
