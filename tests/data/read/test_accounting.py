"""Every column, message key and content part is read, refused, or counted as not read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from minordpo.data.read.accounting import RowProblem, Tally, is_empty, is_media
from minordpo.data.read.examples import ExampleReader, examples_from_rows
from minordpo.data.read.layout import OF_CHATS, Layout
from minordpo.data.read.reading import ReadOptions
from minordpo.data.read.recognise import LAYOUTS
from minordpo.data.read.rows import rows_of
from minordpo.errors import InputError


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


TEXT = {"prompt": "Sky?", "chosen": "blue", "rejected": "green"}
CHAT = {"prompt": [user("Sky?")], "chosen": [assistant("blue")], "rejected": [assistant("green")]}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "Sky?"}],
    "chosen": {"from": "gpt", "value": "blue"},
    "rejected": {"from": "gpt", "value": "green"},
}


def load(*rows, **how):
    return examples_from_rows(list(rows), source="memory", **how)


def unread(*rows, **how) -> dict[str, int]:
    return {each.what: count for each, count in load(*rows, **how).unread.items()}


def test_columns_that_nothing_reads_are_counted_where_they_are_not_empty():
    rows = [
        {**TEXT, "score": 0, "note": ""},
        {**TEXT, "score": None, "note": "x"},
        {**TEXT, "score": 2.5},
        TEXT,
    ]
    assert unread(*rows) == {"column score": 2, "column note": 1}


@pytest.mark.parametrize("nothing", [None, "", " \n", [], {}, [None, ""], {"a": None}, float("nan")])
def test_what_says_nothing_is_empty(nothing):
    assert is_empty(nothing)
    assert unread({**TEXT, "extra": nothing}) == {}


@pytest.mark.parametrize("something", [0, False, "a", [0], {"a": False}])
def test_zero_and_false_are_not_empty(something):
    assert unread({**TEXT, "extra": something}) == {"column extra": 1}


class Watched(dict):
    """A row that notes which of its columns are asked for."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_reads_the_columns_that_it_names_and_no_others(layout: Layout):
    row = Watched({**layout.example, **dict.fromkeys(layout.optional), **dict.fromkeys(OF_CHATS)})
    layout.parse(row, "it", Tally())
    read = row.asked & row.keys()
    assert read <= {*layout.columns, *layout.optional}
    assert {*layout.example, *layout.optional} <= read
    assert layout.unread({**layout.example, "extra": 1}, also=()) == ["extra"]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"prompt": "Sky?", "query": "Sea?", "responses": ["a", "b"], "ranks": [1, 2]}, "query"),
        (
            {"messages": [user("Sky?"), assistant("blue")], "conversations": [user("x")], "label": True},
            "conversations",
        ),
        ({"messages": [user("Sky?"), assistant("blue")], "kto_tag": True, "label": False}, "label"),
    ],
)
def test_of_two_names_of_a_column_the_one_that_is_not_read_is_counted(row, column):
    assert unread(row) == {f"column {column}": 1}


def test_a_system_column_is_the_system_turn_of_every_chat():
    system = {"role": "system", "content": "Short."}
    for row in (CHAT, SHAREGPT, {**CHAT, "prompt": "Sky?"}):
        loaded = load({**row, "system": "Short."})
        assert loaded.examples[0].prompt == [system, user("Sky?")]
        assert loaded.unread == {}


def test_a_system_turn_is_kept_and_another_system_column_told():
    system = {"role": "system", "content": "turn"}
    loaded = load({**CHAT, "prompt": [system, user("Sky?")], "system": "column"})
    assert loaded.examples[0].prompt[0] == system
    assert loaded.notes == [
        "1 of 1 rows: there is a system turn and a different system column; the turn was used"
    ]


def test_a_system_column_beside_text_is_told_with_what_would_use_it():
    (told,) = load({**TEXT, "system": "Short."}).unread
    assert told.what == "column system"
    assert "data.text_as=chat" in told.advice
    assert "data.text_system=before" in told.advice


