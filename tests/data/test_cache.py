"""Tokens that are kept: found again by content alone, whole or not there, with the report that was made of them."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from helpers.forked import Forked
from helpers.small_tokenizers import CHATML, PLAIN, byte_level, metaspace
from helpers.tiny_runs import chat_rows, text_rows, tokenizer
from minordpo.data import cache, pool, prepare
from minordpo.data.cache import cached_examples, tokenizer_digest
from minordpo.data.checks import PreparedExamples
from minordpo.data.prepare import prepare_examples
from minordpo.data.read.examples import load_examples
from minordpo.data.read.reading import ReadOptions
from minordpo.data.read.rows import open_rows, rows_of
from minordpo.data.tokens import TokenExample, TokenOptions
from minordpo.errors import InputError

LABELLED = [{"prompt": f"Is {i} odd?", "completion": " Yes", "label": i % 2 == 1} for i in range(7)]
RANKED = [
    {"prompt": f"Name {i}:", "responses": [" Yes", " No", " odd"], "scores": [2, 3, i]} for i in (0, 1, 4)
]


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def cached(
    source: str, folder: Path, words: PreTrainedTokenizerBase | None = None, **how: Any
) -> PreparedExamples:
    options = how.pop("options", TokenOptions(max_length=None))
    return cached_examples(open_rows(source), words or byte_level(), options, cache=folder, **how)


def plain(example: TokenExample) -> tuple[Any, ...]:
    responses = [(each.ids.tolist(), each.scored.tolist()) for each in example.responses]
    return example.prompt_ids.tolist(), responses, example.grades, example.row, example.notes


def same(one: PreparedExamples, other: PreparedExamples) -> bool:
    findings = [(each.dropped, each.kept, each.report, each.unread) for each in (one, other)]
    return findings[0] == findings[1] and [*map(plain, one.examples)] == [*map(plain, other.examples)]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources that were tokenised."""
    found: list[str] = []
    real = cache.prepare_rows

    def making(rows: Any, *args: Any, **options: Any) -> PreparedExamples:
        found.append(rows.source)
        return real(rows, *args, **options)

    monkeypatch.setattr(cache, "prepare_rows", making)
    return found


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes, whatever the data's size."""
    for name, value in (("SEVERAL_FROM", 1), ("CHUNK", 3), ("cores", lambda: 3)):
        monkeypatch.setattr(prepare, name, value)


ODD = [
    *text_rows(9),
    {"prompt": "Answer:", "chosen": " Yes", "rejected": " Yes"},
    *text_rows(2),
    {"prompt": "Answer:", "chosen": "", "rejected": " Yes"},
    {**text_rows(1)[0], "chosen": text_rows(1)[0]["rejected"], "rejected": text_rows(1)[0]["chosen"]},
    {"prompt": "bl", "chosen": "ack", "rejected": "ue"},
    *text_rows(3),
]


@pytest.mark.parametrize(
    "rows", [chat_rows(14), ODD, LABELLED, RANKED], ids=["chat", "odd text", "labelled", "ranked"]
)
@pytest.mark.parametrize("processes", ["one", "three"])
def test_a_later_start_has_what_the_first_and_a_start_without_a_cache_have(
    tmp_path: Path, made: list[str], rows: list[Any], processes: str, request: pytest.FixtureRequest
):
    if processes == "three":
        request.getfixturevalue("several")
    source = write(tmp_path / "rows.jsonl", rows)
    first = cached(source, tmp_path, invalid="drop")
    later = cached(source, tmp_path, invalid="drop")
    assert made == [source]
    without = prepare_examples(
        load_examples(source), byte_level(), TokenOptions(max_length=None), invalid="drop"
    )
    assert same(first, without)
    assert same(first, later)


def test_the_file_is_one_of_datasets(tmp_path: Path):
    found = cached(write(tmp_path / "rows.jsonl", chat_rows(3)), tmp_path)
    (file,) = tmp_path.rglob("*.arrow")
    opened = datasets.Dataset.from_file(str(file))
    assert opened["prompt_ids"] == [example.prompt_ids.tolist() for example in found.examples]


def test_several_processes_write_the_bytes_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = write(tmp_path / "rows.jsonl", ODD * 3)
    files = []
    for count in (1, 3):
        monkeypatch.setattr(prepare, "SEVERAL_FROM", 1)
        monkeypatch.setattr(prepare, "CHUNK", 4)
        monkeypatch.setattr(prepare, "cores", lambda count=count: count)
        cached(source, tmp_path / str(count), invalid="drop")
        files.append([file.read_bytes() for file in sorted((tmp_path / str(count)).rglob("*.*"))])
    assert len(files[0]) == 2
    assert files[0] == files[1]


