"""Examples of two responses, the chosen and the rejected one."""

from __future__ import annotations

from typing import Any

import numpy as np

from minordpo.data.read.examples import Example
from minordpo.data.read.fields import Text
from minordpo.data.read.layout import PAIR_GRADES
from minordpo.data.tokens import TokenExample, TokenResponse


def text_pair(prompt: Text, chosen: Text, rejected: Text, row: int, **extra: Any) -> Example:
    """A pair before it is tokenised; `extra` are tools and template_kwargs."""
    return Example(prompt, (chosen, rejected), PAIR_GRADES, row, **extra)


def token_pair(
    prompt_ids: np.ndarray, chosen: TokenResponse, rejected: TokenResponse, row: int
) -> TokenExample:
    """A pair as tokens."""
    return TokenExample(prompt_ids, (chosen, rejected), PAIR_GRADES, row)
