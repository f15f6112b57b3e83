"""The objectives in words: for `--help`, and as the table of docs/objectives.md."""

from __future__ import annotations

import textwrap

from minordpo.objectives.resolve import OBJECTIVES, RANGES, hyperparameter_defaults
from minordpo.objectives.spec import Spec

_KINDS = {"pairs": "pairs", "labelled": "labelled responses", "ranked": "ranked responses"}


def describe_objectives() -> str:
    """Of each objective its formula, what it takes, needs and assumes, its hyper-parameters, their usual range."""
    lines = []
    for name, spec in OBJECTIVES.items():
        lines.append(f"{name}  {spec.formula}")
        facts = [
            f"assumes: {spec.assumes}",
            f"data: {kinds(spec)}; {needs(spec)}",
            f"hyper-parameters: {hyperparameters(name)}",
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
            kinds(spec),
            "yes" if spec.reference else "no",
            spec.assumes,
            spec.usual,
            source(spec),
        ]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def kinds(spec: Spec) -> str:
    """The data it takes, in words."""
    found = [words for kind, words in _KINDS.items() if kind in spec.data]
    text = ", ".join(found)
    return text if spec.undesirable else f"{text} (desirable ones)"


def needs(spec: Spec) -> str:
    """What it needs beside the responses' log-probs."""
    if not spec.reference:
        return "needs other tokens' log-probs, no reference" if spec.alternatives else "no reference needed"
    return "needs a reference, and responses to other prompts" if spec.mismatched else "needs a reference"


def hyperparameters(name: str) -> str:
    """Names, defaults and allowed values."""
    defaults = hyperparameter_defaults(name).items()
    said = (
        f"{key} = {str(value).lower() if value in (True, False) else value} ({RANGES[key]})"
        for key, value in defaults
    )
    return ", ".join(said)


def source(spec: Spec) -> str:
    """The source that the function's docstring names."""
    _, found, text = (spec.function.__doc__ or "").partition("Source:")
    return " ".join(text.split()).rstrip(".") if found else "maximum likelihood"


if __name__ == "__main__":
    print(objectives_table())
