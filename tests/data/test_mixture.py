"""How often each of several sources is met, and which of their examples are held out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minordpo.data.mixture import Mixture, SourceOf, deal, held_out_places


def sources(*counts: int) -> SourceOf:
    return SourceOf(tuple("abcdef"[: len(counts)]), np.repeat(np.arange(len(counts)), counts))


def test_by_rows_a_pass_has_weight_times_the_rows_of_each_source():
    assert Mixture(sources(10, 4, 3), (1.0, 2.5, 0.4)).drawn().tolist() == [10, 10, 1]


def test_by_steps_a_pass_has_as_many_rows_as_there_are_in_shares_of_the_weights():
    assert Mixture(sources(90, 10), (1.0, 1.0), "steps").drawn().tolist() == [50, 50]
    assert Mixture(sources(6, 2), (3.0, 1.0), "steps").drawn().tolist() == [6, 2]


@given(
    st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    st.lists(st.integers(1, 12), min_size=1, max_size=40),
)
def test_every_step_is_full_and_all_steps_so_far_have_the_shares(weights, sizes):
    shares = np.array(weights) / sum(weights)
    dealt = deal(shares, sizes)
    assert (dealt >= 0).all()
    assert dealt.sum(axis=1).tolist() == sizes
    assert (np.abs(dealt.cumsum(axis=0) - np.cumsum(sizes)[:, None] * shares) < 2).all()


def test_shares_by_hand():
    assert deal(np.array([0.5, 0.25, 0.25]), [4, 4]).tolist() == [[2, 1, 1], [2, 1, 1]]
    assert deal(np.array([0.75, 0.25]), [2, 2]).tolist() == [[2, 0], [1, 1]]


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4).filter(lambda counts: sum(counts) > 4),
    st.integers(0, 3),
)
def test_held_out_examples_are_distinct_and_of_every_source_that_has_two(counts, seed):
    given_sources, count = sources(*counts), min(sum(counts) - 1, 2 * len(counts))
    places = held_out_places(given_sources, count, seed)
    assert len(set(places.tolist())) == count
    held = given_sources.take(places).counts
    assert all(number >= 1 for number, there in zip(held, counts, strict=True) if there > 1)
    assert (held <= counts).all()


def test_held_out_examples_are_in_proportion():
    assert sources(80, 20).take(held_out_places(sources(80, 20), 10)).counts.tolist() == [8, 2]


@pytest.mark.parametrize(("by", "of"), [("rows", "of a pass"), ("steps", "of every step")])
def test_the_mixture_is_told_by_source(by, of):
    lines = Mixture(sources(3, 1), (1.0, 3.0), by).lines()
    assert lines[0].startswith("  a: 3 to train on, ")
    assert lines[1].endswith(f" {of})")
