"""Verifiers that a user might write."""

from __future__ import annotations

from typing import Any

calls: list[str] = []


def even(prompt: Any, answer: str, *, right: str | None, facts: Any) -> bool:
    """An answer of an even number of characters is right; untrained models write either."""
    calls.append(answer)
    return len(answer) % 2 == 0


def alike(prompt: Any, answer: str, *, right: str | None, facts: Any) -> float:
    """Every answer is as good as any."""
    return 0.5


def fails_on_third(prompt: Any, answer: str, *, right: str | None, facts: Any) -> bool:
    """The third prompt breaks it."""
    if str(prompt).startswith("three"):
        raise ValueError("no threes")
    return even(prompt, answer, right=right, facts=facts)


def length(prompt: Any, answer: str, *, right: str | None, facts: Any) -> int:
    """The longer the better."""
    calls.append(answer)
    return len(answer)


def even_or_unsaid(prompt: Any, answer: str, *, right: str | None, facts: Any) -> bool | float:
    """As `even`, but of one answer it does not say whether it is right."""
    return 0.25 if answer == "skip" else even(prompt, answer, right=right, facts=facts)
