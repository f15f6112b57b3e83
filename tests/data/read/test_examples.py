"""The same pairs come out of every kind of source, and what cannot be read is refused by file and row."""

import csv
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from minordpo.data.read.examples import examples_from_rows, load_examples
from minordpo.errors import InputError

ROWS = [
    {"prompt": "2+2=", "chosen": "4", "rejected": "5"},
    {"prompt": 'Say "é", please\r\nnow', "chosen": "é,\u2028x", "rejected": ""},
]
CHAT = [
    {
        "prompt": [{"role": "user", "content": "Weather?"}],
        "chosen": [
            {
                "role": "assistant",
                "tool_calls": [
                    {"type": "function", "function": {"name": "f", "arguments": {"city": "Bern"}}}
                ],
            }
        ],
        "rejected": [{"role": "assistant", "content": "Sunny"}],
    },
    {
        "prompt": [{"role": "user", "content": "Time?"}],
        "chosen": [
            {
                "role": "assistant",
                "tool_calls": [{"type": "function", "function": {"name": "g", "arguments": {"zone": "CET"}}}],
            },
            {"role": "tool", "content": "9"},
        ],
        "rejected": [{"role": "assistant", "content": "Late"}],
    },
]


def values(loaded):
    return [
        {"prompt": p.prompt, "chosen": p.responses[0], "rejected": p.responses[-1]} for p in loaded.examples
    ]


def write(path: Path, rows) -> str:
    if path.suffix == ".jsonl":
        path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    elif path.suffix == ".json":
        path.write_bytes(json.dumps(rows, indent=1).encode())
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv", ".JSONL"])
def test_text_rows_are_the_same_in_every_kind_of_file(tmp_path, suffix):
    path = tmp_path / f"pairs{suffix.lower()}"
    write(path, ROWS)
    source = str(path.rename(tmp_path / f"pairs{suffix}"))
    loaded = load_examples(source)
    assert values(loaded) == ROWS
    assert (loaded.source, loaded.layout, [p.row for p in loaded.examples]) == (source, "TRL text", [1, 2])


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_chat_rows_are_the_same_in_every_kind_of_file_that_holds_lists(tmp_path, suffix):
    loaded = load_examples(write(tmp_path / f"pairs{suffix}", CHAT))
    assert values(loaded) == CHAT  # Arrow's null "zone" beside "city" is gone too
    assert loaded.layout == "TRL chat"


@pytest.mark.parametrize("format_type", [None, "numpy"])
def test_a_dataset_in_memory_gives_the_same_rows_as_the_list_it_was_made_of(format_type):
    dataset = datasets.Dataset.from_list(CHAT).with_format(format_type)
    loaded = examples_from_rows(dataset, source="mine")
    assert values(loaded) == values(examples_from_rows(CHAT, source="mine")) == CHAT
    assert loaded.source == "mine"


def test_a_null_argument_of_a_tool_call_stays_null_in_json(tmp_path):
    row = json.loads(json.dumps(CHAT[0]))
    row["chosen"][0]["tool_calls"][0]["function"]["arguments"]["city"] = None
    loaded = load_examples(write(tmp_path / "pairs.jsonl", [row]))
    assert loaded.examples[0].responses[0][0]["tool_calls"][0]["function"]["arguments"] == {"city": None}


def test_a_csv_field_may_be_longer_than_the_csv_modules_limit(tmp_path):
    limit = csv.field_size_limit()
    long = "word, " * limit
    (tmp_path / "p.csv").write_text(f'prompt,chosen,rejected\na,"{long}",c\n', encoding="utf-8")
    (example,) = load_examples(str(tmp_path / "p.csv")).examples
    assert example.responses[0] == long
    assert csv.field_size_limit() == limit


def test_pairs_without_a_name_are_refused():
    with pytest.raises(
        InputError, match=r"the name of the pairs is blank, but a file or a hub set is needed"
    ):
        load_examples(" ")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path, suffix):
    path = tmp_path / f"pairs{suffix}"
    write(path, ROWS[:1])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert values(load_examples(str(path))) == ROWS[:1]


