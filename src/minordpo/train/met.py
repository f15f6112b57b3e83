"""What a run meets, and so needs reference log-probs of: examples by their numbers, mismatched pairings by theirs."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from minordpo.data.stored import StoredExamples
from minordpo.train.loader import Item


@dataclass(frozen=True, eq=False)
class Met:
    """Examples and pairings of each split ("train", "eval"), one split after the other."""

    examples: StoredExamples
    splits: dict[str, _Names]

    @classmethod
    def of(
        cls,
        splits: Mapping[str, tuple[StoredExamples, np.ndarray]],
        pairings: Mapping[str, Sequence[Item]],
    ) -> Met:
        """Of each split its examples, the numbers of those that are met, ascending, and the pairings."""
        parts, named, start = [], {}, 0
        for split, (examples, numbers) in splits.items():
            others = dict(pairings[split])
            first = start + len(numbers)
            named[split] = _Names(start, numbers, {name: first + i for i, name in enumerate(others)})
            parts += [examples.take(numbers), StoredExamples.of(list(others.values()))]
            start = first + len(others)
        return cls(StoredExamples.joined(parts), named)

    def by_name(self, logps: Sequence[np.ndarray]) -> dict[str, Mapping[Hashable, np.ndarray]]:
        """Log-probs of `examples` as each split's steps ask for them; what no step meets has none."""
        return {split: _ByName(logps, names) for split, names in self.splits.items()}


@dataclass(frozen=True, eq=False)
class _Names:
    start: int  # place of the split's first example
    numbers: np.ndarray  # of its examples, ascending
    others: dict[Hashable, int]  # place of each pairing

    def place(self, name: Hashable) -> int:
        if not isinstance(name, int):
            return self.others[name]
        at = int(np.searchsorted(self.numbers, name))
        if at == len(self.numbers) or self.numbers[at] != name:
            raise KeyError(name)
        return self.start + at


class _ByName(Mapping[Hashable, np.ndarray]):
    """Log-probs by the names that steps know examples by; each is read when it is asked for."""

    def __init__(self, logps: Sequence[np.ndarray], names: _Names) -> None:
        self._logps, self._names = logps, names

    def __getitem__(self, name: Hashable) -> np.ndarray:
        return self._logps[self._names.place(name)]

    def __len__(self) -> int:
        return len(self._names.numbers) + len(self._names.others)

    def __iter__(self) -> Iterator[Hashable]:
        yield from self._names.numbers.tolist()
        yield from self._names.others
