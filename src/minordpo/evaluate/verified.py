"""Verdicts on answers → mean scores and shares that pass, wins and losses against the first model, examples."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from minordpo.evaluate.compare import example, share
from minordpo.evaluate.ranking import pass_at
from minordpo.evaluate.samples import mean_share, sizes
from minordpo.evaluate.statistics import (
    bounds,
    holm,
    interval_over_questions,
    mean_difference_interval,
    mean_interval,
    sign_flip_of_scores,
)
from minordpo.evaluate.tasks import Question
from minordpo.evaluate.verification import ScoredAnswers
from minordpo.generate.generation import Answer
from minordpo.generate.text_measures import looping, without_controls
from minordpo.verify.verdict import Verdict

_Given = Sequence[Sequence[Verdict]]  # of each question, of each of its samples
_NO_INTERVAL = {"low": None, "high": None}


def summarize_verdicts(scored: ScoredAnswers, label: str) -> dict[str, Any]:
    """What the verdicts on a model's answers show; 95 % intervals over questions.

    `score`: the mean, None for an interval where all questions have one score. `passed`: the share that passes, None
    where the verifier never says so; questions with an answer of which it does not say are left out of it, and
    `undecided` counts these answers. Of a verifier that compares only `win_rate`, a tie counting 1/2, and that not of
    the first model.
    """
    if label in scored.points:
        points = scored.points[label]
        rate = {"against": scored.first, **_share_of_points(points)}
        counts = {name: sum(each == of for given in points for each in given) for name, of in _POINTS.items()}
        return {"win_rate": rate | counts}
    if label not in scored.verdicts:
        return {}
    given = scored.verdicts[label]
    decided = _decided(given)
    found: dict[str, Any] = {"score": _mean_score(given), "passed": None, "undecided": 0}
    if any(each.passed is not None for of in given for each in of):
        found["undecided"] = sum(each.passed is None for of in given for each in of)
    if decided:
        one = scored.samples == 1
        rates = [sum(of) / scored.samples for of in decided]
        found["passed"] = share([each for (each,) in decided]) if one else mean_share(rates, scored.samples)
    return found


_POINTS = {"won": 1.0, "tied": 0.5, "lost": 0.0}


def summarize_passes(scored: ScoredAnswers, label: str) -> dict[str, Any]:
    """Of several samples a question: `pass_at` k of them, and the share of questions with `any_right`.

    Empty where the verifier does not say of any question's samples whether they pass.
    """
    decided = _decided(scored.verdicts.get(label, []))
    if not decided:
        return {}
    each = scored.samples
    chances = {str(k): mean_share([pass_at(each, sum(of), k) for of in decided], each) for k in sizes(each)}
    return {"pass_at": chances, "any_right": share([any(of) for of in decided])}


def which_pass(scored: ScoredAnswers, label: str) -> list[list[bool]] | None:
    """Which samples of each question pass; None where the verifier does not say so of all."""
    decided = _decided(scored.verdicts.get(label, []))
    return decided if decided and len(decided) == len(scored.verdicts[label]) else None


def compare_verdicts(scored: ScoredAnswers, *, several: bool = False) -> list[dict[str, Any]]:
    """A row for every model but the first and every measure, paired by question.

    Measures are `win_rate` of a verifier that compares, else `passed` and `score`, of which the score is left out where
    it says the same; with `several` samples a question also `any_passed`. `better`, `same` and `worse` count questions.
    `p` is that of a sign-flip test, `p_found` says how it was found, `p_holm` is adjusted over the models.
    """
    if scored.points:
        of = {
            label: [2 * p - 1 for p in map(statistics.fmean, each)] for label, each in scored.points.items()
        }
        rates = {label: _share_of_points(each) for label, each in scored.points.items()}
        rows = _tested(of, scored, "win_rate", lambda _: (0.0, 0.0))
        return [
            {k: v for k, v in row.items() if k not in ("difference", "low", "high")} | rates[row["model"]]
            for row in rows
        ]
    ours = {label: _decided_or_none(given) for label, given in scored.verdicts.items()}
    passed = _differences(ours, scored.first, statistics.fmean)
    scores = _differences(
        dict(scored.verdicts), scored.first, lambda of: statistics.fmean(each.score for each in of)
    )
    rows = _tested(passed, scored, "passed", mean_difference_interval)
    if not passed or passed != scores:
        within = all(each.score in (0.0, 1.0) for of in scored.verdicts.values() for q in of for each in q)
        rows += _tested(scores, scored, "score", mean_difference_interval if within else mean_interval)
    if several:
        best = _differences(ours, scored.first, lambda of: float(any(of)))
        rows += _tested(best, scored, "any_passed", mean_difference_interval)
    return rows


def verified_examples(
    questions: Sequence[Question], answers: Sequence[Answer], scored: ScoredAnswers, label: str
) -> dict[str, Any]:
    """The first answer of each kind: one that passes and one that fails, or of the highest and the lowest score, or
    better and worse than the first model's; and one in a loop."""
    kinds: dict[str, int] = {}
    verdicts = [of[0] for of in scored.verdicts.get(label, [])]
    decided = [each.passed for each in verdicts]
    if label in scored.points:
        points = [of[0] for of in scored.points[label]]
        named = {f"better than {scored.first}'s": 1.0, f"worse than {scored.first}'s": 0.0}
        kinds = {kind: points.index(of) for kind, of in named.items() if of in points}
    elif any(each is not None for each in decided):
        kinds = {k: decided.index(of) for k, of in (("passes", True), ("fails", False)) if of in decided}
    elif verdicts:
        values = [each.score for each in verdicts]
        kinds = {"of the highest score": values.index(max(values))}
        if len(set(values)) > 1:
            kinds["of the lowest score"] = values.index(min(values))
    loops = [looping(answer.token_ids) for answer in answers]
    if True in loops:
        kinds["looping"] = loops.index(True)
    found = {}
    for kind, place in kinds.items():
        found[kind] = example(questions[place], answers[place])
        if verdicts:
            verdict = verdicts[place]
            note = None if verdict.note is None else without_controls(verdict.note)
            found[kind] |= {"score": verdict.score, "passed": verdict.passed, "note": note}
    return found