def test_blank_lines_are_skipped_and_counted(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n" + json.dumps(ROWS[0]) + "\n  \n\r\n" + json.dumps(ROWS[1]), encoding="utf-8")
    assert [pair.row for pair in load_examples(str(path)).examples] == [2, 5]


def test_a_json_object_may_hold_the_list_in_data(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps({"version": 1, "data": ROWS}), encoding="utf-8")
    assert values(load_examples(str(path))) == ROWS


def test_a_hub_set_is_loaded_by_its_split_and_revision(tmp_path, monkeypatch):
    write(tmp_path / "test.jsonl", CHAT)
    real = datasets.load_dataset

    def from_folder(name, *, split, revision):
        assert (name, revision) == ("org/name", "v2")
        return real(
            "json", data_files={"test": str(tmp_path / "test.jsonl")}, split=split, cache_dir=tmp_path / "c"
        )

    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    loaded = load_examples("org/name", split="test", revision="v2")
    assert (loaded.source, values(loaded)) == ("org/name@v2[test]", CHAT)


@pytest.mark.parametrize(
    "error",
    [
        datasets.exceptions.DatasetNotFoundError("Dataset 'org/name' doesn't exist on the Hub."),
        ValueError("Unknown split \"dev\". Should be one of ['train']."),
        ConnectionError("Couldn't reach 'org/name'\non the Hub"),
    ],
)
def test_a_hub_set_that_does_not_load_is_refused_with_the_reason(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        InputError, match=r"org/name is no file, and the hub set .*split 'train'.* could not be load"
    ) as e:
        load_examples("org/name")
    assert str(error).split()[0] in str(e.value)
    assert "\n" not in str(e.value)


def test_all_splits_at_once_are_refused():
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    with pytest.raises(
        InputError, match="mine is a DatasetDict with the keys train, but a Dataset or a list"
    ):
        examples_from_rows(splits, source="mine")


def test_a_row_that_is_no_object_is_refused():
    with pytest.raises(InputError, match=r"row 2 of mine is a list of 0|row 2 of mine is an empty list"):
        examples_from_rows([ROWS[0], []], source="mine")


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path):
    write(tmp_path / "pairs.jsonl", ROWS)
    with pytest.raises(InputError, match=r"pair\.jsonl does not exist, .* Did you mean .*pairs\.jsonl\?"):
        load_examples(str(tmp_path / "pair.jsonl"))
    with pytest.raises(InputError, match=r"does not exist, .* there is no folder .*nowhere either"):
        load_examples(str(tmp_path / "nowhere" / "pairs.jsonl"))
    with pytest.raises(InputError, match=r"zzz\.csv does not exist, .* Check the path\."):
        load_examples(str(tmp_path / "zzz.csv"))


def test_a_directory_is_refused_with_a_file_in_it(tmp_path):
    with pytest.raises(
        InputError, match=r"is a directory, but one file of pairs is needed\. Name the file\."
    ):
        load_examples(str(tmp_path))
    write(tmp_path / "pairs.jsonl", ROWS)
    with pytest.raises(InputError, match=r"is a directory, .* for example .*pairs\.jsonl"):
        load_examples(str(tmp_path))


@pytest.mark.parametrize("name", ["pairs.txt", "data/pairs.txt", "pairs", "a/b/c", "data/pairs.txt.gz"])
def test_a_name_that_is_neither_a_known_file_nor_a_hub_set_is_refused(name):
    with pytest.raises(
        InputError, match=rf"{name} is neither a hub set .* ends in \.jsonl, \.json, \.parquet, \.csv"
    ):
        load_examples(name)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv"])
def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch, suffix):
    source = write(tmp_path / f"pairs{suffix}", ROWS)

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\), .* Check its permissions"):
        load_examples(source)


@pytest.mark.parametrize("options", [{"split": "test"}, {"revision": "v2"}])
def test_a_file_has_no_split_or_revision(tmp_path, options):
    with pytest.raises(
        InputError, match=r"is one file and has no (split 'test'|revision 'v2'), .* Leave it out"
    ):
        load_examples(write(tmp_path / "pairs.jsonl", ROWS), **options)


