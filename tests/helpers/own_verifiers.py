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