def _decided_or_none(given: _Given) -> list[list[bool] | None]:
    """Of each question whether its samples pass; None where the verifier does not say so of one of them."""
    found: list[list[bool] | None] = []
    for of in given:
        said = [each.passed for each in of if each.passed is not None]
        found.append(said if len(said) == len(of) else None)
    return found


def _decided(given: _Given) -> list[list[bool]]:
    return [of for of in _decided_or_none(given) if of is not None]


def _mean_score(given: _Given) -> dict[str, Any]:
    values = [statistics.fmean(each.score for each in of) for of in given]
    if all(each.score in (0.0, 1.0) for of in given for each in of):
        interval: tuple[float, float] | None = interval_over_questions(values, len(given[0]))
    else:
        interval = mean_interval(values)
    return {"mean": statistics.fmean(values), **(_NO_INTERVAL if interval is None else bounds(interval))}


def _share_of_points(points: Sequence[Sequence[float]]) -> dict[str, float]:
    """The mean, and Wilson's interval over questions, a comparison counted as two halves that may be won."""
    values = [statistics.fmean(of) for of in points]
    return mean_share(values, 2 * len(points[0]))


def _differences(
    given: Mapping[str, Sequence[Any]], first: str, value: Callable[[Any], float]
) -> dict[str, list[float]]:
    """Of each further model its value minus the first's, of the questions where both have one."""
    found = {}
    for label, of in given.items():
        pairs = [(a, b) for a, b in zip(of, given[first], strict=True) if a is not None and b is not None]
        if label != first and pairs:
            found[label] = [value(a) - value(b) for a, b in pairs]
    return found


def _tested(
    differences: Mapping[str, list[float]],
    scored: ScoredAnswers,
    measure: str,
    interval: Callable[[Sequence[float]], tuple[float, float] | None],
) -> list[dict[str, Any]]:
    chances = [sign_flip_of_scores(of, 2 * scored.samples) for of in differences.values()]
    adjusted = holm([p for p, _ in chances])

    def rows() -> Iterator[dict[str, Any]]:
        for (label, of), (p, found), holms in zip(differences.items(), chances, adjusted, strict=True):
            limits = interval(of)
            yield {
                "model": label,
                "against": scored.first,
                "measure": measure,
                "of": len(of),
                "better": sum(each > 0 for each in of),
                "same": sum(each == 0 for each in of),
                "worse": sum(each < 0 for each in of),
                "difference": statistics.fmean(of),
                **(_NO_INTERVAL if limits is None else bounds(limits)),
                "p": p,
                "p_found": found,
                "p_holm": holms,
            }

    return list(rows())