# ---- the key ----
def other_template() -> PreTrainedTokenizerBase:
    return byte_level(PLAIN)


def other_words() -> PreTrainedTokenizerBase:
    made = byte_level()
    made.add_tokens(["Answer"])
    return made


def other_special() -> PreTrainedTokenizerBase:
    made = byte_level()
    made.add_tokens([AddedToken("<call>", special=True, lstrip=True)])
    return made


KINDS: dict[str, Callable[[list[Any]], dict[str, Any]]] = {
    "a row": lambda rows: {"rows": [*rows[:-1], {**rows[-1], "chosen": rows[-1]["chosen"] + "!"}]},
    "the order of rows": lambda rows: {"rows": rows[::-1]},
    "a row less": lambda rows: {"rows": rows[:-1]},
    "the name of a column": lambda rows: {"rows": [{**row, "note": ""} for row in rows]},
    "how the file is read": lambda rows: {"name": "rows.json"},
    "the chat template": lambda rows: {"words": other_template()},
    "the vocabulary": lambda rows: {"words": other_words()},
    "a special token": lambda rows: {"words": other_special()},
    "the kind of tokenizer": lambda rows: {"words": metaspace()},
    "max_length": lambda rows: {"options": TokenOptions(max_length=1000)},
    "overlong": lambda rows: {"options": TokenOptions(max_length=None, overlong="drop")},
    "score_end": lambda rows: {"options": TokenOptions(max_length=None, score_end="end_of_turn")},
    "invalid": lambda rows: {"invalid": "drop"},
    "reading": lambda rows: {"reading": ReadOptions(strip_few_shot=True)},
    "limit": lambda rows: {"limit": len(rows) - 1},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_tokens_depend_on_is_in_the_key(tmp_path: Path, made: list[str], kind: str):
    rows = text_rows(6)
    first = cached(write(tmp_path / "rows.jsonl", rows), tmp_path)
    changed = KINDS[kind](rows)
    content, name = changed.pop("rows", rows), changed.pop("name", "rows.jsonl")
    source = write(tmp_path / name, content)
    if name == "rows.json":
        Path(source).write_text(json.dumps(content))
    second = cached(source, tmp_path, **changed)
    assert len(made) == 2
    cached(write(tmp_path / "rows.jsonl", rows), tmp_path)
    assert len(made) == 2
    assert first.examples.file != second.examples.file


def test_the_version_of_the_code_is_in_the_key(
    tmp_path: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
):
    source = write(tmp_path / "rows.jsonl", text_rows(2))
    cached(source, tmp_path)
    monkeypatch.setattr(cache, "TOKENS_VERSION", cache.TOKENS_VERSION + 1)
    cached(source, tmp_path)
    assert len(made) == 2


def test_the_day_is_in_the_key_of_a_template_that_may_show_it():
    with_day = CHATML + "{{ strftime_now('%d') }}"
    days = []
    for template in (CHATML, with_day):
        for day in ("2026-01-01", "2026-01-02"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    cache.datetime, "date", type("Date", (), {"today": staticmethod(lambda day=day: day)})
                )
                days.append(tokenizer_digest(byte_level(template)))
    assert days[0] == days[1] != days[2] != days[3]


def test_where_rows_and_tokenizer_come_from_is_not_in_the_key(tmp_path: Path, made: list[str]):
    (tmp_path / "other").mkdir()
    first = cached(write(tmp_path / "rows.jsonl", chat_rows(4)), tmp_path)
    used = byte_level()
    used.pad_token = used.eos_token
    before = tokenizer_digest(used)
    used(["a", "longer text"], padding=True, truncation=True, max_length=3)  # which it remembers
    assert tokenizer_digest(used) == before
    used.save_pretrained(tmp_path / "saved")
    copies = []
    for name in ("one", "two"):
        (tmp_path / "saved").rename(tmp_path / name)
        copies.append(tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path / name)))
        (tmp_path / name).rename(tmp_path / "saved")
    assert copies[0] == copies[1]
    source = write(tmp_path / "other" / "copy.jsonl", chat_rows(4))
    second = cached(source, tmp_path)
    assert len(made) == 1
    assert first.report.startswith(f"{tmp_path / 'rows.jsonl'}: 4 rows read")
    assert second.report.startswith(f"{source}: 4 rows read")
    assert first.report.partition(": ")[2] == second.report.partition(": ")[2]


