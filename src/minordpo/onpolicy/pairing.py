"""Scored answers to one prompt → pairs, ranked responses or labelled ones. Pure functions; no model is looked at."""

from __future__ import annotations

import difflib
import functools
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from minordpo.errors import InputError

if TYPE_CHECKING:  # it imports torch, which a loop's --help does without
    from minordpo.onpolicy.answers import SampledAnswer
    from minordpo.verify.verifier import Verifier

Kind = Literal["best-worst", "all", "closest"]
Like = Literal["length", "style"]
Format = Literal["pairs", "ranked", "labelled"]
CUT = "cut by the length limit"  # why an answer is left out
_ONLY_SCORES = (
    "only gives scores, but labelled answers are desirable or not. Say from which score on an answer is desirable, by "
    "--threshold"
)
# Options as the command line names them.
_SAID = {
    "kind": "--pairs",
    "most": "--most-pairs",
    "like": "--like",
    "pair_from": "--pair-from",
    "least_gap": "--least-gap",
    "threshold": "--threshold",
}


@dataclass(frozen=True, kw_only=True)
class PairingOptions:
    """How scored answers become data.

    Raises:
        InputError: a value that is none of these.
    """

    kind: Kind = "best-worst"
    most: int | None = None  # pairs of a prompt; None: 1, or every one where kind is "all"
    like: Like | None = None  # which of equally good pairs is taken first
    pair_from: tuple[str, str] | None = (
        None  # labels: chosen answers of the first, rejected ones of the second model
    )
    least_gap: float = 0.0  # the scores of a pair differ by more
    unfinished: bool = False  # whether answers that ran into the length limit may be rejected answers
    format: Format = "pairs"
    threshold: float | None = (
        None  # of labelled answers: desirable from this score on; None: those that passed
    )
    seed: int = 0  # decides between answers of one score

    def __post_init__(self) -> None:
        for name, known in (("kind", Kind), ("like", Like), ("format", Format)):
            value = getattr(self, name)
            if value is not None and value not in get_args(known):
                raise InputError(f"{name} is {value!r}, but one of {', '.join(get_args(known))} is needed")
        if self.most is not None and self.most < 1:
            raise InputError(f"most pairs of a prompt is {self.most}, but at least 1 is needed. Raise it")
        if not self.least_gap >= 0:
            raise InputError(f"the least gap is {self.least_gap:g}, but at least 0 is needed. Raise it")
        if self.threshold is not None and math.isnan(self.threshold):
            raise InputError("the threshold is nan, but a number is needed. Correct it")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        """Refuse options of one format beside another, where they do nothing."""
        of_pairs = ("kind", "most", "like", "pair_from", "least_gap")
        for name, needed in [*((each, "pairs") for each in of_pairs), ("threshold", "labelled")]:
            if self.format != needed and getattr(self, name) != getattr(type(self), name):
                raise InputError(
                    f"{_SAID[name]} is given, but it is of the format {needed}, and the format is {self.format}. Leave "
                    "it out, or give the other format"
                )


@dataclass(frozen=True)
class AnswerPair:
    """Two answers to one prompt, of which the chosen one has the higher score."""

    chosen: SampledAnswer
    rejected: SampledAnswer

    @functools.cached_property
    def likeness(self) -> float:
        """How alike the two are in words: 1 for the same words in the same order, 0 for none in common."""
        chosen, rejected = (_words(each.answer.text) for each in (self.chosen, self.rejected))
        return difflib.SequenceMatcher(None, chosen, rejected, autojunk=False).ratio()

    @property
    def length_gap(self) -> float:
        """The difference of the two lengths in tokens, divided by the longer length."""
        lengths = [each.answer.tokens for each in (self.chosen, self.rejected)]
        return (max(lengths) - min(lengths)) / max(lengths)

    @property
    def style_gap(self) -> int:
        """How many features of style the two differ in."""
        one, other = (style_of(each.answer.text) for each in (self.chosen, self.rejected))
        return sum(a != b for a, b in zip(one, other, strict=True))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


def style_of(text: str) -> tuple[object, ...]:
    """Features of an answer's style: lines (one, up to four, more), a list, a heading, code, bold text, an equation."""
    lines = len([line for line in text.splitlines() if line.strip()])
    found = (r"^\s*(?:[-*•]|\d+[.)])\s", r"^\s*#+\s", r"```", r"\*\*[^*\n]+\*\*", r"\d\s*=|=\s*\d")
    return (min(lines, 1) + (lines > 1) + (lines > 4), *(bool(re.search(each, text, re.M)) for each in found))


