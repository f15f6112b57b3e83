"""A tiny model that answers with a few letters and then ends."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch

from helpers.tiny_runs import tiny_model, tokenizer
from minordpo.engine.models import save_model

ANSWERS = ("a", "bb", "ccc", "dddd", "eeeee")


@functools.cache
def _weights(prompts: tuple[str, ...], steps: int, head_dim: int) -> dict[str, torch.Tensor]:
    made, read = tiny_model(head_dim=head_dim), tokenizer()
    texts = [f"{prompt}{answer}{read.eos_token}" for prompt in prompts for answer in ANSWERS]
    rows = [torch.tensor(read(text)["input_ids"]) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    labels = ids.masked_fill(torch.arange(ids.shape[1]) >= lengths[:, None], -100)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(steps):
        made(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return made.state_dict()


def save_short_answers(folder: Path, prompts: Sequence[str], *, steps: int = 40, head_dim: int = 8) -> Path:
    """A model folder; the model has learnt to answer these texts with one of `ANSWERS`, none of them preferred."""
    made = tiny_model(head_dim=head_dim)
    made.load_state_dict(_weights(tuple(prompts), steps, head_dim))
    save_model(made, tokenizer(), folder)
    return folder
