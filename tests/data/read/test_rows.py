"""Packed files, files between tabs, and several files under one pattern."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from helpers.small_tokenizers import byte_level
from minordpo.data.cache import cached_examples
from minordpo.data.prepare import prepare_examples
from minordpo.data.read.examples import load_examples
from minordpo.data.read.reading import ReadOptions
from minordpo.data.read.rows import Place, is_file, open_rows
from minordpo.data.tokens import TokenOptions
from minordpo.errors import InputError

ROWS = [{"prompt": f"{i}+{i}=", "chosen": f"{2 * i}", "rejected": f"{2 * i + 1}"} for i in range(3)]


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(path: Path, data: bytes) -> str:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def prompts(source: str) -> list[Any]:
    return [each.prompt for each in load_examples(source).examples]


def values(source: str) -> list[tuple[Any, ...]]:
    return [(each.prompt, *each.responses) for each in load_examples(source).examples]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("pairs.jsonl.gz", lines(ROWS)),
        ("pairs.JSONL.GZ".lower(), lines(ROWS)),
        ("pairs.json.gz", json.dumps(ROWS).encode()),
        ("pairs.tsv", b"prompt\tchosen\trejected\n0+0=\t0\t1\n1+1=\t2\t3\n2+2=\t4\t5\n"),
        ("pairs.tsv.gz", b"prompt\tchosen\trejected\n0+0=\t0\t1\n1+1=\t2\t3\n2+2=\t4\t5\n"),
        ("pairs.csv.gz", b"prompt,chosen,rejected\n0+0=,0,1\n1+1=,2,3\n2+2=,4,5\n"),
    ],
)
def test_packed_files_and_files_between_tabs_hold_the_same_rows(tmp_path, name, data):
    source = write(tmp_path / name, data)
    assert values(source) == [tuple(row.values()) for row in ROWS]


def test_a_field_between_tabs_may_hold_a_tab_in_quotes(tmp_path):
    source = write(tmp_path / "p.tsv", b'prompt\tchosen\trejected\n"a\tb"\tc, d\te\n')
    assert values(source) == [("a\tb", "c, d", "e")]
    with pytest.raises(InputError, match=r"has 2 fields, .* Put fields that hold tabs or line ends in"):
        load_examples(write(tmp_path / "q.tsv", b"prompt\tchosen\trejected\na\tb\n"))


def test_a_packed_file_has_the_key_of_what_is_in_it(tmp_path):
    plain = write(tmp_path / "a.jsonl", lines(ROWS))
    packed = write(tmp_path / "b.jsonl.gz", lines(ROWS))
    assert open_rows(plain).digest() == open_rows(packed).digest()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: b"no gzip", lambda data: data[:20] + b"x" * 20]
)
def test_a_packed_file_that_is_damaged_is_refused(tmp_path, damage):
    file = tmp_path / "pairs.jsonl.gz"
    file.write_bytes(damage(gzip.compress(lines(ROWS * 50))))
    with pytest.raises(
        InputError, match=r"pairs.jsonl.gz cannot be unpacked \(.*\), but a whole gzip file"
    ) as refused:
        load_examples(str(file))
    assert "\n" not in str(refused.value)


def test_a_pattern_is_all_files_that_match_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "b.jsonl", lines(ROWS[1:2]))
    write(tmp_path / "a.jsonl.gz", lines(ROWS[:1]))
    write(tmp_path / "c.csv", b"prompt,chosen,rejected\n2+2=,4,5\n")
    loaded = load_examples(str(tmp_path / "*"))
    assert [each.prompt for each in loaded.examples] == ["0+0=", "1+1=", "2+2="]
    assert [int(each.row) for each in loaded.examples] == [1, 2, 3]
    assert loaded.notes == [
        f"1 of 3 rows: they stand in {tmp_path / name}" for name in ("a.jsonl.gz", "b.jsonl", "c.csv")
    ]
    assert prompts(str(tmp_path / "[ab].jsonl*")) == ["0+0=", "1+1="]


def test_a_fault_in_one_of_several_files_is_named_by_its_own_file_and_line(tmp_path):
    write(tmp_path / "a.jsonl", lines(ROWS))
    write(tmp_path / "b.jsonl", b"\n" + lines([ROWS[0], {**ROWS[1], "chosen": 7}]))
    with pytest.raises(InputError, match=r"line 3 of .*b\.jsonl: chosen is the number 7"):
        load_examples(str(tmp_path / "*.jsonl"))
    write(tmp_path / "b.jsonl", lines([{**ROWS[0], "images": ["x"]}]))
    tokenizer, options = byte_level(None), TokenOptions(max_length=None)
    prepared = cached_examples(
        open_rows(str(tmp_path / "*.jsonl")), tokenizer, options, cache=tmp_path / "c", invalid="drop"
    )
    assert prepared.dropped["media"].rows == [4]
    assert "(line 1 of " in prepared.dropped["media"].example
    loaded = load_examples(str(tmp_path / "*.jsonl"), invalid="drop")
    assert prepare_examples(loaded, tokenizer, options, invalid="drop").dropped["media"].rows == [4]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("*.parquet", "matches no file, but one at least is needed"),
        ("*", r"matches .*notes\.txt, which does not end in"),
    ],
)
def test_a_pattern_that_matches_nothing_or_something_else_is_refused(tmp_path, pattern, words):
    write(tmp_path / "a.jsonl", lines(ROWS))
    write(tmp_path / "notes.txt", b"x")
    with pytest.raises(InputError, match=words):
        load_examples(str(tmp_path / pattern))


def test_a_file_whose_name_has_a_bracket_is_itself(tmp_path):
    assert prompts(write(tmp_path / "a[1].jsonl", lines(ROWS[:1]))) == ["0+0="]


def test_numbers_that_say_which_answer_is_better_are_read_out_of_csv(tmp_path):
    head = b"prompt,response_0,response_1,better_response_id\n"
    assert values(write(tmp_path / "a.csv", head + b"Sky?,green,blue,1\n")) == [("Sky?", "blue", "green")]
    head = b"prompt,response_1,response_2,preference_strength\n"
    assert values(write(tmp_path / "b.csv", head + b"Sky?,blue,green,-0.5\n")) == [("Sky?", "blue", "green")]


def test_a_header_may_have_the_names_that_are_given_alone(tmp_path):
    source = write(tmp_path / "a.csv", b"ask,better,worse\nSky?,blue,green\n")
    reading = ReadOptions.of({"prompt": "ask", "chosen": "better", "rejected": "worse"})
    assert load_examples(source, reading=reading).examples[0].responses == ("blue", "green")
    with pytest.raises(InputError, match="but a header with column names is needed"):
        load_examples(source)


def test_a_place_goes_to_another_process_whole():
    place = pickle.loads(pickle.dumps(Place.of(7, "a.jsonl", "line", 2)))
    assert (place, place.where) == (7, "line 2 of a.jsonl")


@pytest.mark.parametrize(
    ("source", "file"), [("a.jsonl", True), ("d/*.gz", True), ("a.tsv.gz", True), ("org/name", False)]
)
def test_a_name_is_a_files_or_a_hub_sets(source, file):
    assert is_file(source) == file
