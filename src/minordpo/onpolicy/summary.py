"""What came of a sampling: pass rates, contrast, lengths, likeness, and what to beware of."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minordpo.evaluate.folder import EvaluatedModel
from minordpo.onpolicy.answers import SampledAnswer, SampledAnswers
from minordpo.onpolicy.rows import MadeRows
from minordpo.verify.prompts import Prompts

LONGER_THROUGHOUT = 0.8  # share of pairs whose chosen answer is longer, from which it is warned of
_LIKENESS_OF = 500  # pairs whose likeness is measured, at most: it takes milliseconds each


@dataclass(frozen=True)
class Summary:
    """The facts of the report, and the report as text."""

    facts: dict[str, Any]

    @classmethod
    def of(
        cls,
        prompts: Prompts,
        models: Sequence[EvaluatedModel],
        samples: int,
        answers: SampledAnswers,
        rows: MadeRows,
        **told: Any,
    ) -> Summary:
        """The summary of the rows that were made; `told` are further facts: verifier, seconds."""
        by_model = {
            model.label: [answers.of(each.asked.row, model.label, samples) for each in prompts.prompts]
            for model in models
        }
        together = [
            [answer for of in given for answer in of] for given in zip(*by_model.values(), strict=True)
        ]
        facts = {
            **told,
            "prompts": {
                "asked": len(prompts.prompts),
                "repeated": prompts.repeated,
                "contradicted": prompts.contradicted,
                **_contrast(together),
                "with_rows": sum(count > 0 for count in rows.by_prompt.values()),
            },
            "unread_columns": dict(prompts.unread),
            "models": {label: _of_model(given) for label, given in by_model.items()},
            "left_out": dict(rows.left_out),
            "rows": len(rows.rows),
            "format": rows.options.format,
            "pairs": _of_pairs(rows) if rows.pairs else None,
        }
        return cls(facts | {"warnings": _warnings(facts)})

    def __str__(self) -> str:
        facts = self.facts
        asked = facts["prompts"]
        lines = [f"{asked['asked']} prompts, {facts['rows']} {_ROWS[facts['format']]}"]
        lines += [f"  {label}: {_model_line(of)}" for label, of in facts["models"].items()]
        lines.append(_contrast_line(asked))
        if asked["repeated"]:
            lines.append(f"  {asked['repeated']} rows of prompts left out: their prompt stood before")
        lines += [f"  {count} answers left out: {why}" for why, count in facts["left_out"].items()]
        if facts["pairs"]:
            lines.append(_pairs_line(facts["pairs"]))
        for column, count in facts["unread_columns"].items():
            lines.append(f"  column {column} (in {count} rows) went to no model and into no pair")
        return "\n".join([*lines, *(f"warning: {each}" for each in facts["warnings"])])


_ROWS = {"pairs": "pairs", "ranked": "rows of ranked answers", "labelled": "labelled answers"}


# ---- facts ----
def _contrast(together: Sequence[Sequence[SampledAnswer]]) -> dict[str, Any]:
    """By prompt: the share of answers that passed, and whether scores differ."""
    verdicts = [[each.verdict for each in given if each.verdict is not None] for given in together]
    flat = sum(len({verdict.score for verdict in given}) < 2 for given in verdicts)
    found: dict[str, Any] = {"without_contrast": flat}
    if all(verdict.passed is not None for given in verdicts for verdict in given):
        rates = [statistics.fmean(bool(verdict.passed) for verdict in given) for given in verdicts]
        counts = Counter("none" if rate == 0 else "all" if rate == 1 else "some" for rate in rates)
        found["passed"] = {name: counts[name] for name in ("none", "some", "all")}
        found["pass_rate"] = statistics.fmean(rates)
        found["pass_rate_quartiles"] = _quartiles(rates)
    return found


def _of_model(given: Sequence[Sequence[SampledAnswer]]) -> dict[str, Any]:
    every = [answer for answers in given for answer in answers]
    verdicts = [answer.verdict for answer in every if answer.verdict is not None]
    passed = [verdict.passed for verdict in verdicts if verdict.passed is not None]
    scores = [verdict.score for verdict in verdicts]
    return {
        "answers": len(every),
        "tokens": sum(answer.answer.tokens for answer in every),
        "mean_tokens": statistics.fmean(answer.answer.tokens for answer in every),
        "cut": statistics.fmean(not answer.answer.stopped for answer in every),
        "pass_rate": statistics.fmean(passed) if passed else None,
        "any_passed": _any_passed(given) if passed else None,
        "mean_score": statistics.fmean(scores),
        "scores": _quartiles(scores),
    }


def _any_passed(given: Sequence[Sequence[SampledAnswer]]) -> float:
    """The share of prompts to which at least one answer passed."""
    return statistics.fmean(
        any(each.verdict is not None and each.verdict.passed for each in of) for of in given
    )


def _of_pairs(rows: MadeRows) -> dict[str, Any]:
    pairs = rows.pairs
    lengths = [[getattr(pair, side).answer.tokens for pair in pairs] for side in ("chosen", "rejected")]
    stride = -(-len(pairs) // _LIKENESS_OF)
    return {
        "pairs": len(pairs),
        "most_of_a_prompt": max(rows.by_prompt.values()),
        "chosen_tokens": statistics.fmean(lengths[0]),
        "rejected_tokens": statistics.fmean(lengths[1]),
        "chosen_longer": statistics.fmean(c > r for c, r in zip(*lengths, strict=True)),
        "chosen_shorter": statistics.fmean(c < r for c, r in zip(*lengths, strict=True)),
        "likeness": statistics.fmean(pair.likeness for pair in pairs[::stride]),
        "like_styles": statistics.fmean(pair.style_gap == 0 for pair in pairs),
        "mean_gap": statistics.fmean(
            pair.chosen.verdict.score - pair.rejected.verdict.score
            for pair in pairs
            if pair.chosen.verdict is not None and pair.rejected.verdict is not None
        ),
    }


def _quartiles(values: Sequence[float]) -> list[float]:
    """Least, lower quartile, median, upper quartile, most."""
    if len(values) < 2:
        return [values[0]] * 5
    return [min(values), *statistics.quantiles(values, n=4, method="inclusive"), max(values)]


def _warnings(facts: Mapping[str, Any]) -> list[str]:
    found = []
    asked, pairs = facts["prompts"], facts["pairs"]
    every = [of["scores"] for of in facts["models"].values()]
    if min(scores[0] for scores in every) == max(scores[-1] for scores in every):
        found.append(f"every answer has the score {every[0][0]:g}; the verifier tells none from another")
    elif asked["without_contrast"] > asked["asked"] / 2:
        found.append(
            f"{asked['without_contrast']} of {asked['asked']} prompts have answers of one score only and give no pair"
        )
    if asked["contradicted"]:
        found.append(
            f"{asked['contradicted']} rows have a prompt that stood before and another right answer than there; the "
            "first one counts. Correct the rows"
        )
    for label, of in facts["models"].items():
        if of["cut"] > 0.2:
            found.append(
                f"{of['cut']:.0%} of the answers of {label} ran into the length limit. Raise --max-new-tokens"
            )
    if pairs and pairs["chosen_longer"] >= LONGER_THROUGHOUT:
        found.append(
            f"chosen answers are longer in {pairs['chosen_longer']:.0%} of the pairs "
            f"({pairs['chosen_tokens']:.0f} tokens against {pairs['rejected_tokens']:.0f}); training teaches length. "
            "To take pairs of like lengths first, give --like length"
        )
    return found


# ---- text ----
def _model_line(of: Mapping[str, Any]) -> str:
    said = f"{of['answers']} answers of {of['mean_tokens']:.0f} tokens, {of['cut']:.0%} cut"
    if of["pass_rate"] is not None:
        return f"{said}, {of['pass_rate']:.1%} passed, at least one in {of['any_passed']:.1%} of the prompts"
    low, _, median, _, high = of["scores"]
    return f"{said}, scores {low:.3g} to {high:.3g}, median {median:.3g}"


def _contrast_line(asked: Mapping[str, Any]) -> str:
    if "passed" in asked:
        counts = asked["passed"]
        return (
            f"  by prompt: all answers passed in {counts['all']}, some in {counts['some']}, none in {counts['none']}; "
            f"rows came of {asked['with_rows']}"
        )
    return (
        f"  {asked['without_contrast']} prompts have answers of one score; rows came of {asked['with_rows']}"
    )


def _pairs_line(of: Mapping[str, Any]) -> str:
    return (
        f"  pairs: chosen {of['chosen_tokens']:.0f} tokens, rejected {of['rejected_tokens']:.0f}; chosen longer in "
        f"{of['chosen_longer']:.0%}, shorter in {of['chosen_shorter']:.0%}; likeness in words {of['likeness']:.2f}; "
        f"of one style {of['like_styles']:.0%}"
    )
