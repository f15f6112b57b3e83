"""Processes (ranks) that compute together: who has what, shares of the rest, results for all, failing as one."""

from __future__ import annotations

import atexit
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import distributed

from minordpo.data.packing import split
from minordpo.errors import InputError

# Rows of a round, for each rank. At a round's end all ranks wait for the slowest, by what a round's shares take to
# differ: seconds, where whole shares of a long pass may differ by more than a collective waits (30 minutes).
ROWS = 16


@dataclass(frozen=True)
class Ranks:
    """This process among those that compute together; alone, nothing is waited for.

    What is exchanged goes through collectives and never through files: nodes need share no folder, and nobody waits for
    a file system to show what another wrote.
    """

    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"

    def owners(self, has: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
        """For each item the first rank that has it (`world` where none has), and whether all ranks have it."""
        here = torch.tensor(has, dtype=torch.bool)
        found = torch.stack([torch.where(here, self.rank, self.world), here.long()]).to(self.device)
        if self.world > 1:
            distributed.all_reduce(found, op=distributed.ReduceOp.MIN)
        owner, everywhere = found.cpu().numpy()
        return owner, everywhere.astype(bool)

    def gather(self, values: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
        """Each rank's float32 values, of which rank r has `lengths[r]`; bit for bit."""
        if self.world == 1:
            return [values]
        own = torch.zeros(max(lengths), device=self.device)
        own[: len(values)] = torch.from_numpy(values)
        everyone = own.new_empty(self.world * len(own))
        distributed.all_gather_into_tensor(everyone, own)
        rows = everyone.view(self.world, -1).cpu().numpy()
        return [row[:length] for row, length in zip(rows, lengths, strict=True)]

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Ends on every rank with an error where it does on one; the others wait for it here, not in what follows.

        A process that is killed says nothing: torchrun ends the others, or the next collective fails.

        Raises:
            InputError, RuntimeError: what another rank ended with, a user's error or any other.
        """
        if self.world == 1:
            yield
            return
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        self._tell(own)

    @contextlib.contextmanager
    def first_works(self) -> Iterator[Callable[[], object]]:
        """Rank 0 works in the body, which is empty for the others: they wait at its end, and fail with it.

        Rank 0 calls what is yielded as it gets on: then the whole may take longer than a collective waits.

        Raises:
            InputError, RuntimeError: what rank 0 ended with.
        """
        if self.rank == 0 and self.world > 1:
            with self.failing_together():
                yield lambda: self._tell(None, done=False)
            return
        yield lambda: None
        while self.world > 1 and not self._tell(None):
            pass

    def refuse_different(self, digest: str, what: str) -> None:
        """Refuse to go on where ranks do not compute the same.

        Raises:
            InputError: `digest` is not the same on all.
        """
        if self.world == 1:
            return
        digests: list[str | None] = [None] * self.world
        distributed.all_gather_object(digests, digest)
        other = next((rank for rank, each in enumerate(digests) if each != digests[0]), None)
        if other is not None:
            raise InputError(
                f"process {other} has {what} other than process 0's, but all must have the same. Give every node the "
                "same files"
            )

    def _tell(self, own: Exception | None, *, done: bool = True) -> bool:
        """Whether all ranks are done; an error of one is raised on all."""
        mine = None
        if own is not None:
            expected = isinstance(own, InputError)
            mine = expected, str(own) if expected else f"{type(own).__name__}: {own}"
        said: list[Any] = [None] * self.world
        distributed.all_gather_object(said, (done, mine))
        if own is not None:
            raise own
        for rank, (_, error) in enumerate(said):
            if error is not None:
                expected, text = error
                raise (InputError if expected else RuntimeError)(f"process {rank} stopped: {text}")
        return all(each for each, _ in said)


ALONE = Ranks()


def leave_at_exit() -> None:
    """Have this process leave the others before it ends.

    One that ended among them was now and then aborted by a thread of its group (gloo, torch 2.13: "terminate called
    without an active exception"), upon which torchrun ended the first process while that still saved the model.
    """
    atexit.unregister(_leave)
    atexit.register(_leave)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def rounds(
    sizes: Sequence[int], owners: Sequence[int], ranks: Ranks, *, token_budget: int
) -> Iterator[list[list[int]]]:
    """Items of these sizes dealt to ranks, round by round: in a round, each rank's items.

    An item that a rank has is in its share; the others are dealt so that shares are of nearly equal size. A round has
    `ROWS` rows of `token_budget` tokens and `ROWS` items a rank, or a little more.
    """
    start = total = 0
    for end, size in enumerate(sizes, 1):
        total += size
        full = total >= ROWS * ranks.world * token_budget and end - start >= ROWS * ranks.world
        if full or end == len(sizes):
            free = [i for i in range(start, end) if owners[i] == ranks.world]
            dealt = split([sizes[i] for i in free], ranks.world)
            yield [
                sorted([*(i for i in range(start, end) if owners[i] == rank), *(free[j] for j in share)])
                for rank, share in enumerate(dealt)
            ]
            start, total = end, 0
