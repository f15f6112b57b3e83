"""The sentences that refuse a run's settings; they stand in `refusals.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from minordpo.errors import InputError

SENTENCES: dict[str, str] = yaml.safe_load(
    files(__package__).joinpath("refusals.yaml").read_text(encoding="utf-8")
)


def refuse_first(wrong: Mapping[str, object], **values: Any) -> None:
    """Refuse by the sentence of the first name whose value is true; `values` are what the sentences quote.

    Raises:
        InputError: one of them is true.
    """
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise InputError(SENTENCES[name].format_map(values))
