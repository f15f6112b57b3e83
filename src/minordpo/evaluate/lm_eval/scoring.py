"""What minordpo_gsm8k.yaml calls: the prompt and the parsers of `minordpo evaluate`, so that both score alike.

Regex filters of lm-eval could not: they compare text, and equal values are written in many ways.
"""

from __future__ import annotations

from typing import Any

from minordpo.data.make.close_pairs import PAPER_PROMPT
from minordpo.generate.text_measures import asked_line, last_number, normalize_number


def doc_to_text(doc: dict[str, Any]) -> str:
    """The paper's prompt with the question in it."""
    return PAPER_PROMPT.replace("{question}", doc["question"].strip())


def doc_to_target(doc: dict[str, Any]) -> str:
    """The number at the end of the reference solution."""
    return doc["answer"].rpartition("####")[2].strip()


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the answer is right by the asked line and by its last number, and whether it has that line."""
    reference = normalize_number(doc_to_target(doc))
    asked = asked_line(results[0])
    return {
        "strict_accuracy": float(asked is not None and asked == reference),
        "flexible_accuracy": float(reference is not None and last_number(results[0]) == reference),
        "asked_format": float(asked is not None),
    }
