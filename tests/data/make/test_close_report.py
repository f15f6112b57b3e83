"""How close pairs are: distances as the textbook counts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minordpo.data.make.close_report import CorruptReport, edit_distance


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("", "", 0),
        ("48", "48", 0),
        ("48", "84", 2),
        ("48", "47", 1),
        ("kitten", "sitting", 3),
        ("abc", "", 3),
    ],
)
def test_edit_distances_are_those_counted_by_hand(first, second, distance):
    assert edit_distance(first, second) == distance


@given(st.text("ab1", max_size=12), st.text("ab1", max_size=12))
def test_the_edit_distance_is_that_of_the_textbook_table(first, second):
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        previous, row = row, [i]
        for j, b in enumerate(second, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (a != b)))
    assert edit_distance(first, second) == row[-1]


def test_the_spread_of_none_to_a_hundred_is_known():
    counts = list(range(101))
    said = str(
        CorruptReport("in", "out", read=101, distances=counts, percents=[each / 10 for each in counts])
    )
    assert "    characters              50.00       50   5–95\n" in said
    assert "    % of the chosen text     5.00     5.00   0.50–9.50\n" in said
