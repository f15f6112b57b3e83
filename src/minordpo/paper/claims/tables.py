"""Verdicts → text for a terminal, JSON, HTML; and the table of docs/claims.md."""

from __future__ import annotations

import json
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from minordpo.paper.claims.judge import ClaimVerdict, Judged, State, judge_all
from minordpo.paper.claims.rules import all_claims
from minordpo.paper.claims.runs import gather_runs
from minordpo.report.find import Found
from minordpo.run_folder.files import write_text
from minordpo.version import __version__

WIDTH = 118


def _test() -> str:
    primary = ", ".join(claim.name for claim in all_claims() if claim.primary)
    return (
        f"p: exact paired sign-flip test over seeds, two-sided, at 0.05; Holm over {primary}; those of other claims "
        "are not corrected for being many"
    )


# ---- for a terminal ----
def as_text(judged: Sequence[Judged], said: Sequence[str]) -> str:
    """The first runs whole, of others one line a verdict that occurs, then those across, and what was left out."""
    lines: list[str] = []
    for place, each in enumerate(judged):
        lines += [*([""] if lines else []), each.title, *(f"  {note}" for note in each.notes)]
        whole = not place or any(verdict.claim.across for verdict in each.verdicts)
        lines += _whole(each.verdicts) if whole else _short(each.verdicts)
    return "\n".join([*lines, "", *(f"- {text}" for text in (_test(), *said))])


def _whole(verdicts: Sequence[ClaimVerdict]) -> list[str]:
    lines = []
    for each in verdicts:
        head = f"{each.claim.name:<4} {each.state:<14} "
        indent = " " * len(head)
        for first, text in ((head, each.claim.sentence), (indent, each.words())):
            lines += textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent)
    return lines


def _short(verdicts: Sequence[ClaimVerdict]) -> list[str]:
    names = {
        state: [each.claim.name for each in verdicts if each.state == state]
        for state in typing.get_args(State)
    }
    return [f"{state:<14} {', '.join(own)}" for state, own in names.items() if own]


# ---- files ----
def as_values(judged: Sequence[Judged], said: Sequence[str]) -> dict[str, Any]:
    """Everything, as plain values."""
    return {
        "minordpo": __version__,
        "test": _test(),
        "situations": [
            {"title": each.title, "notes": list(each.notes), "claims": list(map(_values, each.verdicts))}
            for each in judged
        ],
        "said": list(said),
    }


def _values(verdict: ClaimVerdict) -> dict[str, Any]:
    claim, finding = verdict.claim, verdict.finding
    return {
        "claim": claim.name,
        "sentence": claim.sentence,
        "where": claim.where,
        "rule": claim.rule,
        "verdict": verdict.state,
        "numbers": verdict.words(),
        "p": finding.p,
        "p_holm": verdict.adjusted,
        "seeds": finding.seeds,
        "runs": verdict.runs,
        "missing": verdict.missing,
        "contrasts": [
            {
                "what": each.what,
                "unit": each.unit,
                "predicted": f"{'above' if each.predicted > 0 else 'below'} {each.bar:g}",
                "mean": each.mean + each.bar,
                "sd": each.spread,
                "seeds": each.seeds,
                "seeds_as_predicted": each.as_predicted,
                "p": each.p,
                "by_seed": {str(seed): value + each.bar for seed, value in each.by_seed.items()},
                "seeds_left_out": list(each.left_out),
            }
            for each in finding.contrasts
        ],
        "told": list(finding.told),
    }


def write_json(path: Path, judged: Sequence[Judged], said: Sequence[str]) -> None:
    """One object.

    Raises:
        InputError: it cannot be written.
    """
    text = json.dumps(as_values(judged, said), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


# ---- a section of a page ----
def claims_section(found: Found) -> str:
    """The verdicts as HTML without a script, everything escaped; nothing where no two settings have finished.

    Raises:
        InputError: a file of a run cannot be read.
    """
    gathered = gather_runs(found)
    if len({(run.objective, run.beta, run.rate) for run in gathered.runs}) < 2:
        return ""
    return as_html(judge_all(gathered), gathered.said)


def as_html(judged: Sequence[Judged], said: Sequence[str]) -> str:
    """A table for all runs that can be compared, the first open."""
    page = Path(__file__).with_name("claims.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True).from_string(page)
    return template.render(judged=judged, said=[_test(), *said])


# ---- the docs ----
def claims_table() -> str:
    """The claims and their rules as Markdown."""
    rows = [(each.name, each.sentence, each.where, each.rule, each.needs) for each in all_claims()]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(["| | claim | where | held where | data needed |", "|" + "---|" * 5, *lines])


if __name__ == "__main__":
    print(claims_table())
