"""Packing: what a row holds, who sees whom in it, and how rows are cut to a budget."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import oracle
from helpers.tiny_models import Prompt, odd_shapes, prompt
from minordpo.data.packing import PackedBatch, pack, split, split_by_budget, tree_size
from minordpo.data.tokens import TokenResponse


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """A prompt with one to five responses over three token ids, so that they often begin alike."""
    tokens = st.lists(st.integers(0, 2), min_size=1, max_size=7)
    responses = []
    for ids in draw(st.lists(tokens, min_size=1, max_size=5)):
        scored = np.array(draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids))))
        scored[draw(st.integers(0, len(ids) - 1))] = True
        responses.append(TokenResponse(np.array(ids, np.int32), scored))
    return Prompt(np.array(draw(tokens), np.int32), tuple(responses))


batches = st.lists(prompts(), min_size=1, max_size=4)


def unpack(batch: PackedBatch) -> list[list[tuple[list[int], list[int], int]]]:
    """By walking the tree: for each sequence, for each scored token, (path, ids before it, its own id)."""
    parents = {}
    for node in batch.tree.nodes:
        above = batch.tree.nodes[node.ancestors[-1]].end - 1 if node.ancestors else None
        parents.update({i: i - 1 if i > node.start else above for i in range(node.start, node.end)})
    ids = batch.input_ids.tolist()
    found: list[list[tuple[list[int], list[int], int]]] = [[] for _ in batch.lengths]
    for token, sequence in zip(batch.member_tokens.tolist(), batch.member_sequences.tolist(), strict=True):
        path, i = [], batch.predictors[token].item()
        while i is not None:
            path.insert(0, i)
            i = parents[i]
        found[sequence].append((path, [ids[i] for i in path], batch.targets[token].item()))
    return found


def sequences_of(items: list[Prompt]) -> list[tuple[list[int], list[int]]]:
    """(ids, scored places) of every sequence, from the definition."""
    found = []
    for item in items:
        for response in item.responses:
            places = [len(item.prompt_ids) + i for i, scored in enumerate(response.scored) if scored]
            found.append(([*item.prompt_ids.tolist(), *response.ids.tolist()], places))
    return found


def check_round_trip(items: list[Prompt]) -> None:
    batch = pack(items)
    unpacked = unpack(batch)
    expected = sequences_of(items)
    assert len(unpacked) == len(expected)
    for tokens, (ids, places) in zip(unpacked, expected, strict=True):
        assert [target for _, _, target in tokens] == [ids[place] for place in places]
        for (path, before, _), place in zip(tokens, places, strict=True):
            assert before == ids[:place]
            assert batch.position_ids[path].tolist() == list(range(place))
    assert batch.lengths.tolist() == [len(places) for _, places in expected]
    assert batch.longest == max(len(ids) for ids, _ in expected)


@given(batches)
@settings(max_examples=150, deadline=None)
def test_walking_the_tree_gives_every_sequence_back(items: list[Prompt]):
    check_round_trip(items)


@given(batches)
@settings(max_examples=100, deadline=None)
def test_a_token_sees_its_own_path_and_nothing_else(items: list[Prompt]):
    batch = pack(items)
    tokens = len(batch.input_ids)
    ends = batch.tree.subtree_end.numpy()
    i, j = np.indices((tokens, tokens))
    by_number = (j <= i) & (i < ends[j])
    paths = [path for sequence in unpack(batch) for path, _, _ in sequence]
    by_nodes = np.zeros_like(by_number)
    for node in batch.tree.nodes:
        row = [k for a in node.ancestors for k in range(batch.tree.nodes[a].start, batch.tree.nodes[a].end)]
        for k in range(node.start, node.end):
            row.append(k)
            by_nodes[k, row] = True
    assert (by_number == oracle.sees(paths, tokens)).all()
    assert (by_number == by_nodes).all()


@given(batches)
@settings(max_examples=100, deadline=None)
def test_each_distinct_prefix_is_one_token_of_the_row(items: list[Prompt]):
    batch = pack(items)
    prefixes = {
        (number, *(ids[: depth + 1]))
        for number, item in enumerate(items)
        for ids, places in sequences_of([item])
        for depth in range(places[-1])
    }
    assert len(batch.input_ids) == len(prefixes)
    assert sum(tree_size(item) for item in items) == len(prefixes)


@given(batches)
@settings(max_examples=100, deadline=None)
def test_each_distinct_prediction_is_one_scored_token(items: list[Prompt]):
    batch = pack(items)
    predictions = {
        (number, *(ids[: place + 1]))
        for number, item in enumerate(items)
        for ids, places in sequences_of([item])
        for place in places
    }
    assert len(batch.targets) == len(predictions)
    assert len(set(zip(batch.predictors.tolist(), batch.targets.tolist(), strict=True))) == len(predictions)
    assert sorted(set(batch.member_tokens.tolist())) == list(range(len(predictions)))


def test_a_pair_is_prompt_then_common_beginning_then_two_tails():
    batch = pack([prompt([10, 11], [20, 21, 30, 31], [20, 21, 40])])
    assert batch.input_ids.tolist() == [10, 11, 20, 21, 30]  # 31 and 40 predict nothing, so they are left out
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4]
    assert batch.tree.subtree_end.tolist() == [5, 5, 5, 5, 5]
    assert list(zip(batch.predictors.tolist(), batch.targets.tolist(), strict=True)) == [
        (1, 20),
        (2, 21),
        (3, 30),
        (3, 40),
        (4, 31),
    ]
    assert batch.member_sequences.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert batch.targets[batch.member_tokens].tolist() == [20, 21, 30, 31, 20, 21, 40]


def test_tails_start_again_at_the_branch_and_do_not_see_each_other():
    batch = pack([prompt([10], [20, 30, 31, 32], [20, 40, 41, 42])])
    assert batch.input_ids.tolist() == [10, 20, 30, 31, 40, 41]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 2, 3]
    assert batch.tree.subtree_end.tolist() == [6, 6, 4, 4, 6, 6]


def test_a_response_that_is_a_prefix_of_the_other_costs_nothing():
    batch = pack([prompt([10, 11], [20, 21], [20, 21, 22, 23])])
    assert batch.input_ids.tolist() == [10, 11, 20, 21, 22]
    assert batch.lengths.tolist() == [2, 4]
    assert len(batch.tree.nodes) == 2


def test_equal_responses_share_every_token():
    batch = pack([prompt([10], [20, 21], [20, 21])])
    assert batch.input_ids.tolist() == [10, 20]
    assert batch.targets.tolist() == [20, 21]
    assert batch.member_tokens.tolist() == [0, 1, 0, 1]


def test_one_token_responses_add_no_token_to_the_row():
    batch = pack([prompt([10, 11], [20], [21])])
    assert batch.input_ids.tolist() == [10, 11]
    assert batch.predictors.tolist() == [1, 1]
    assert batch.targets.tolist() == [20, 21]


def test_unscored_tokens_are_seen_and_not_scored():
    batch = pack([prompt([10], [20, 21, 22, 23], unscored={0: [1, 3]})])
    assert batch.input_ids.tolist() == [10, 20, 21]
    assert batch.targets.tolist() == [20, 22]
    assert batch.lengths.tolist() == [2]
    assert batch.longest == 5


def test_masks_that_differ_in_the_common_part_keep_to_their_sequence():
    batch = pack([prompt([10], [20, 21, 30], [20, 21, 40], unscored={0: [0], 1: [1]})])
    scored = batch.targets[batch.member_tokens]
    assert scored[batch.member_sequences == 0].tolist() == [21, 30]
    assert scored[batch.member_sequences == 1].tolist() == [20, 40]


def test_prompts_share_nothing_and_are_numbered():
    batch = pack([prompt([10], [20], [21]), prompt([10], [20], [21], [22])], indices=[7, 3])
    assert batch.input_ids.tolist() == [10, 10]
    assert batch.groups.tolist() == [0, 0, 1, 1, 1]
    assert batch.indices == (7, 3)
    assert batch.padded_tokens == 2 * 5


def test_a_response_without_scored_tokens_is_refused():
    with pytest.raises(ValueError, match="response 1 of the batch has no scored token"):
        pack([prompt([10], [20], [21, 22], unscored={1: [0, 1]})])


def test_a_first_token_that_nothing_precedes_is_refused():
    with pytest.raises(ValueError, match="no scored token that another precedes"):
        pack([prompt([], [20, 21])])


def test_an_empty_prompt_is_packed_where_the_first_token_is_not_scored():
    check_round_trip([prompt([], [20, 21], [20, 22], unscored={0: [0], 1: [0]})])
    check_round_trip([prompt([], [20, 21], [30, 31], unscored={0: [0], 1: [0]})])


def test_moving_a_batch_moves_every_tensor():
    batch = pack(odd_shapes()).to("meta")
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 9
    assert {tensor.device.type for tensor in (*tensors, batch.tree.subtree_end)} == {"meta"}
    assert (batch.indices, batch.longest) == (tuple(range(9)), 32)


sizes = st.lists(st.integers(1, 50), max_size=30)


@given(sizes, st.integers(1, 8))
def test_split_deals_every_item_once_and_nearly_evenly(sizes: list[int], bins: int):
    dealt = split(sizes, bins)
    assert len(dealt) == bins
    assert sorted(item for items in dealt for item in items) == list(range(len(sizes)))
    assert all(items == sorted(items) for items in dealt)
    totals = [sum(sizes[i] for i in items) for items in dealt]
    assert max(totals) - min(totals) <= max(sizes, default=0)
    assert all(dealt) or len(sizes) < bins


def test_split_takes_the_largest_first():
    assert split([1, 5, 2, 4, 3, 3], 2) == [[0, 1, 5], [2, 3, 4]]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 120))
def test_split_by_budget_keeps_the_budget_and_every_item(sizes: list[int], budget: int):
    dealt = split_by_budget(sizes, budget)
    assert sorted(item for items in dealt for item in items) == list(range(len(sizes)))
    for items in dealt:
        assert items
        assert len(items) == 1 or sum(sizes[i] for i in items) <= budget
    alone = sum(size > budget for size in sizes)
    assert len(dealt) >= alone + -(-sum(size for size in sizes if size <= budget) // budget)


def test_split_by_budget_uses_the_fewest_bins_that_its_dealing_can_fill():
    assert split_by_budget([10, 10, 10, 10], 20) == [[0, 2], [1, 3]]
    assert split_by_budget([10, 10, 10, 10], 39) == [[0, 2], [1, 3]]
    assert split_by_budget([10, 10, 10, 10], 40) == [[0, 1, 2, 3]]
    assert split_by_budget([99, 1, 1], 10) == [[0], [1, 2]]


def test_splitting_nothing_gives_empty_bins_and_no_rows():
    assert split([], 3) == [[], [], []]
    assert split_by_budget([], 100) == []