@dataclass
class Usable:
    """The answers to one prompt that may stand in a pair, and why the others may not."""

    answers: list[SampledAnswer]
    left_out: Counter[str]  # reason → answers


def usable_answers(answers: Sequence[SampledAnswer], options: PairingOptions) -> Usable:
    """The scored answers that may be trained on, none twice by its text.

    An empty answer is none. An answer that ran into the length limit would be trained on with an end that the model did
    not give, so it is left out unless `options.unfinished`.
    """
    kept: dict[tuple[str, str], SampledAnswer] = {}
    left_out: Counter[str] = Counter()
    for each in answers:
        text = each.answer.text.strip()
        key = (text, each.model if options.pair_from else "")
        if not text:
            left_out["empty"] += 1
        elif not each.answer.stopped and not options.unfinished:
            left_out[CUT] += 1
        elif key in kept:
            left_out["the same text as another"] += 1
        else:
            kept[key] = each
    return Usable([*kept.values()], left_out)


def make_pairs(answers: Sequence[SampledAnswer], options: PairingOptions) -> list[AnswerPair]:
    """The pairs of one prompt, the first ones preferred; empty where no two scores differ by more than the least gap.

    best-worst: the highest score with the lowest, then the next with the next; no answer stands in two pairs.
    closest: the pair that is most alike in words, then the next; no answer stands in two pairs.
    all: every two answers of different scores.
    Of equal scores a pair is taken by `options.like` where it is given, else by lot.
    """
    pairs = [
        AnswerPair(chosen, rejected)
        for chosen, rejected in itertools.permutations(answers, 2)
        if _score(chosen) - _score(rejected) > options.least_gap
        and chosen.answer.stopped
        and (options.pair_from is None or (chosen.model, rejected.model) == options.pair_from)
        and chosen.answer.text.strip() != rejected.answer.text.strip()
    ]
    random.Random(f"pairs of row {answers[0].row}, seed {options.seed}" if answers else "").shuffle(pairs)
    if options.like == "length":
        pairs.sort(key=lambda pair: pair.length_gap)
    elif options.like == "style":
        pairs.sort(key=lambda pair: pair.style_gap)
    if options.kind == "best-worst":
        pairs.sort(key=lambda pair: _score(pair.rejected) - _score(pair.chosen))
    elif options.kind == "closest":
        pairs.sort(key=lambda pair: -pair.likeness)
    if options.kind == "all":
        return pairs[: options.most]
    taken: list[AnswerPair] = []
    used: set[tuple[str, int]] = set()
    for pair in pairs:
        both = {(each.model, each.sample) for each in (pair.chosen, pair.rejected)}
        if len(taken) < (options.most or 1) and not both & used:
            taken.append(pair)
            used |= both
    return taken


def rank(answers: Sequence[SampledAnswer], options: PairingOptions) -> list[SampledAnswer]:
    """The answers by score, the highest first, one of each score; of equal scores one by lot."""
    drawn = [each for each in answers if each.answer.stopped]
    random.Random(f"ranks of row {drawn[0].row}, seed {options.seed}" if drawn else "").shuffle(drawn)
    drawn.sort(key=lambda each: -_score(each))
    return [next(same) for _, same in itertools.groupby(drawn, key=_score)]


def refuse_unlabelled(options: PairingOptions, verifier: Verifier) -> None:
    """Refuse labelled answers, before any is scored, of a verifier that only gives scores.

    Raises:
        InputError: labels are wanted, there is no threshold, and the verifier tells no right from wrong.
    """
    if options.format == "labelled" and options.threshold is None and verifier.passes is False:
        raise InputError(f"--verify {verifier.spec} {_ONLY_SCORES}")


def label(answer: SampledAnswer, options: PairingOptions) -> bool:
    """Whether an answer is desirable.

    Raises:
        InputError: its verifier says neither right nor wrong, and there is no threshold.
    """
    assert answer.verdict is not None
    if options.threshold is not None:
        return answer.verdict.score >= options.threshold
    if answer.verdict.passed is None:
        raise InputError(f"the verifier {_ONLY_SCORES}")
    return answer.verdict.passed


def _score(answer: SampledAnswer) -> float:
    assert answer.verdict is not None
    return answer.verdict.score