def test_a_system_column_stands_before_a_text_prompt_where_that_is_asked():
    loaded = load(
        {**TEXT, "system": "Short."}, {**TEXT, "system": ""}, reading=ReadOptions(text_system="before")
    )
    assert [each.prompt for each in loaded.examples] == ["Short.\n\nSky?", "Sky?"]
    assert loaded.unread == {}


def test_a_column_that_may_be_the_system_turn_is_told_with_how_to_say_so():
    (told,) = load({**CHAT, "system_prompt": "Short."}).unread
    assert told.advice == "data.columns.system=system_prompt makes it the system turn"


def test_tools_beside_text_are_told():
    assert unread({**TEXT, "tools": [{"name": "x"}], "chat_template_kwargs": {"a": 1}}) == {
        "column chat_template_kwargs": 1,
        "column tools": 1,
    }


def test_keys_of_turns_are_counted_once_a_row():
    turns = [{"from": "human", "value": "Sky?", "weight": 0}, {"from": "gpt", "value": "blue", "weight": 1}]
    row = {**SHAREGPT, "conversations": [*turns, *SHAREGPT["conversations"]]}
    assert unread(row, SHAREGPT) == {"weight of turns": 1}


def test_keys_of_text_parts_are_counted():
    parts = [{"type": "text", "text": "blue", "cache_control": {"type": "x"}, "citations": None}]
    loaded = load({**CHAT, "chosen": [assistant(parts)]})
    assert {each.what: n for each, n in loaded.unread.items()} == {"cache_control of text parts": 1}


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (
            {"input": {"messages": [user("Sky?")], "parallel_tool_calls": True}, "metadata": {"a": 1}}
            | {"preferred_output": [assistant("blue")], "non_preferred_output": [assistant("green")]},
            {"column metadata", "parallel_tool_calls of input"},
        ),
        (
            {
                "instruction": "Sky?",
                "completions": [{"response": "a", "overall_score": 1, "critique": "x"}] * 1,
            }
            | {
                "completions": [
                    {"response": r, "overall_score": i, "critique": "x"} for i, r in enumerate("ab")
                ]
            },
            {"critique of completions"},
        ),
        (
            {
                "prompt": "Sky?",
                "answers": [{"answer": a, "rank": i, "model": "m"} for i, a in enumerate("ab", 1)],
            },
            {"model of answers"},
        ),
    ],
)
def test_keys_of_objects_in_columns_are_counted(row, kept):
    assert unread(row).keys() == kept


# ---- what is refused ----
@pytest.mark.parametrize(
    "name",
    [
        "images",
        "image",
        "videos",
        "audios",
        "rejected_images",
        "image_path",
        "audio_url",
        "chosen_video",
        "photo",
    ],
)
@pytest.mark.parametrize("row", [TEXT, CHAT], ids=["text", "chat"])
def test_a_row_with_media_is_refused_and_one_without_is_read(name, row):
    assert is_media(name)
    assert load({**row, name: []}, {**row, name: None}).unread == {}
    with pytest.raises(
        InputError, match=f"row 2 of memory: {name} is a list of 1, but only text is"
    ) as refused:
        load(row, {**row, name: ["a.png"]})
    assert "data.invalid=drop" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["imagination", "audience", "videographer_notes", "image_free", "description"]
)
def test_other_columns_are_no_media(name):
    assert unread({**TEXT, name: "x"}) == {f"column {name}": 1}


@pytest.mark.parametrize("place", ["<image>", "<video>", "<audio>"])
@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda text: {**TEXT, "prompt": text}, "the prompt"),
        (lambda text: {**TEXT, "rejected": text}, "answer 2"),
        (lambda text: {**CHAT, "prompt": [user("Hi"), assistant("Hello"), user(text)]}, "the prompt"),
        (lambda text: {**CHAT, "chosen": [assistant([{"type": "text", "text": text}])]}, "answer 1"),
    ],
)
def test_a_tag_that_stands_for_a_file_is_refused(place, make, where):
    with pytest.raises(InputError, match=f"row 1 of memory: {where} has {place}, which stands for a file"):
        load(make(f"{place}What is this?"))


