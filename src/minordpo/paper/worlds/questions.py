"""What a micro world is made of: questions with the answer in two styles, wrong answers, and unrelated tasks.

A base model mostly answers tersely; preference pairs are worked. So a model that only learns to imitate the chosen
style is seen to do so, as where a pretrained model meets somebody's solutions.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

ASKED = "So the answer is: {answer}"  # the line that the strict parser reads
Family = Literal["chain", "scale"]
Distance = Literal["none", "half", "full"]
Rejected = Literal["result", "quarter", "independent"]
# Of what the base is trained on: terse answers, worked ones. The rest are tasks beside them. The further its own style
# is from the chosen answers', the more there is to imitate.
MIXTURE: dict[Distance, tuple[float, float]] = {"none": (0.0, 0.8), "half": (0.4, 0.4), "full": (0.7, 0.1)}
SLIP = 0.1  # of the worked steps a base model is trained on, the share with a wrong result


@dataclass(frozen=True, kw_only=True)
class World:
    """What a micro world is made of; every seed draws another base, other pairs and other questions.

    `distance`: of the base's own style from the chosen answers'. `rejected`: how far the wrong answers are.
    `base_accuracy`: the share of its own questions that the base must be right in, from and to; null takes whatever
    `base_steps` give, which else are the most that it may take.
    """

    seed: int = 0
    family: Family = "chain"
    distance: Distance = "full"
    rejected: Rejected = "result"
    pairs: int = 3840
    base_steps: int = 2600
    base_accuracy: tuple[float, ...] | None = (0.45, 0.65)


@dataclass(frozen=True)
class Calculation:
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
        return "\n".join([*lines, ASKED.format(answer=self.answer)])


def draw(family: Family, rng: random.Random, *, slip: float = 0.0) -> Calculation:
    """A question of the family; each step's result is wrong with probability `slip`, and carried on."""
    return _FAMILIES[family](rng, slip)


def _chain(rng: random.Random, slip: float) -> Calculation:
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
    return Calculation(f"{text}?\n", tuple(steps))


_OPERATIONS = {"*": operator.mul, "/": operator.floordiv, "+": operator.add, "-": operator.sub}


def _scale(rng: random.Random, slip: float) -> Calculation:
    """A number taken through multiplications, divisions that come out even, and small sums: "12 *3 -6 /2?"."""
    total = rng.randint(4, 30)
    text, steps, true = str(total), [], total
    for _ in range(3):
        moves = [("*", k) for k in (2, 3, 4, 5) if true * k < 1000]
        moves += [("/", k) for k in (2, 3, 4, 5) if true % k == 0 and true // k > 1]
        moves += [("+", rng.randint(2, 30)), ("-", rng.randint(1, max(1, true - 2)))]
        sign, number = rng.choice([move for move in moves if move[0] != "-" or move[1] < true])
        text += f" {sign}{number}"
        compute = _OPERATIONS[sign]
        true = compute(true, number)
        # After a slip a difference may be below zero.
        term, total = f"{total}{sign}{number}", _slipped(max(0, compute(total, number)), rng, slip)
        steps.append((term, total))
    return Calculation(f"{text}?\n", tuple(steps))


def _slipped(result: int, rng: random.Random, slip: float) -> int:
    return max(0, result + rng.choice((-10, -1, 1, 10))) if rng.random() < slip else result


_FAMILIES: dict[Family, Callable[[random.Random, float], Calculation]] = {"chain": _chain, "scale": _scale}


def draw_task(rng: random.Random) -> tuple[str, str]:
    """Something else that the base can do and that tuning should not unlearn: sort six digits, or turn six letters."""
    if rng.random() < 0.5:
        digits = [rng.choice("0123456789") for _ in range(6)]
        return f"sort {''.join(digits)}?\n", "".join(sorted(digits))
    letters = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(6))
    return f"reverse {letters}?\n", letters[::-1]


# ---- wrong answers ----
def rejected(question: Calculation, kind: Rejected, family: Family, rng: random.Random) -> str:
    """A wrong worked answer.

    `result`: one result before the last is another number in every digit; all later text and the answer stay, as
    where the paper corrupts a solution. `quarter`: a quarter of the characters before the answer line are other
    digits. `independent`: the worked answer of another question, with another answer.
    """
    if kind == "result":
        return _one_result(question, rng)
    if kind == "quarter":
        return _quarter(question, rng)
    while True:
        other = draw(family, rng)
        if other.answer != question.answer:
            return other.worked()


def _one_result(question: Calculation, rng: random.Random) -> str:
    place = rng.randrange(len(question.steps) - 1)
    steps = list(question.steps)
    term, result = steps[place]
    steps[place] = (term, int(_other_digits(str(result), rng)))
    return Calculation(question.text, tuple(steps)).worked()


def _quarter(question: Calculation, rng: random.Random) -> str:
    *lines, last = question.worked().split("\n")
    text = list("\n".join(lines))
    digits = [place for place, character in enumerate(text) if character.isdigit()]
    for place in rng.sample(digits, min(len(digits), round(len(text) / 4))):
        text[place] = _other_digits(text[place], rng)
    return "".join(text) + "\n" + last


def _other_digits(number: str, rng: random.Random) -> str:
    """As many digits, none where it was; the first of several is no zero."""

    def others(place: int, old: str) -> list[str]:
        without = "123456789" if place == 0 and len(number) > 1 else "0123456789"
        return [digit for digit in without if digit != old]

    return "".join(rng.choice(others(place, old)) for place, old in enumerate(number))
