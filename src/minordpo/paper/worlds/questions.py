"""Questions of the micro world, each with the answer in two styles, and the unrelated tasks beside them.

A base model mostly answers tersely; preference pairs are worked. So a model that only learns to imitate the chosen
style is seen to do so, as where a pretrained model meets somebody's solutions.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

ASKED = "So the answer is: {answer}"  # the line that the strict parser reads
Family = Literal["chain", "scale"]
Distance = Literal["none", "half", "full"]
# Of what the base is trained on: terse answers, worked ones. The rest are tasks beside them. The further its own style
# is from the chosen answers', the more there is to imitate.
MIXTURE: dict[Distance, tuple[float, float]] = {"none": (0.0, 0.8), "half": (0.4, 0.4), "full": (0.7, 0.1)}
SLIP = 0.1  # of the worked steps a base model is trained on, the share with a wrong result


@dataclass(frozen=True)
class Question:
    """What is asked, and the steps to the answer: what is computed, and what comes out."""

    text: str
    steps: tuple[tuple[str, int], ...]

    @property
    def answer(self) -> int:
        """The last step's result."""
        return self.steps[-1][1]

    def terse(self) -> str:
        """Results alone: "160,98,181=181"."""
        return ",".join(str(result) for _, result in self.steps) + f"={self.answer}"

    def worked(self) -> str:
        """A line a step, and the asked line."""
        lines = [f"{term}={result}" for term, result in self.steps]
        return "\n".join((*lines, ASKED.format(answer=self.answer)))


def draw(family: Family, rng: random.Random, *, slip: float = 0.0) -> Question:
    """A question of the family; each step's result is wrong with probability `slip`, and carried on."""
    return _FAMILIES[family](rng, slip)


def _chain(rng: random.Random, slip: float) -> Question:
    """Four numbers of two digits, added and subtracted from left to right: "87+73-62+83?"."""
    total = rng.randint(10, 99)
    text, steps, true = str(total), [], total
    for _ in range(3):
        number = rng.randint(10, 99)
        # Chosen by the true total, so that a slip changes no question; results stay above zero.
        sign = "-" if true > number + 9 and rng.random() < 0.5 else "+"
        text += f"{sign}{number}"
        change = number if sign == "+" else -number
        true += change
        term, total = f"{total}{sign}{number}", _slipped(total + change, rng, slip)
        steps.append((term, total))
    return Question(f"{text}?\n", tuple(steps))


def _scale(rng: random.Random, slip: float) -> Question:
    """A number taken through multiplications, divisions that come out even, and small sums: "12 *3 -6 /2?"."""
    total = rng.randint(4, 30)
    text, steps, true = str(total), [], total
    for _ in range(3):
        moves = [("*", k) for k in (2, 3, 4, 5) if true * k < 1000]
        moves += [("/", k) for k in (2, 3, 4, 5) if true % k == 0 and true // k > 1]
        moves += [("+", rng.randint(2, 30)), ("-", rng.randint(1, max(1, true - 2)))]
        sign, number = rng.choice([move for move in moves if move[0] != "-" or move[1] < true])
        text += f" {sign}{number}"
        results = {"*": true * number, "/": true // number, "+": true + number, "-": true - number}
        slips = {"*": total * number, "/": total // number, "+": total + number, "-": max(0, total - number)}
        true = results[sign]
        term, total = f"{total}{sign}{number}", _slipped(slips[sign], rng, slip)
        steps.append((term, total))
    return Question(f"{text}?\n", tuple(steps))


def _slipped(result: int, rng: random.Random, slip: float) -> int:
    return max(0, result + rng.choice((-10, -1, 1, 10))) if rng.random() < slip else result


_FAMILIES: dict[Family, Callable[[random.Random, float], Question]] = {"chain": _chain, "scale": _scale}


@dataclass(frozen=True)
class Task:
    """Something else that the base can do and that tuning should not unlearn."""

    text: str
    answer: str


def draw_task(rng: random.Random) -> Task:
    """Sort six digits, or turn six letters round."""
    if rng.random() < 0.5:
        digits = [rng.choice("0123456789") for _ in range(6)]
        return Task(f"sort {''.join(digits)}?\n", "".join(sorted(digits)))
    letters = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
    return Task(f"reverse {letters}?\n", letters[::-1])
