"""What a verifier says of each model's answers, as columns and tables of results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from minordpo.data.read.fields import shorten
from minordpo.generate.text_measures import without_controls

Rows = list[list[str]]  # of a table, its head first
Column = tuple[str, Callable[[Mapping[str, Any]], str]]  # its head, and a model's cell

ALONE = "{question}"  # a prompt that is the question
_SPEC = 200  # characters of a verifier's name that are shown
PASSES = "passes"
_MEASURES = {"passed": PASSES, "score": "score", "any_passed": "any passes", "win_rate": "win rate"}


def verifier_in_words(record: Mapping[str, Any]) -> str:
    """The verifier of results.json as it was named; of a judge also its model and its mode."""
    spec = shorten(" ".join(without_controls(record["spec"]).split()), _SPEC)
    return f"{spec} ({record['model']}, {record['mode']})" if record["verifier"] == "judge" else spec


def share_text(share: Mapping[str, Any]) -> str:
    """A share and its interval in percent."""
    return f"{share['share']:.1%} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def verified_columns(models: Mapping[str, Mapping[str, Any]]) -> Iterator[Column]:
    """The columns that a verifier has something for; a score is left out where it is the share that passes."""
    found = [model["verified"] for model in models.values()]
    if any("win_rate" in each for each in found):
        yield (
            "win rate",
            lambda model: share_text(rate) if (rate := model["verified"].get("win_rate")) else "–",
        )
        for name in ("won", "tied", "lost"):
            yield name, _count(name)
        return
    said = [each for each in found if each["passed"]]
    if said:
        yield PASSES, lambda model: share_text(passed) if (passed := model["verified"]["passed"]) else "–"
    if len(said) < len(found) or any(each["score"]["mean"] != each["passed"]["share"] for each in said):
        yield "score", lambda model: _number_text(model["verified"]["score"], "mean")
    if any(each["undecided"] for each in found):
        yield "not said", lambda model: str(model["verified"]["undecided"])


def _count(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda model: str(rate[name]) if (rate := model["verified"].get("win_rate")) else "–"


def verified_rows(compared: Sequence[Mapping[str, Any]]) -> Rows:
    """A row a comparison."""
    rates = compared[0]["measure"] == "win_rate"
    head = f"model | measure | {'share' if rates else 'difference'} | better | same | worse | p | p (Holm)"
    rows = [head.split(" | ")]
    for row in compared:
        if rates:
            text = share_text(row)
        elif row["measure"] == "score":
            text = _number_text(row, "difference", sign="+")
        else:
            difference, low, high = (f"{100 * row[name]:+.1f}" for name in ("difference", "low", "high"))
            text = f"{difference} points [{low}, {high}]"
        counts = [str(row[name]) for name in ("better", "same", "worse")]
        chances = [f"{row[name]:.2g}" for name in ("p", "p_holm")]
        rows.append([row["model"], _MEASURES[row["measure"]], text, *counts, *chances])
    return rows


def how_found(compared: Sequence[Mapping[str, Any]]) -> str:
    """How the p of comparisons were found, in words."""
    return " or of ".join(dict.fromkeys(row["p_found"] for row in compared))


def _number_text(numbers: Mapping[str, Any], name: str, *, sign: str = "-") -> str:
    """A mean and its interval; where there is none, the mean alone."""
    mean, low, high = (numbers[each] for each in (name, "low", "high"))
    text = format(mean, f"{sign}.3f")
    return text if low is None else f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]"
