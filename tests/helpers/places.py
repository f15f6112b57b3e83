"""Folders that tests read: the checkout, the tests and their helpers, and the data beside the checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
SHARED = ROOT.parent / "shared"  # absent where the checkout stands alone
