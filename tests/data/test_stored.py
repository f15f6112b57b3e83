"""Examples as columns: what comes out is what went in, and a column says what the tokens say."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from helpers.small_tokenizers import byte_level
from helpers.tiny_runs import token_pairs
from minordpo.data.packing import tree_size
from minordpo.data.read.examples import examples_from_rows
from minordpo.data.read.reading import ReadOptions
from minordpo.data.show import common_beginning
from minordpo.data.stored import StoredExamples, example_key
from minordpo.data.tokens import (
    TokenExample,
    TokenOptions,
    TokenResponse,
    longest_sequence,
    tokenize_examples,
)


def drawn(count: int, seed: int = 0) -> list[TokenExample]:
    """Examples of one to four responses, with masks of every kind, grades, rows and notes."""
    rng = np.random.default_rng(seed)
    made = []
    for row in range(count):
        responses = []
        for _ in range(rng.integers(1, 5)):
            ids = rng.integers(0, 5, rng.integers(1, 20)).astype(np.int32)
            scored = rng.random(len(ids)) < 0.6
            scored[-1] = True
            responses.append(TokenResponse(ids, scored))
        grades = tuple(float(grade) for grade in rng.random(len(responses)))
        notes = {"boundary": f"at {row}"} if row % 3 == 0 else {}
        notes |= {"cut": "chosen from 9 tokens to 8"} if row % 4 == 0 else {}
        prompt = rng.integers(0, 9, rng.integers(1, 9)).astype(np.int32)
        made.append(TokenExample(prompt, tuple(responses), grades, 2 * row + 5, notes))
    return made


def same(one: TokenExample, other: TokenExample) -> bool:
    facts = [(each.grades, each.row, each.notes, len(each.responses)) for each in (one, other)]
    arrays = [
        [each.prompt_ids, *(x for r in each.responses for x in (r.ids, r.scored))] for each in (one, other)
    ]
    return facts[0] == facts[1] and all(
        a.dtype == b.dtype and np.array_equal(a, b) and b.flags.writeable
        for a, b in zip(*arrays, strict=True)
    )


def test_examples_come_out_as_they_went_in():
    examples = drawn(40)
    stored = StoredExamples.of(examples)
    assert len(stored) == 40
    assert all(same(one, other) for one, other in zip(examples, stored, strict=True))
    assert same(examples[-1], stored[-1])
    with pytest.raises(IndexError):
        stored[40]


@pytest.mark.parametrize("order", ["all", "some", "sliced", "joined"])
def test_columns_say_what_the_examples_say(order: str):
    examples = drawn(30)
    stored = StoredExamples.of(examples)
    if order == "some":
        places = np.array([7, 3, 3, 29, 0])
        stored, examples = stored.take(places), [examples[i] for i in places]
    elif order == "sliced":
        stored, examples = stored[25:3:-4][1:], examples[25:3:-4][1:]
    elif order == "joined":
        others = drawn(5, seed=1)
        stored = StoredExamples.joined([stored.take(np.array([4, 2])), StoredExamples.of(others), stored[:0]])
        examples = [examples[4], examples[2], *others]
    assert [each.row for each in stored] == stored.rows.tolist() == [each.row for each in examples]
    assert stored.sizes.tolist() == [tree_size(each) for each in examples]
    assert stored.commons.tolist() == [common_beginning(each) for each in examples]
    assert stored.prompt_lengths.tolist() == [len(each.prompt_ids) for each in examples]
    assert stored.counts.tolist() == [len(each.responses) for each in examples]
    assert stored.response_lengths.tolist() == [len(r.ids) for each in examples for r in each.responses]
    assert stored.grades.tolist() == [grade for each in examples for grade in each.grades]
    assert [key.tobytes() for key in stored.keys] == [example_key(each) for each in examples]
    assert stored.longest == max(map(longest_sequence, examples))
    assert stored.padded == sum(len(each.responses) * longest_sequence(each) for each in examples)
    every = [ids for each in examples for ids in (each.prompt_ids, *(r.ids for r in each.responses))]
    assert stored.largest_id == max(int(ids.max()) for ids in every)
    assert not stored.are_pairs


def test_pairs_are_told_from_other_kinds():
    pairs = token_pairs(3)
    assert StoredExamples.of(pairs).are_pairs
    other = TokenExample(pairs[0].prompt_ids, pairs[0].responses, (2.0, 1.0), 1)
    assert not StoredExamples.of([*pairs, other]).are_pairs


def test_none_are_none():
    none = StoredExamples.of([])
    assert not none
    assert [len(each) for each in (none, list(none), none.keys, none.grades, none.rows, none.counts)] == [
        0
    ] * 6
    assert [each.row for each in StoredExamples.joined([none, StoredExamples.of(token_pairs(2))])] == [1, 2]


def test_another_process_maps_the_same_file(tmp_path: Path):
    from minordpo.data.prepare import prepare_rows
    from minordpo.data.read.rows import rows_of

    rows = [{"prompt": f"{i}?", "chosen": " Yes", "rejected": " No"} for i in range(50)]
    options = {
        "invalid": "refuse",
        "reading": ReadOptions(),
        "limit": None,
        "expected": 50,
        "progress": False,
    }
    file = tmp_path / "examples.arrow"
    made = prepare_rows(
        rows_of(rows, source="rows"),
        file,
        byte_level(),
        TokenOptions(),
        **options,  # type: ignore[arg-type]
    ).examples
    plain = tokenize_examples(
        examples_from_rows(rows, source="rows").examples, byte_level(), options=TokenOptions()
    )
    assert all(
        isinstance(one, TokenExample) and same(one, other) for one, other in zip(plain, made, strict=True)
    )
    sent = pickle.dumps(made.take(np.array([40, 2])))
    assert len(sent) < 2000
    assert [each.row for each in pickle.loads(sent)] == [41, 3]
    in_memory = StoredExamples.of(drawn(3))
    assert all(
        same(one, other) for one, other in zip(in_memory, pickle.loads(pickle.dumps(in_memory)), strict=True)
    )
