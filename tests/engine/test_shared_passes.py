"""Two processes share a reference pass: they find what one finds, and end as one."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.forked import fork_ranks
from helpers.shared_passes import PAIRS, WAIT
from helpers.tiny_runs import token_pairs
from minordpo.data.stored import example_key
from minordpo.engine import ranks
from minordpo.engine.ranks import ALONE, ROWS, Ranks, rounds
from minordpo.engine.reference_cache import ReferenceCache


@pytest.fixture(scope="module")
def passes(tmp_path_factory):
    """All cases, in the same two processes; and what they said on the error output."""
    folder = tmp_path_factory.mktemp("passes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    fork_ranks("helpers.shared_passes:main", folder, log=folder / "said", environment=environment)
    return folder


def found(folder: Path, case: str) -> list[dict[str, Any]]:
    """What each process found."""
    return [json.loads((folder / f"{case}-{rank}.json").read_text()) for rank in range(2)]


def alone(folder: Path) -> list[str]:
    return json.loads((folder / "alone.json").read_text())["values"]


@pytest.mark.parametrize(
    ("case", "rows"),
    # Rows that the two run together: each missing pair once, whoever had the others. What a failed pass had is kept.
    sorted({"after errors": 2, "folder": 7, "no folder": 7, "own folders": 2, "partly filled": 5}.items()),
)
def test_both_processes_have_the_bits_of_one_and_computed_nothing_twice(passes, case, rows):
    one, two = found(passes, case)
    assert one["values"] == two["values"] == alone(passes)[:PAIRS]
    assert one["rows"] + two["rows"] == rows
    assert abs(one["rows"] - two["rows"]) <= 1


def test_a_second_pass_computes_nothing(passes):
    one, two = found(passes, "read again")
    assert one["values"] == two["values"] == alone(passes)[:PAIRS]
    assert one["rows"] == two["rows"] == 0


def test_a_process_without_a_share_gets_the_others(passes):
    one, two = found(passes, "one pair")
    assert one["values"] == two["values"] == alone(passes)[:1]
    assert sorted([one["rows"], two["rows"]]) == [0, 1]
    assert [each["values"] for each in found(passes, "no pairs")] == [[], []]


def test_rounds_and_repeated_pairs_change_no_bit(passes):
    one, two = found(passes, "rounds")
    expected = alone(passes)
    assert one["values"] == two["values"] == [*expected[:PAIRS], *expected, expected[3]]
    assert one["rows"] + two["rows"] == len(expected)


def test_each_process_writes_what_it_computed_and_nothing_else(passes):
    pairs = token_pairs(PAIRS)
    kept = [ReferenceCache(passes / f"own{rank}", "k") for rank in range(2)]
    had = [{0, 1}, {1, 2, 3, 4}]
    for cache, own, other in zip(kept, had, reversed(kept), strict=True):
        held = {i for i, pair in enumerate(pairs) if example_key(pair) in cache}
        assert own < held
        assert all(i in had[0] | had[1] or example_key(pairs[i]) not in other for i in held)
    whole = ReferenceCache(passes / "folder", "k")
    assert all(example_key(pair) in whole for pair in pairs)
    assert len(list((passes / "folder" / "k").iterdir())) == 2
    assert not list(passes.rglob("*.writing"))


def test_a_bar_on_the_first_process_counts_the_pairs_of_both(passes):
    said = (passes / "said.0.txt").read_text()
    counts = [int(count) for count in re.findall(rf"reference: .*?\| (\d+)/{PAIRS} ", said)]
    assert counts[0] == 0
    assert counts[-1] == max(counts) == PAIRS


def test_an_error_a_user_can_fix_on_one_process_ends_the_pass_on_both(passes):
    one, two = found(passes, "input error")
    assert (two["kind"], two["error"]) == ("InputError", "row 3 is bad. Drop it")
    assert (one["kind"], one["error"]) == ("InputError", "process 1 stopped: row 3 is bad. Drop it")
    assert max(one["seconds"], two["seconds"]) < 20


def test_any_other_error_on_one_process_ends_the_pass_on_both(passes):
    one, two = found(passes, "bug")
    assert one["kind"] == "KeyError"
    assert (two["kind"], two["error"]) == ("RuntimeError", "process 0 stopped: KeyError: 'left out'")


def test_a_cache_that_one_process_cannot_write_ends_the_pass_on_both(passes):
    one, two = found(passes, "full disk")
    assert "cannot be written" in two["error"]
    assert one["kind"] == two["kind"] == "InputError"
    assert one["error"] == f"process 1 stopped: {two['error']}"


@pytest.mark.parametrize(
    ("case", "what"), [("other model", "a reference model or precision"), ("other pairs", "pairs")]
)
def test_processes_with_different_files_are_refused(passes, case, what):
    for each in found(passes, case):
        assert each["kind"] == "InputError"
        assert each["error"] == (
            f"process 1 has {what} other than process 0's, but all must have the same. Give every node the same files"
        )


def test_work_of_the_first_process_may_take_longer_than_a_collective_waits(passes):
    for each in found(passes, "long work"):
        assert each.get("error") is None
        assert each["seconds"] > WAIT


def test_work_that_fails_on_the_first_process_ends_the_others_wait(passes):
    one, two = found(passes, "failing work")
    assert (one["kind"], one["error"]) == ("InputError", "the folder is full")
    assert (two["kind"], two["error"]) == ("InputError", "process 0 stopped: the folder is full")


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(0, 9)), max_size=200),
    st.integers(1, 4),
    st.integers(1, 100),
)
def test_rounds_deal_each_item_once_to_its_owner_or_evenly(items, world, budget):
    sizes, owners = [size for size, _ in items], [min(owner, world) for _, owner in items]
    dealt = list(rounds(sizes, owners, Ranks(0, world), token_budget=budget))
    assert sorted(i for shares in dealt for share in shares for i in share) == list(range(len(items)))
    for shares in dealt:
        assert len(shares) == world
        assert all(owners[i] in (rank, world) for rank, share in enumerate(shares) for i in share)
        free = [[sizes[i] for i in share if owners[i] == world] for share in shares]
        totals = [sum(share) for share in free]
        assert max(totals) - min(totals) <= max([0, *(size for share in free for size in share)])
        count = sum(len(share) for share in shares)
        total = sum(sizes[i] for share in shares for i in share)
        last = max(i for share in shares for i in share)  # without it the round is not full
        assert count <= ROWS * world or total - sizes[last] < ROWS * world * budget


def test_one_process_alone_waits_for_nobody():
    for together in (ALONE.failing_together, ALONE.first_works):
        with pytest.raises(KeyError), together():
            raise KeyError
    with ALONE.first_works() as go_on:
        go_on()
    ALONE.refuse_different("any", "pairs")
    owners, everywhere = ALONE.owners([True, False])
    assert owners.tolist() == [0, 1]
    assert everywhere.tolist() == [True, False]


def test_a_process_leaves_the_others_when_it_ends(monkeypatch):
    at_exit, left = [], []
    monkeypatch.setattr(ranks.atexit, "register", at_exit.append)
    monkeypatch.setattr(
        ranks.atexit, "unregister", lambda each: at_exit.remove(each) if each in at_exit else None
    )
    monkeypatch.setattr(ranks.distributed, "destroy_process_group", lambda: left.append(True))
    ranks.leave_at_exit()
    ranks.leave_at_exit()
    (leave,) = at_exit
    leave()
    assert not left  # alone, there is nobody to leave
    monkeypatch.setattr(ranks.distributed, "is_initialized", lambda: True)
    leave()
    assert left == [True]
