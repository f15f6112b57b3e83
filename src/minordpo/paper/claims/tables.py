"""Verdicts → text for a terminal, JSON, CSV, HTML; and the table of docs/claims.md."""

from __future__ import annotations

import csv
import html
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minordpo.paper.claims.claims import CLAIMS
from minordpo.paper.claims.judged import Judged, judge_all
from minordpo.paper.claims.runs import gather_runs
from minordpo.paper.claims.verdict import State, Verdict
from minordpo.report.find import Found
from minordpo.run_folder.files import written_whole
from minordpo.version import __version__

WIDTH = 118
_PRIMARY = ", ".join(claim.name for claim in CLAIMS if claim.primary)
TEST = (
    f"p: exact paired sign-flip test over seeds, two-sided, at 0.05; Holm over {_PRIMARY}; those of other claims are "
    "not corrected for being many"
)
STATES: tuple[State, ...] = ("held", "did not hold", "not decidable")
_COLUMNS = (
    "situation", "claim", "verdict", "sentence", "where", "numbers", "p", "p_holm", "seeds", "runs", "missing",
)  # fmt: skip


# ---- for a terminal ----
def as_text(judged: Sequence[Judged], said: Sequence[str]) -> str:
    """The first situation whole, of others one line a verdict that occurs, then those across, and what was left out."""
    lines: list[str] = []
    shown = False
    for each in judged:
        lines += [*([""] if lines else []), each.title, *(f"  {note}" for note in each.notes)]
        whole = not shown or any(verdict.claim.across for verdict in each.verdicts)
        shown = True
        lines += _whole(each.verdicts) if whole else _short(each.verdicts)
    lines += ["", *(f"- {text}" for text in (TEST, *said))]
    return "\n".join(lines)


def _whole(verdicts: Sequence[Verdict]) -> list[str]:
    lines = []
    for each in verdicts:
        head = f"{each.claim.name:<4} {each.state:<14} "
        indent = " " * len(head)
        lines += textwrap.wrap(each.claim.sentence, WIDTH, initial_indent=head, subsequent_indent=indent)
        words = each.words()
        if words:
            lines += textwrap.wrap(words, WIDTH, initial_indent=indent, subsequent_indent=indent)
    return lines


def _short(verdicts: Sequence[Verdict]) -> list[str]:
    lines = []
    for state in STATES:
        names = [each.claim.name for each in verdicts if each.state == state]
        if names:
            lines.append(f"{state:<14} {', '.join(names)}")
    return lines


# ---- files ----
def as_values(judged: Sequence[Judged], said: Sequence[str]) -> dict[str, Any]:
    """Everything, as plain values."""
    return {
        "minordpo": __version__,
        "test": TEST,
        "situations": [
            {
                "title": each.title,
                "notes": list(each.notes),
                "claims": [_values(verdict) for verdict in each.verdicts],
            }
            for each in judged
        ],
        "said": list(said),
    }


def _values(verdict: Verdict) -> dict[str, Any]:
    claim, finding = verdict.claim, verdict.finding
    return {
        "claim": claim.name,
        "sentence": claim.sentence,
        "where": claim.where,
        "rule": claim.rule,
        "verdict": verdict.state,
        "numbers": verdict.words(),
        "p": None if finding is None else finding.p,
        "p_holm": verdict.adjusted,
        "seeds": 0 if finding is None else finding.seeds,
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
            for each in (finding.contrasts if finding is not None else ())
        ],
        "told": list(finding.told) if finding is not None else [],
    }


def write_json(path: Path, judged: Sequence[Judged], said: Sequence[str]) -> None:
    """One object.

    Raises:
        InputError: it cannot be written.
    """
    with written_whole(path) as aside:
        text = json.dumps(as_values(judged, said), indent=2, ensure_ascii=False, allow_nan=False)
        aside.write_text(text + "\n", encoding="utf-8")


def write_csv(path: Path, judged: Sequence[Judged]) -> None:
    """A row a claim and situation.

    Raises:
        InputError: it cannot be written.
    """
    with written_whole(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for each in judged:
            writer.writerows({"situation": each.title} | _values(verdict) for verdict in each.verdicts)


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
    """A table a situation, the first open."""
    parts = []
    for place, each in enumerate(judged):
        notes = "".join(f'<p class="soft">{html.escape(note)}</p>' for note in each.notes)
        parts.append(
            f"<details{' open' if place == 0 else ''}><summary>{html.escape(each.title)}</summary>{notes}"
            "<table><thead><tr><th>claim<th>verdict<th>what, and its numbers</thead>"
            f"<tbody>{''.join(map(_row, each.verdicts))}</tbody></table></details>"
        )
    parts += [f'<p class="soft">{html.escape(text)}</p>' for text in (TEST, *said)]
    return f'<section id="claims"><h2>What the MinorDPO paper says</h2>{"".join(parts)}</section>'


def _row(verdict: Verdict) -> str:
    name, state, sentence, where, words = map(
        html.escape,
        (verdict.claim.name, verdict.state, verdict.claim.sentence, verdict.claim.where, verdict.words()),
    )
    return f'<tr><th scope="row">{name}<td>{state}<td>{sentence} <span class="soft">({where})<br>{words}</span></tr>'


# ---- the docs ----
def claims_table() -> str:
    """The claims and their rules as Markdown."""
    lines = ["| | claim | where | held where | data needed |", "|" + "---|" * 5]
    for each in CLAIMS:
        cells = (each.name, each.sentence, each.where, each.rule, each.needs)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(claims_table())