@pytest.mark.parametrize(
    "place", ["<|image_1|>", "<start_of_image>", "<|vision_start|>", "<speech>", "<image_pad>"]
)
def test_other_spellings_of_such_tags_are_refused(place):
    with pytest.raises(InputError, match=r"the prompt has <.*>, which stands for a file"):
        load({**TEXT, "prompt": f"What is on {place}?"})


@pytest.mark.parametrize(
    "text", ["Write <video></video>.", "What does `<audio>` do?", "'<image>'", "<images>", "a < image >"]
)
def test_a_tag_that_the_text_is_about_is_read(text):
    assert load({**TEXT, "prompt": text}).examples[0].prompt == text


@pytest.mark.parametrize(
    ("part", "kind"),
    [("image_url", "media"), ("input_audio", "media"), ("tool_use", "content"), ("thinking", "content")],
)
def test_a_content_part_that_is_no_text_is_a_problem_of_its_row(part, kind):
    row = {**CHAT, "chosen": [assistant([{"type": part}])]}
    with pytest.raises(
        InputError, match=f"row 1 of memory: the content of message 1 of chosen is .* type {part}"
    ):
        load(row)
    loaded = load(CHAT, row, invalid="drop")
    assert [(number, problem.kind) for number, problem in loaded.problems] == [(2, kind)]


def test_a_prompt_in_a_column_of_another_name_is_not_left_out():
    with pytest.raises(
        InputError, match=r"row 1 of memory has no prompt column, but 'ask' may be the prompt"
    ) as refused:
        load({"ask": "Sky?", "chosen": "It is blue", "rejected": "It is green"})
    assert "data.columns.prompt=ask" in str(refused.value)
    assert "data.columns.prompt=null" in str(refused.value)


@pytest.mark.parametrize("value", ["Sky?", [user("Sky?")], {"text": "Sky?"}, [["Hi", "Hello"]]])
def test_it_is_refused_whatever_it_holds_and_wherever_it_first_does(value):
    rows = [{"ask": None, "chosen": "It is blue", "rejected": "It is green"}]
    rows.append({**rows[0], "ask": value})
    with pytest.raises(InputError, match=r"row 2 of memory has no prompt column, but 'ask' may be"):
        load(*rows)


@pytest.mark.parametrize(
    "others",
    [
        {"source": "forum", "id": "a 7", "chosen_model": "big one", "score": 3, "ok": True, "pair_id": "x"},
        {"asked": "Sky?"},  # both answers begin with it
        {"ask": "  "},
    ],
)
def test_columns_that_are_no_prompt_stand_beside_an_implicit_one(others):
    loaded = load({"chosen": "Sky? It is blue", "rejected": "Sky? It is green", **others})
    assert (loaded.layout, loaded.examples[0].prompt) == ("TRL implicit text", "Sky? It is")


def test_a_reader_is_told_what_is_unread_of_lines_too():
    rows = rows_of([TEXT], source="memory")
    reader = ExampleReader(rows, (1, TEXT), ReadOptions())
    tally = Tally()
    reader.read(1, {**TEXT, "extra": json.dumps({})}, tally)
    assert sum(tally.values()) == 1


def test_a_problem_names_its_row_and_a_remedy():
    problem = RowProblem("media", "images is a list of 1", remedy="Drop it")
    assert str(problem.at("row 3 of pairs.jsonl")) == "row 3 of pairs.jsonl: images is a list of 1. Drop it."


@pytest.mark.parametrize("value", ["Explain to a child why the sky is blue", "Sky?"])
def test_a_task_may_be_what_is_asked(value):
    pair = {"chosen": "It is blue", "rejected": "It is green"}
    with pytest.raises(InputError, match="'task' may be the prompt"):
        load({**pair, "task": value})
    assert load({**pair, "task": "open questions"}).layout == "TRL implicit text"


def test_options_for_text_that_change_nothing_of_chats_say_so():
    notes = load(CHAT, reading=ReadOptions(text_as="chat", text_system="before")).notes
    assert [note.partition(": ")[2] or note for note in notes] == [
        "the rows are chats already, so data.text_as=chat changed nothing",
        "data.text_system changed nothing",
    ]
