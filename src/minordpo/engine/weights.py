"""Digests of the weights that a run starts from: each model is read once, however many ask."""

from __future__ import annotations

import functools

import torch
import xxhash
from torch import nn

from minordpo.engine.models import POLICY_ADAPTER
from minordpo.engine.quantized import plain_values


class InitialWeights:
    """Digests of the policy and of another reference as they were when a digest was first asked for.

    `new_adapter` leaves the adapter being trained out of the policy's digest: the adapter is random, and off in the
    reference.
    """

    def __init__(self, policy: nn.Module, other: nn.Module | None, *, new_adapter: bool) -> None:
        self._policy, self._other, self.new_adapter = policy, other, new_adapter

    @functools.cached_property
    def _digests(self) -> tuple[str, str, str]:
        policy = feed_weights(self._policy, xxhash.xxh3_128(), new_adapter=self.new_adapter)
        if self._other is None:
            return policy.hexdigest(), policy.hexdigest(), policy.hexdigest()
        alone, both = xxhash.xxh3_128(), policy.copy()
        feed_weights(self._other, alone, both, new_adapter=False)
        return policy.hexdigest(), alone.hexdigest(), both.hexdigest()

    @property
    def policy(self) -> str:
        """Hex digest of the policy's weights."""
        return self._digests[0]

    @property
    def reference(self) -> str:
        """Hex digest of the reference's weights: the policy's where the reference is no other model."""
        return self._digests[1]

    @property
    def run(self) -> str:
        """Hex digest of all weights that the run depends on, as environment.json has it."""
        return self._digests[2]


def feed_weights(model: nn.Module, *digests: xxhash.xxh3_128, new_adapter: bool) -> xxhash.xxh3_128:
    """The first digest, after names, types, shapes and values of all weights went into every digest."""
    for name, tensor in sorted(model.state_dict().items()):
        if new_adapter and f".{POLICY_ADAPTER}." in name:
            continue
        values = plain_values(tensor.detach()).contiguous().cpu().view(-1).view(torch.uint8).numpy()
        for digest in digests:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(values.data)
    return digests[0]
