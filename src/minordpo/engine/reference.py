"""Reference log-probs: computed once per content, kept on disk per token in float32.

The key is what the numbers depend on (weights, tokens, precision, device, engine version), never a path or a row
number, so runs that differ in objective, β, rate or seed share one pass, and a changed checkpoint never meets stale
values.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn
from tqdm import tqdm

from minordpo.data.packing import pack, split_by_budget, tree_size
from minordpo.data.stored import example_key
from minordpo.data.tokens import TokenExample
from minordpo.engine.logprobs import packed_logps
from minordpo.engine.models import POLICY_ADAPTER, REFERENCE_ADAPTER, causal_model, tuner
from minordpo.engine.ranks import ALONE, Ranks, rounds
from minordpo.run_folder.files import replacing, writing
from minordpo.run_folder.lock import locked

ENGINE_VERSION = 2  # raise it when the engine's numbers change
# What a config says that no log-prob depends on, and that saving, loading or aligning with a tokenizer changes; the
# class and the weights' dtypes are told apart by themselves.
_IRRELEVANT = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "use_cache"),
    *("_attn_implementation_internal", "pad_token_id", "bos_token_id", "eos_token_id"),
)
SHARD_SIZE = 512  # examples written at a time; a killed pass loses at most these


class ReferenceCache:
    """Token log-probs on disk, one folder per fingerprint; shards are written whole, by any number of processes.

    With `folder=None` nothing is kept.
    """

    def __init__(self, folder: Path | None, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._folder = None if folder is None else folder / fingerprint
        self._known: dict[bytes, np.ndarray] = {}
        self._fresh: dict[bytes, np.ndarray] = {}
        self._read: set[str] = set()
        self._read_new()

    @contextlib.contextmanager
    def computed_once(self) -> Iterator[None]:
        """Wait until no other process computes for this folder, and know what it has left there."""
        if self._folder is None:
            yield
            return
        with contextlib.ExitStack() as stack:
            # Where a folder cannot be made or locked, processes come as they come: what is computed twice is right.
            with contextlib.suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self._folder))
            self._read_new()
            yield

    def _read_new(self) -> None:
        for shard in sorted(self._folder.glob("*.safetensors")) if self._folder else ():
            if shard.name not in self._read:
                self._known.update(_read_shard(shard))
                self._read.add(shard.name)

    def __contains__(self, key: bytes) -> bool:
        return key in self._known

    def __getitem__(self, key: bytes) -> np.ndarray:
        return self._known[key]

    def add(self, key: bytes, logps: np.ndarray) -> None:
        """Keep one example's log-probs; every `SHARD_SIZE` of them go to disk."""
        self._known[key] = self._fresh[key] = logps
        if len(self._fresh) >= SHARD_SIZE:
            self.flush()

    def receive(self, key: bytes, logps: np.ndarray) -> None:
        """Know one example's log-probs that another rank keeps on disk."""
        self._known.setdefault(key, logps)

    def flush(self) -> None:
        """Write what is not on disk yet."""
        if self._folder is None or not self._fresh:
            return
        keys = b"".join(self._fresh)
        tensors: dict[str, np.ndarray] = {
            "keys": np.frombuffer(keys, np.uint8).reshape(-1, 16),
            "lengths": np.array([len(logps) for logps in self._fresh.values()], np.int64),
            "logps": np.concatenate(list(self._fresh.values())),
        }
        advice = "Free some space, or name another folder by the environment variable MINORDPO_CACHE"
        with writing(self._folder, advice):
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(self._folder / f"{xxhash.xxh3_128_hexdigest(keys)}.safetensors") as aside:
                save_file(tensors, aside)
        self._fresh = {}


def _read_shard(shard: Path) -> dict[bytes, np.ndarray]:
    try:
        with safe_open(shard, framework="numpy") as tensors:
            keys, lengths, logps = (tensors.get_tensor(name) for name in ("keys", "lengths", "logps"))
    except (SafetensorError, OSError):
        return {}  # not whole, for instance cut off by a full disk: its pairs are computed again
    return dict(zip([key.tobytes() for key in keys], np.split(logps, np.cumsum(lengths)[:-1]), strict=True))


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
) -> list[np.ndarray]:
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
    keys = [example_key(example) for example in examples]
    distinct = dict(zip(keys, examples, strict=True))
    ranks.refuse_different(xxhash.xxh3_128_hexdigest(b"".join(distinct)), "pairs")
    ranks.refuse_different(cache.fingerprint, "a reference model or precision")
    owners, everywhere = ranks.owners([key in cache for key in distinct])
    pending = [key for key, known in zip(distinct, everywhere, strict=True) if not known]
    owners = owners[~everywhere]
    sizes = [tree_size(distinct[key]) for key in pending]
    missing = owners == ranks.world
    training = model.training
    model.eval()
    bar = tqdm(total=int(missing.sum()), desc=label, unit="prompt", disable=not (progress and missing.any()))
    try:
        for shares in rounds(sizes, owners.tolist(), ranks, token_budget=token_budget):
            members = [{pending[i]: distinct[pending[i]] for i in share} for share in shares]
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
    return [cache[key] for key in keys]


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
