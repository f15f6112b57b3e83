"""Reference log-probs: computed once per content, kept on disk per token in float32.

The key is what the numbers depend on (weights, tokens, precision, device, engine version), never a path or a row
number, so runs that differ in objective, β, rate or seed share one pass, and a changed checkpoint never meets stale
values.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from peft import PeftModel
from torch import nn
from tqdm import tqdm

from minordpo.data.packing import pack, split_by_budget, tree_size
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenExample
from minordpo.engine.logprobs import packed_logps
from minordpo.engine.models import POLICY_ADAPTER, REFERENCE_ADAPTER, causal_model, tuner
from minordpo.engine.quantized import score_mode
from minordpo.engine.ranks import ALONE, Ranks, rounds
from minordpo.engine.reference_cache import KnownLogps, ReferenceCache

ENGINE_VERSION = 4  # raise it when the engine's numbers change
# What a config says that no log-prob depends on, and that saving, loading or aligning with a tokenizer changes; the
# class and the weights' dtypes are told apart by themselves.
_IRRELEVANT = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "use_cache"),
    *("_attn_implementation_internal", "pad_token_id", "bos_token_id", "eos_token_id"),
)


def fingerprint(model: nn.Module, *, autocast: str, weights: str) -> str:
    """Hex digest of everything but the tokens that reference log-probs depend on; `weights` stands for the weights.

    Under autocast the kind of processor is part of it, and its threads: rounding differs between them by as much as a
    nat a response.
    """
    base = causal_model(model)
    config: dict[str, Any] = base.config.to_dict()
    for irrelevant in _IRRELEVANT:
        config.pop(irrelevant, None)
    device = next(model.parameters()).device.type
    if autocast != "none":
        cpu = f"{torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
        device = f"{device} {torch.cuda.get_device_name() if device == 'cuda' else cpu}"
    digest = xxhash.xxh3_128(f"{ENGINE_VERSION} {autocast} {device} {type(base).__name__} {weights}".encode())
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@contextlib.contextmanager
def as_reference(model: nn.Module, *, new_adapter: bool) -> Iterator[None]:
    """The model as it was before the adapter being trained: an SFT adapter below it stays on, and frozen.

    peft's `disable_adapter` would drop that one too, and `set_adapter` would make it trainable.
    """
    if not (new_adapter and isinstance(model, PeftModel)):
        yield
        return
    if REFERENCE_ADAPTER not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    tuner(model).set_adapter(REFERENCE_ADAPTER)
    try:
        yield
    finally:
        tuner(model).set_adapter([REFERENCE_ADAPTER, POLICY_ADAPTER])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trainable)


def reference_logps(
    model: nn.Module,
    examples: Sequence[TokenExample],
    cache: ReferenceCache,
    *,
    token_budget: int,
    autocast: contextlib.AbstractContextManager | None = None,
    progress: bool = False,
    label: str = "reference",
    least_tokens: int | None = 0,
    ranks: Ranks = ALONE,
) -> KnownLogps:
    """Token log-probs of each example, (scored tokens of all its responses,) float32 in nats, best response first.

    `ranks` compute what none of them has, each its share, and all get everything; every one of them must call this.
    Only what a rank computed goes into its cache folder. `progress` is shown over the shares of all.

    `least_tokens` are the tokens from which on all rows give an example the same bits (`RowFloor.tokens`): rows are
    filled up to `token_budget`, or to `least_tokens`. Where it is 0 or None, each missing example is a row of its own
    on a CPU, so that it can be computed again to the same bits. On a GPU, where it is None, an example's numbers
    depend, by rounding, on which others were missing and on how ranks shared them. Dropout is off.

    Raises:
        InputError: the cache cannot be written, on any rank; ranks have other examples or models.
    """
    stored = StoredExamples.of(examples)
    _, first = np.unique(stored.keys.view("S16"), return_index=True)
    distinct = np.sort(first)
    keys = stored.keys[distinct]
    ranks.refuse_different(xxhash.xxh3_128_hexdigest(keys.tobytes()), "pairs")
    ranks.refuse_different(cache.fingerprint, "a reference model or precision")
    owners, everywhere = ranks.owners(cache.has(keys).tolist())
    pending, keys, owners = distinct[~everywhere], keys[~everywhere], owners[~everywhere]
    sizes = stored.sizes[pending].tolist()
    missing = owners == ranks.world
    training = model.training
    score_mode(model)
    bar = tqdm(total=int(missing.sum()), desc=label, unit="prompt", disable=not (progress and missing.any()))
    try:
        for shares in rounds(sizes, owners.tolist(), ranks, token_budget=token_budget):
            members = [{keys[i].tobytes(): stored[int(pending[i])] for i in share} for share in shares]
            before, due = bar.n, sum(bool(missing[i]) for share in shares for i in share)
            with ranks.failing_together():
                for done in _compute(model, members[ranks.rank], cache, token_budget, autocast, least_tokens):
                    # The others are about as far: their shares are as long.
                    bar.update(before + int(due * done) - bar.n)
            bar.update(before + due - bar.n)
            _exchange(members, cache, ranks)
        with ranks.failing_together():
            cache.flush()
    finally:
        cache.flush()
        bar.close()
        model.train(training)
    return KnownLogps(cache, stored.keys)


def _compute(
    model: nn.Module,
    examples: dict[bytes, TokenExample],
    cache: ReferenceCache,
    token_budget: int,
    autocast: contextlib.AbstractContextManager | None,
    least_tokens: int | None,
) -> Iterator[float]:
    """Put what the cache lacks of these into it; after each row, the share of them that is done."""
    missing = [key for key in examples if key not in cache]
    sizes = [tree_size(examples[key]) for key in missing]
    device = next(model.parameters()).device
    alone = device.type == "cpu" and not least_tokens
    rows = [[i] for i in range(len(missing))] if alone else split_by_budget(sizes, token_budget)
    done = 0
    for row in rows if missing else ():
        batch = pack([examples[missing[i]] for i in row], at_least=least_tokens or 0).to(device)
        with torch.no_grad(), autocast or contextlib.nullcontext():
            token_logps = packed_logps(model, batch)
        members = token_logps[batch.member_tokens].float().cpu().numpy()
        counts = torch.bincount(batch.groups, weights=batch.lengths.double()).long()
        for i, logps in zip(row, np.split(members, counts.cumsum(0)[:-1].tolist()), strict=True):
            cache.add(missing[i], logps)
        done += len(row)
        yield done / len(missing)


def _exchange(shares: list[dict[bytes, TokenExample]], cache: ReferenceCache, ranks: Ranks) -> None:
    """Every rank's share to all the others; how long each example's values are, all know."""
    if ranks.world == 1:
        return
    lengths = [
        [sum(int(r.scored.sum()) for r in each.responses) for each in share.values()] for share in shares
    ]
    own = [cache[key] for key in shares[ranks.rank]]
    values = np.concatenate(own) if own else np.empty(0, np.float32)
    everyone = ranks.gather(values, [sum(each) for each in lengths])
    for share, found, counts in zip(shares, everyone, lengths, strict=True):
        for key, end, count in zip(share, np.cumsum(counts, dtype=int), counts, strict=True):
            cache.receive(key, found[end - count : end])
