"""Rows of published data sets that say in a column of their own which answer is better → `Parts`."""

from __future__ import annotations

from typing import Any

from minordpo.data.read.accounting import RowProblem, Tally, count_others
from minordpo.data.read.fields import Row, read_content, read_messages, read_text, say, wrong
from minordpo.data.read.graded import best_first
from minordpo.data.read.layout import Parts, layout, pair_parts
from minordpo.data.read.llama_factory import said
from minordpo.data.read.pairs import implicit_chat

_INFO = ("post", "article")  # what is summarised
_WINNERS = {"model_a": 0, "model_b": 1}


def _step_dpo(row: Row, where: str, tally: Tally) -> Parts:
    """The right steps so far are the answerer's, and stand between the problem and the next step."""
    fields = ("prompt", "initial_reason_steps", "chosen", "rejected")
    prompt, steps, *answers = (read_text(row[field], field, where) for field in fields)
    return pair_parts(f"{prompt}\n" if steps else prompt, *answers, begun=steps)


def _stack_exchange(row: Row, where: str, tally: Tally) -> Parts:
    return pair_parts(
        *(read_text(row[field], field, where) for field in ("question", "response_j", "response_k"))
    )


def _safe_rlhf(row: Row, where: str, tally: Tally) -> Parts:
    better = _one_of(row, "better_response_id", {0: 0, 1: 1}, where)
    return _of_two(row, row["prompt"], "prompt", ("response_0", "response_1"), better, where)


def _shp(row: Row, where: str, tally: Tally) -> Parts:
    better = _one_of(row, "labels", {1: 0, 0: 1}, where)
    return _of_two(row, row["history"], "history", ("human_ref_A", "human_ref_B"), better, where)


def _helpsteer2(row: Row, where: str, tally: Tally) -> Parts:
    better = _by_sign(row, "preference_strength", where)
    return _of_two(row, row["prompt"], "prompt", ("response_1", "response_2"), better, where)


def _helpsteer3(row: Row, where: str, tally: Tally) -> Parts:
    better = _by_sign(row, "overall_preference", where)
    if not isinstance(row["context"], list):
        raise wrong(where, "context", say(row["context"]), 'a list of {"role", "content"}')
    prompt = read_messages(row["context"], "context", where, tally)
    answers = [said(row[field], field, where) for field in ("response1", "response2")]
    return pair_parts(prompt, answers[better], answers[1 - better])


def _webgpt(row: Row, where: str, tally: Tally) -> Parts:
    asked = row["question"]
    if isinstance(asked, dict):
        count_others(tally, "question", asked, ("full_text",))
        asked = asked.get("full_text")
    scores = [_number(row[field], field, where) for field in ("score_0", "score_1")]
    better = _better(scores[1] - scores[0], "score_0 and score_1 are the same")
    return _of_two(row, asked, "question", ("answer_0", "answer_1"), better, where)


def _summaries(row: Row, where: str, tally: Tally) -> Parts:
    better = _one_of(row, "choice", {0: 0, 1: 1}, where)
    info, summaries = row["info"], row["summaries"]
    field = next((each for each in _INFO if isinstance(info, dict) and info.get(each)), None)
    if field is None:
        raise wrong(where, "info", say(info), f"an object with {' or '.join(_INFO)}")
    count_others(tally, "info", info, (field,))
    if not isinstance(summaries, list) or len(summaries) != 2:
        raise wrong(where, "summaries", say(summaries), 'a list of two {"text"}')
    texts = [_of(each, "text", f"summary {i}", where, tally) for i, each in enumerate(summaries, 1)]
    return pair_parts(read_text(info[field], f"{field} of info", where), texts[better], texts[1 - better])


def _arena(row: Row, where: str, tally: Tally) -> Parts:
    winner = row["winner"]
    if isinstance(winner, str) and winner.startswith("tie"):
        raise _tie(f"winner is {winner}")
    better = _one_of(row, "winner", _WINNERS, where)
    sides = [row["conversation_a"], row["conversation_b"]]
    for side, name in zip(sides, "ab", strict=True):
        if not isinstance(side, list):
            raise wrong(where, f"conversation_{name}", say(side), 'a list of {"role", "content"}')
    return implicit_chat({"chosen": sides[better], "rejected": sides[1 - better]}, where, tally)


def _nectar(row: Row, where: str, tally: Tally) -> Parts:
    answers = _objects(row["answers"], "answers", ("answer", "rank"), where, tally)
    order = {"ranks": [each["rank"] for each in answers]}
    texts = [_of(each, "answer", f"answer {i}", where, None) for i, each in enumerate(answers, 1)]
    return best_first(read_text(row["prompt"], "prompt", where), list(texts), order, where)


