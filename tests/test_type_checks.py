"""Tests check the package's annotations: what classes values have, and which arrays are as long as each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError

from helpers.type_checks import jaxtyped
from minordpo.data.make.close_report import CorruptReport, edit_distance
from minordpo.engine.logprobs import Draw
from minordpo.objectives.logps import ResponseLogps

ANY: Any = None
ONE, TWO, PLACE = torch.ones(1), torch.ones(2), torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize(
    "call",
    [
        lambda: edit_distance("a", ANY),
        lambda: CorruptReport("a", "b").add_pair("a", "b", same_length=ANY),
        lambda: CorruptReport(ANY, "b"),
        lambda: CorruptReport("a", "b", distances=ANY),
    ],
)
def test_a_value_of_another_class_is_refused(call: Any):
    with pytest.raises(BeartypeCallHintViolation):
        call()


def test_a_result_of_another_class_is_refused():
    @jaxtyped(typechecker=beartype)
    def count(values: list[int]) -> int:
        return values  # type: ignore[return-value]

    with pytest.raises(BeartypeCallHintViolation, match="return"):
        count([1])


def test_axes_of_one_name_and_two_lengths_are_refused():
    Draw(PLACE, ONE, 1)
    with pytest.raises(TypeCheckError, match="alternatives"):
        Draw(PLACE, TWO, 1)


def test_axes_of_arrays_that_may_be_absent_are_checked():
    ResponseLogps(ONE, None, PLACE, PLACE, ONE)
    with pytest.raises(TypeCheckError, match="sequences"):
        ResponseLogps(ONE, TWO, PLACE, PLACE, ONE)
