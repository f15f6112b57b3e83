"""Reference passes of two processes: `fork_ranks("helpers.shared_passes:main", FOLDER, …)`.

What process R found is in FOLDER/<case>-R.json: the bits of its values and how many rows it ran, or its error.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import distributed

from helpers.tiny_runs import tiny_model, token_pairs
from minordpo.data.tokens import TokenExample
from minordpo.engine import ranks as ranks_module
from minordpo.engine import reference
from minordpo.engine.attention import NAME, attention_switched
from minordpo.engine.logprobs import install
from minordpo.engine.ranks import ALONE, Ranks
from minordpo.engine.reference import reference_logps
from minordpo.engine.reference_cache import ReferenceCache
from minordpo.errors import InputError

PAIRS = 7
PIECE, WAIT = 1.7, 4  # seconds of a piece of work, and of the longest wait for a collective: not 3 pieces
PACKED = reference.packed_logps


class Pass:
    """One process's passes over a tiny model."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks, self.rows = ranks, 0
        self.model = tiny_model()
        install(self.model)
        reference.packed_logps = self._counted
        self.fails_at: tuple[int, Exception] | None = None

    def _counted(self, *args: Any) -> Any:
        self.rows += 1
        if self.fails_at is not None and self.rows > self.fails_at[0]:
            raise self.fails_at[1]
        return PACKED(*args)

    def __call__(
        self, examples: Sequence[TokenExample], cache: ReferenceCache | None = None, **options: Any
    ) -> list[np.ndarray]:
        self.rows = 0
        cache = ReferenceCache(None, "") if cache is None else cache
        with attention_switched(self.model, NAME):
            return reference_logps(
                self.model, examples, cache, **{"token_budget": 64, "ranks": self.ranks} | options
            )


def cases(run: Pass, folder: Path) -> dict[str, Callable[[], list[np.ndarray]]]:
    """Each case as process `run.ranks.rank` takes part in it."""
    pairs, rank = token_pairs(PAIRS), run.ranks.rank

    def shared(name: str) -> ReferenceCache:
        return ReferenceCache(folder / name, "k")

    def failing(error: Exception, *, on: int) -> list[np.ndarray]:
        run.fails_at = (1, error) if rank == on else None
        try:
            return run(pairs, shared(f"failing-{type(error).__name__}"))
        finally:
            run.fails_at = None

    def full_disk() -> list[np.ndarray]:
        cache = shared("full")
        if rank == 1:
            cache._folder = Path(__file__)  # a file, in which no folder can be made
        return run(pairs, cache)

    def rounds() -> list[np.ndarray]:
        whole, ranks_module.ROWS = ranks_module.ROWS, 1
        try:
            return run([*pairs, *token_pairs(23), pairs[3]], shared("rounds"))
        finally:
            ranks_module.ROWS = whole

    return {
        "no folder": lambda: run(pairs, progress=rank == 0),
        "folder": lambda: run(pairs, shared("folder")),
        "read again": lambda: run(pairs[::-1], shared("folder"))[::-1],
        "partly filled": lambda: run(pairs, shared("partly")),
        "own folders": lambda: run(pairs, shared(f"own{rank}")),
        "one pair": lambda: run(pairs[:1]),
        "no pairs": lambda: run([]),
        "rounds": rounds,
        "input error": lambda: failing(InputError("row 3 is bad. Drop it"), on=1),
        "bug": lambda: failing(KeyError("left out"), on=0),
        "full disk": full_disk,
        "other pairs": lambda: run(pairs[rank:]),
        "other model": lambda: run(pairs, ReferenceCache(None, f"k{rank}")),
        "after errors": lambda: run(pairs, shared("failing-InputError")),
    }


def work(ranks: Ranks, *, fails: bool = False) -> dict[str, float]:
    """Rank 0 works for longer than a collective waits, telling that it gets on; the other's wait, in seconds."""
    started = time.perf_counter()
    with ranks.first_works() as go_on:
        for piece in range(3 if ranks.rank == 0 else 0):
            time.sleep(PIECE)
            go_on()
            if fails and piece == 1:
                raise InputError("the folder is full")
    return {"seconds": time.perf_counter() - started}


def attempt(path: Path, do: Callable[[], Any]) -> None:
    """Do it, and write down what comes of it."""
    started = time.perf_counter()
    try:
        made = do()
    except Exception as error:
        made = {
            "kind": type(error).__name__,
            "error": str(error),
            "seconds": time.perf_counter() - started,
        }
    path.write_text(json.dumps(made))


def facts(found: list[np.ndarray], run: Pass) -> dict[str, Any]:
    return {"values": [each.tobytes().hex() for each in found], "rows": run.rows}


def main(folder: Path) -> None:
    distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    run = Pass(Ranks(distributed.get_rank(), distributed.get_world_size()))
    rank, pairs = run.ranks.rank, token_pairs(PAIRS)
    if rank == 0:  # before all else, what is there already; and what one process alone finds
        run(pairs[2:4], ReferenceCache(folder / "partly", "k"), ranks=ALONE)
        run(pairs[:2], ReferenceCache(folder / "own0", "k"), ranks=ALONE)
        run(pairs[1:5], ReferenceCache(folder / "own1", "k"), ranks=ALONE)
        attempt(folder / "alone.json", lambda: facts(run(token_pairs(23), ranks=ALONE), run))
    distributed.barrier()
    for name, case in cases(run, folder).items():
        attempt(folder / f"{name}-{rank}.json", lambda case=case: facts(case(), run))
    distributed.destroy_process_group()
    # Not through torchrun's store again, which still holds the first group's addresses.
    meet = {"init_method": f"file://{folder}/meet", "rank": rank, "world_size": run.ranks.world}
    distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=WAIT), **meet)
    attempt(folder / f"long work-{rank}.json", lambda: work(run.ranks))
    attempt(folder / f"failing work-{rank}.json", lambda: work(run.ranks, fails=True))
    distributed.destroy_process_group()