def _ultrafeedback(row: Row, where: str, tally: Tally) -> Parts:
    answers = _objects(row["completions"], "completions", ("response", "overall_score"), where, tally)
    order = {"scores": [each["overall_score"] for each in answers]}
    texts = [_of(each, "response", f"completion {i}", where, None) for i, each in enumerate(answers, 1)]
    return best_first(read_text(row["instruction"], "instruction", where), list(texts), order, where)


def _distilabel(row: Row, where: str, tally: Tally) -> Parts:
    texts = row["generations"]
    if not isinstance(texts, list):
        raise wrong(where, "generations", say(texts), "a list of two or more texts")
    if len(texts) < 2:
        raise RowProblem("too_few", f"generations is {say(texts)}, but two or more are needed to rank them")
    if isinstance(row["ratings"], list) and None in [*row["ratings"], *texts]:
        raise RowProblem("unrated", "a generation or its rating is null, but both are needed")
    answers = [read_content(each, f"generation {i}", where, tally) for i, each in enumerate(texts, 1)]
    if not all(isinstance(each, str) for each in answers):
        raise wrong(where, "generations", "a list of lists", "a list of texts")
    return best_first(
        read_text(row["instruction"], "instruction", where), answers, {"scores": row["ratings"]}, where
    )


# ---- which is better ----
def _of_two(row: Row, asked: Any, field: str, answers: tuple[str, str], better: int, where: str) -> Parts:
    """A pair of what is asked, which stands in `field`, and the texts of two columns, the better one by its number."""
    texts = [read_text(row[name], name, where) for name in answers]
    return pair_parts(read_text(asked, field, where), texts[better], texts[1 - better])


def _one_of(row: Row, field: str, known: dict[Any, int], where: str) -> int:
    value = row[field]
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value not in known:
        raise wrong(where, field, say(value), " or ".join(map(str, known)))
    return known[value]


def _by_sign(row: Row, field: str, where: str) -> int:
    return _better(_number(row[field], field, where), f"{field} is 0")


def _number(value: Any, field: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise wrong(where, field, say(value), "a number")
    return float(value)


def _better(difference: float, tie: str) -> int:
    """0 or 1 for a difference below or above 0."""
    if difference == 0:
        raise _tie(tie)
    return int(difference > 0)


def _tie(found: str) -> RowProblem:
    return RowProblem(
        "tie", f"{found}, but a better response is needed", remedy="Drop such rows by data.invalid=drop"
    )


# ---- objects in columns ----
def _objects(value: Any, field: str, read: tuple[str, str], where: str, tally: Tally) -> list[dict[str, Any]]:
    """The objects of a list, two or more, each with the keys that are read; their other keys are counted."""
    if not isinstance(value, list):
        raise wrong(where, field, say(value), f"a list of two or more objects with {' and '.join(read)}")
    if len(value) < 2:
        raise RowProblem(
            "too_few", f"{field} is {say(value)}, but two or more answers are needed to rank them"
        )
    for i, each in enumerate(value, 1):
        if not isinstance(each, dict) or not set(read) <= each.keys():
            raise wrong(where, f"object {i} of {field}", say(each), f"an object with {' and '.join(read)}")
        count_others(tally, field, each, read)
    return value


def _of(given: Any, key: str, field: str, where: str, tally: Tally | None) -> str:
    """The text of an object under a key; its other keys are counted where there is a tally."""
    if not isinstance(given, dict) or key not in given:
        raise wrong(where, field, say(given), f"an object with {key}")
    if tally is not None:
        count_others(tally, "summaries", given, (key,))
    return read_text(given[key], f"the {key} of {field}", where)


STEP_DPO = layout("Step-DPO", _step_dpo)
STACK_EXCHANGE = layout("StackExchange pairs", _stack_exchange)
SAFE_RLHF = layout("PKU-SafeRLHF", _safe_rlhf)
SHP = layout("SHP", _shp)
HELPSTEER2 = layout("HelpSteer2 preferences", _helpsteer2)
HELPSTEER3 = layout("HelpSteer3", _helpsteer3)
WEBGPT = layout("WebGPT comparisons", _webgpt)
SUMMARIES = layout("summaries and a choice", _summaries)
ARENA = layout("Chatbot Arena", _arena)
NECTAR = layout("Nectar", _nectar)
ULTRAFEEDBACK_RATED = layout("UltraFeedback with all completions", _ultrafeedback)
DISTILABEL = layout("distilabel ratings", _distilabel)
