"""Where a run's reference log-probs come from: another model, or the policy as it is before training."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainingArguments

from minordpo.data.packing import PackedBatch
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenExample
from minordpo.engine.check import check_engine, refuse_unknown_tokens
from minordpo.engine.device import autocast
from minordpo.engine.logprobs import engine_attention
from minordpo.engine.models import load_model, switch_off_dropout
from minordpo.engine.quantized import score_mode
from minordpo.engine.ranks import Ranks, leave_at_exit
from minordpo.engine.reference import as_reference, fingerprint, reference_logps
from minordpo.engine.reference_cache import KnownLogps, ReferenceCache
from minordpo.engine.row_floor import RowFloor, kept_row_floor
from minordpo.engine.weights import InitialWeights
from minordpo.run_folder import names


class ReferencePass:
    """The reference of a run, run as the policy is: same engine, device and autocast, dropout off.

    With `other` it is that model; without, the policy's own weights, with the adapter being trained off.
    """

    def __init__(
        self,
        policy: nn.Module,
        other: PreTrainedModel | PeftModel | None,
        *,
        weights: InitialWeights,
        args: TrainingArguments,
        cache: Path | None,
        token_budget: int,
    ) -> None:
        self.is_policy = other is None
        self.model: Any = policy if other is None else other
        self.weights, self.new_adapter = weights, weights.new_adapter and other is None
        self.args, self.cache, self.token_budget = args, cache, token_budget
        self.floor = RowFloor(0, 0.0)

    def measure_rows(self, pairs: Sequence[TokenExample]) -> RowFloor:
        """Know how long rows must be, keep to it from now on, and say what a user should know of it.

        It is measured once for all runs of this reference on the same pairs.
        """
        with self._ready(), autocast(self.args):
            self.floor = kept_row_floor(
                None if self.cache is None else self.cache / names.CACHED_FLOORS,
                self._fingerprint(),
                self.model,
                pairs,
                token_budget=self.token_budget,
                bf16=self.args.bf16,
            )
        for line in self.floor.lines() if self.args.process_index == 0 else ():
            print(line, flush=True)
        return self.floor

    def logps(self, pairs: StoredExamples, *, progress: bool = False) -> KnownLogps:
        """Token log-probs of each pair, as `reference_logps` has them, computed by all ranks; all must call this."""
        together = ranks(self.args)
        with self._ready(), contextlib.ExitStack() as stack:
            stored = self._stored()
            if together.world == 1 and not stored.has(pairs.keys).all():
                # Runs side by side that share a reference: one computes it, the others read it.
                stack.enter_context(stored.computed_once())
            return self._computed(pairs, stored, progress=progress, ranks=together)

    def logps_alone(self, pairs: Sequence[TokenExample]) -> KnownLogps:
        """The same, computed anew by this rank alone, and not kept."""
        with self._ready():
            return self._computed(pairs, ReferenceCache(None, ""))

    def _computed(self, pairs: Sequence[TokenExample], cache: ReferenceCache, **options: Any) -> KnownLogps:
        return reference_logps(
            self.model,
            pairs,
            cache,
            token_budget=self.token_budget,
            autocast=autocast(self.args),
            least_tokens=self.floor.tokens,
            **options,
        )

    def row_logps(self, row: PackedBatch, *, run: Any = None) -> Tensor:
        """Log-probs of a row's scored tokens under the reference; `run` runs the model in place of itself."""
        with torch.no_grad(), self._ready():
            training = self.model.training
            score_mode(self.model)
            try:
                return (run or self.model)(input_ids=row.input_ids[None], packed=row)
            finally:
                self.model.train(training)

    def missing(self, pairs: StoredExamples) -> StoredExamples:
        """The pairs whose log-probs are not in the cache, each content once."""
        with self._ready():
            stored = self._stored()
        _, first = np.unique(pairs.keys.view("S16"), return_index=True)
        return pairs.take(np.sort(first[~stored.has(pairs.keys[first])]))

    def _stored(self) -> ReferenceCache:
        return ReferenceCache(self.cache, self._fingerprint())

    def _fingerprint(self) -> str:
        precision = "bfloat16" if self.args.bf16 else "none"
        return fingerprint(self.model, autocast=precision, weights=self.weights.reference)

    @contextlib.contextmanager
    def _ready(self) -> Iterator[None]:
        self.model.to(self.args.device)
        with (
            as_reference(self.model, new_adapter=self.new_adapter),
            engine_attention(self.model),
        ):
            yield


def other_reference(
    given: PreTrainedModel | PeftModel | str | None,
    pairs: StoredExamples,
    *,
    say: Callable[[str], None],
) -> PreTrainedModel | PeftModel | None:
    """A reference other than the policy, loaded where it is a name, checked and ready to run packed rows.

    `pairs` are all that it will meet. `say` receives a line where it cannot run packed.
    """
    if given is None:
        return None
    model = load_model(given) if isinstance(given, str) else given
    refuse_unknown_tokens(
        model, pairs.largest_id, remedy="Name a reference (model.reference) of the same family"
    )
    switch_off_dropout(model)
    checked = check_engine(model, longest=pairs.longest)
    if line := checked.line(pairs):
        say(f"the reference: {line}")
    return model.eval()


def ranks(args: TrainingArguments) -> Ranks:
    """This process among those that train together, which it leaves when it ends."""
    if args.world_size > 1:
        leave_at_exit()
    return Ranks(args.process_index, args.world_size, args.device)
