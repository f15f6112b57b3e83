"""The objectives in words: for `--help`, and as the table of docs/objectives.md."""

from __future__ import annotations

import json
import textwrap

from minordpo.objectives.resolve import KINDS, OBJECTIVES
from minordpo.objectives.spec import Spec


def describe_objectives() -> str:
    """Of each objective its formula, what it takes, needs and assumes, its hyper-parameters, their usual range."""
    lines = []
    for name, spec in OBJECTIVES.items():
        lines.append(f"{name}  {spec.formula}")
        hyper = (f"{key} = {json.dumps(value)} ({spec.ranges[key]})" for key, value in spec.defaults.items())
        facts = [
            f"assumes: {spec.assumes}",
            f"data: {_kinds(spec)}; {_needs(spec)}",
            f"hyper-parameters: {', '.join(hyper)}",
            f"usual: {spec.usual}",
        ]
        for fact in facts:
            lines += textwrap.wrap(fact, 108, initial_indent="    ", subsequent_indent="        ")
    return "\n".join(lines)


def objectives_table() -> str:
    """The same as a Markdown table, with sources."""
    rows = ["| objective | loss a prompt | data | reference | assumes | usual | source |", "|" + "---|" * 7]
    for name, spec in OBJECTIVES.items():
        cells = [
            f"`{name}`",
            spec.formula.rstrip("."),
            _kinds(spec),
            "yes" if spec.reference else "no",
            spec.assumes,
            spec.usual,
            spec.source,
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _kinds(spec: Spec) -> str:
    text = ", ".join(words.partition(" (")[0] for kind, words in KINDS.items() if kind in spec.data)
    return text if spec.undesirable else f"{text} (desirable ones)"


def _needs(spec: Spec) -> str:
    if not spec.reference:
        return "needs other tokens' log-probs, no reference" if spec.alternatives else "no reference needed"
    return "needs a reference, and responses to other prompts" if spec.mismatched else "needs a reference"


if __name__ == "__main__":
    print(objectives_table())