HEAD = b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"", r"p\.jsonl holds no rows"),
        ("p.jsonl", b"\n \n", r"p\.jsonl holds no rows"),
        ("p.json", b"", r"p\.json holds no rows"),
        ("p.json", b"[]", r"p\.json holds no rows"),
        ("p.csv", b"", r"p\.csv holds no rows"),
        ("p.csv", b"prompt,chosen,rejected\n", r"p\.csv holds no rows"),
        ("p.parquet", b"", r"p\.parquet holds no rows"),
        (
            "p.jsonl",
            HEAD + b"\n" + HEAD[:-3],
            r"line 3 of .*p\.jsonl is not JSON \(column 44: Unterminated.*\"rejected\": \"c'\)",
        ),
        ("p.jsonl", HEAD + b"{'a': 1}", r"line 2 of .* is not JSON \(column 2: .*, near .*'a': 1"),
        ("p.jsonl", b"[" * 100_000, r"line 1 of .*p\.jsonl is not JSON \(maximum recursion"),
        ("p.jsonl", b'[{"prompt": 1}]', r"line 1 of .* is a JSON list, .* name it \.json\."),
        ("p.jsonl", HEAD + b"3", r"line 2 of .* is 3, but one object a line is needed"),
        ("p.jsonl", HEAD + b'{"prompt": "\xe9"}', r"line 2 of .* is not UTF-8 \(0xe9 at byte 13\)"),
        ("p.json", b'[\n{"prompt": "\xff"}]', r"line 2 of .*p\.json is not UTF-8 \(0xff"),
        ("p.csv", b"prompt,chosen,rejected\n\xe9,b,c", r"line 2 of .*p\.csv is not UTF-8 \(0xe9 at byte 1\)"),
        ("p.json", HEAD + HEAD, r"line 2 of .* is not JSON \(column 1: Extra data.* name it \.jsonl\."),
        ("p.json", b'[\n{"a": 1,}\n]', r"line 2 of .*p\.json is not JSON"),
        ("p.json", b"[" * 100_000, r"p\.json is not JSON \(maximum recursion"),
        ("p.json", b'{"rows": []}', r"p\.json holds an object with the keys rows, but a list of objects"),
        ("p.json", b"[1]", r"row 1 of .*p\.json is the number 1, but an object is needed"),
        ("p.parquet", b"not parquet", r"p\.parquet cannot be read as Parquet \(.*\), but a whole"),
        (
            "p.csv",
            b"What?,blue,green\nWho?,me,you\n",
            r"first line of .*p\.csv is What\?, blue, green, but a header",
        ),
        ("p.csv", b"prompt,chosen,chosen\na,b,c\n", r"header of .*p\.csv has chosen more than once"),
        (
            "p.csv",
            b'prompt,chosen,rejected\n"a\nb",c,d\ne,f\n',
            r"row 2 of .*p\.csv \(line 4\) has 2 fields, but the h",
        ),
        (
            "p.csv",
            b'prompt,chosen,rejected\na,b,"c\n',
            r"line 2 of .*p\.csv is not CSV \(unexpected end of data\)",
        ),
        ("p.csv", b'prompt,chosen,rejected\na,"b"x,c\n', r"line 2 of .*p\.csv is not CSV"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_place(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as refused:
        load_examples(str(path))
    assert "\n" not in str(refused.value)


def test_a_parquet_file_that_breaks_off_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "pairs.parquet"
    rows = [{**ROWS[0], "prompt": f"{i} is a number"} for i in range(5000)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1000, compression="snappy")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 4000] = b"\xff" * 4000
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"pairs\.parquet cannot be read as Parquet after row \d+"):
        load_examples(str(path))


def test_the_row_of_a_bad_field_is_named_as_its_owner_counts_it(tmp_path):
    bad = {**ROWS[0], "chosen": None}
    jsonl = tmp_path / "pairs.jsonl"
    jsonl.write_text(json.dumps(ROWS[0]) + "\n\n" + json.dumps(bad), encoding="utf-8")
    with pytest.raises(InputError, match=r"line 3 of .*pairs\.jsonl: chosen is null"):
        load_examples(str(jsonl))
    with pytest.raises(InputError, match=r"row 2 of .*pairs\.parquet: chosen is null"):
        load_examples(write(tmp_path / "pairs.parquet", [ROWS[0], bad]))