@pytest.mark.parametrize("kind", ["list", "dataset", "selected"])
def test_rows_of_python_are_known_by_their_content(tmp_path: Path, made: list[str], kind: str):
    def rows(count: int) -> Any:
        if kind == "list":
            return text_rows(count)
        if kind == "dataset":
            return datasets.Dataset.from_list(text_rows(count))
        return datasets.Dataset.from_list(text_rows(count + 2)).select(range(count))

    for count in (4, 4, 5):
        options = TokenOptions(max_length=None)
        found = cached_examples(rows_of(rows(count), source="mine"), byte_level(), options, cache=tmp_path)
        assert len(found.examples) == count
    assert len(made) == 2


# ---- what goes wrong ----
def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit of the tokens": lambda folder: flip(folder / "examples.arrow"),
    "tokens cut off": lambda folder: os.truncate(folder / "examples.arrow", 1000),
    "no tokens": lambda folder: (folder / "examples.arrow").unlink(),
    "a bit of the report": lambda folder: flip(folder / "report.json"),
    "a report cut off": lambda folder: os.truncate(folder / "report.json", 100),
    "no object": lambda folder: (folder / "report.json").write_text("[]"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_damaged_is_told_and_made_anew(
    tmp_path: Path, made: list[str], capsys: pytest.CaptureFixture[str], kind: str
):
    source = write(tmp_path / "rows.jsonl", ODD)
    first = cached(source, tmp_path, invalid="drop")
    before = [plain(example) for example in first.examples]
    assert first.examples.file is not None
    folder = first.examples.file.parent
    DAMAGE[kind](folder)
    again = cached(source, tmp_path, invalid="drop")
    assert f"{folder} is damaged (" in capsys.readouterr().out
    assert [plain(example) for example in again.examples] == before
    assert (again.report, again.dropped, again.kept) == (first.report, first.dropped, first.kept)
    cached(source, tmp_path, invalid="drop")
    assert len(made) == 2
    assert capsys.readouterr().out == ""


def test_a_killed_pass_leaves_nothing_half_and_no_process(tmp_path: Path):
    # Long enough that a result does not fit into a pipe: its sender waits for somebody to read.
    rows = [
        {**row, "rejected": [{"role": "assistant", "content": f"{i}" * 20000}]}
        for i, row in enumerate(chat_rows(40))
    ]
    source, log = write(tmp_path / "rows.jsonl", rows), tmp_path / "children"
    victim = Forked("helpers.cached_data:killed", source, str(tmp_path), str(log), log=tmp_path / "said")
    assert victim.wait() == -9
    children = [int(each) for each in log.read_text().split()]
    assert len(children) == 2
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline, "a child outlives the process that was killed"
        time.sleep(0.05)
    (left,) = (tmp_path / "tokens").rglob("*.partial")
    assert not [*tmp_path.rglob("examples.arrow"), *tmp_path.rglob("report.json")]
    found = cached(source, tmp_path, tokenizer())
    assert not left.exists()
    without = prepare_examples(load_examples(source), tokenizer(), TokenOptions(max_length=None))
    assert same(found, without)
    assert found.examples.file is not None
    assert sorted(each.name for each in found.examples.file.parent.iterdir()) == [
        "examples.arrow",
        "report.json",
    ]


def test_of_two_processes_one_makes_the_tokens_and_the_other_waits(tmp_path: Path):
    source, log = write(tmp_path / "rows.jsonl", chat_rows(30)), tmp_path / "made"
    both = [
        Forked("helpers.cached_data:slow", source, str(tmp_path), str(log), log=tmp_path / f"said{i}")
        for i in (1, 2)
    ]
    assert [each.wait() for each in both] == [0, 0]
    assert log.read_text() == "made\n"
    said = sorted((tmp_path / f"said{i}").read_text() for i in (1, 2))
    assert said == ["30\n", "another process tokenises the same rows: this one waits for it\n30\n"]


BAD: dict[str, Any] = {
    "no JSON": '{"prompt": "a", ',
    "a list": "[1]",
    "a column less": json.dumps({"prompt": "a", "chosen": " b"}),
    "no text": json.dumps({"prompt": "a", "chosen": 1, "rejected": " c"}),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("processes", ["one", "three"])
def test_a_bad_row_is_named_by_file_and_line_as_without_a_cache(
    tmp_path: Path, kind: str, processes: str, request: pytest.FixtureRequest
):
    if processes == "three":
        request.getfixturevalue("several")
    source = write(tmp_path / "rows.jsonl", text_rows(20))
    lines = Path(source).read_text().splitlines()
    lines[12] = lines[17] = BAD[kind]
    Path(source).write_text("\n".join(lines))
    with pytest.raises(InputError) as plainly:
        load_examples(source)
    with pytest.raises(InputError, match=r"line 13 of .*rows\.jsonl") as found:
        cached(source, tmp_path)
    assert str(found.value) == str(plainly.value)
    assert not [each for each in (tmp_path / "tokens").rglob("*") if each.is_file()]


@pytest.mark.usefixtures("several")
def test_rows_that_cannot_be_used_are_refused_together_and_leave_nothing(tmp_path: Path):
    source = write(tmp_path / "rows.jsonl", ODD)
    with pytest.raises(InputError, match=r"2 rows cannot be used: .* row 10, .* row 13, .*invalid=drop"):
        cached(source, tmp_path)
    assert not [each for each in (tmp_path / "tokens").rglob("*") if each.is_file()]


def test_no_rows_beyond_the_limit_are_read(tmp_path: Path):
    source = write(tmp_path / "rows.jsonl", [*text_rows(5), "no object"])
    assert cached(source, tmp_path, limit=5).report.startswith(f"{source}: 5 rows read")


def test_a_cache_that_cannot_be_written_is_refused_with_its_remedy(tmp_path: Path):
    (tmp_path / "file").write_text("")
    source = write(tmp_path / "rows.jsonl", text_rows(2))
    with pytest.raises(InputError, match=r"cannot be written: .* by the environment variable MINORDPO_CACHE"):
        cached(source, tmp_path / "file")


def dies(chunk: int) -> int:
    if chunk == 2:
        os._exit(1)
    return chunk


def fails(chunk: int) -> int:
    return 1 // chunk


def test_a_process_that_dies_or_fails_ends_the_pass():
    with pytest.raises(RuntimeError, match="was ended from outside"):
        list(pool.in_order(dies, range(9), processes=2))
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(pool.in_order(fails, [2, 1, 0, 3], processes=2))


def uneven(chunk: int) -> int:
    time.sleep(0.05 * (chunk % 3 == 0))
    return chunk


def test_results_come_in_order_and_chunks_are_not_read_without_end():
    read: list[int] = []

    def chunks() -> Iterator[int]:
        for i in range(20):
            read.append(i)
            yield i

    for told, result in enumerate(pool.in_order(uneven, chunks(), processes=2)):
        assert result == told
        assert len(read) <= told + 1 + 4
    assert len(read) == 20


# ---- duplicates and contradictions, counted one row after the other ----
def naive(examples: list[TokenExample]) -> dict[str, list[tuple[int, int]]]:
    """By kind each row with the first one that it repeats."""
    seen: dict[Any, int] = {}
    found: dict[str, list[tuple[int, int]]] = {"duplicate": [], "contradiction": []}
    for example in examples:
        prompt, responses, grades, row, _ = plain(example)
        ids = [tuple(each) for each, _ in responses]
        content = (tuple(prompt), tuple(sorted(ids)))
        judged = (content, tuple(ids), grades)
        first = seen.setdefault(judged, row)
        if first != row:
            found["duplicate"].append((row, first))
        elif (first := seen.setdefault(content, row)) != row:
            found["contradiction"].append((row, first))
    return found


def test_repeats_are_those_of_a_count_row_by_row(tmp_path: Path):
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(200):
        chosen, rejected = rng.choice([" Yes", " No", " odd"], 2, replace=False)
        rows.append(
            {"prompt": f"Is {rng.integers(8)} odd?", "chosen": str(chosen), "rejected": str(rejected)}
        )
    found = cached(write(tmp_path / "rows.jsonl", rows), tmp_path)
    expected = naive(list(found.examples))
    for kind, pairs in expected.items():
        assert found.kept[kind].rows == [row for row, _ in pairs]
    assert found.kept["duplicate"].example == f"as row {expected['duplicate'][0][1]}"
    assert found.kept["contradiction"].example.startswith(f"row {expected['contradiction'][0][1]} has them")
    assert dataclasses.astuple(found.kept["duplicate"])[2] == (0, expected["duplicate"][-1][0])
