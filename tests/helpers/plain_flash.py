"""A plain stand-in for torch's varlen_attn, which runs everywhere."""

from __future__ import annotations

import torch
from torch import Tensor


def plain_varlen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    most_queries: int,
    most_keys: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> Tensor:
    """What flash attention means: sequence by sequence, the queries being the last of the keys."""
    assert window_size[1] == 0
    if enable_gqa:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    outputs = []
    for number in range(len(query_ends) - 1):
        q = query[query_ends[number] : query_ends[number + 1]].transpose(0, 1)
        k, v = (x[key_ends[number] : key_ends[number + 1]].transpose(0, 1) for x in (key, value))
        assert q.shape[1] <= most_queries
        assert k.shape[1] <= most_keys
        places = torch.arange(k.shape[1])
        at = places[-q.shape[1] :, None]
        hidden = places > at
        if window_size[0] >= 0:
            hidden |= at - places > window_size[0]
        scores = (q @ k.transpose(1, 2) * scale).masked_fill(hidden, float("-inf"))
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(outputs)
