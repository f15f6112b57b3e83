"""Labelled and ranked responses in every layout and file."""

import csv
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minordpo.data.read.examples import Example, examples_from_rows, load_examples
from minordpo.data.read.reading import ReadOptions
from minordpo.data.read.recognise import describe_layouts
from minordpo.errors import InputError


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def turn(role, value):
    return {"from": role, "value": value}


def load(*rows):
    return examples_from_rows(list(rows), source="memory")


def only(*rows) -> Example:
    loaded = load(*rows)
    assert len(loaded.examples) == 1
    return loaded.examples[0]


def values(loaded):
    return [(e.prompt, e.responses, e.grades) for e in loaded.examples]


LABELLED = {"prompt": "2+2=", "completion": "4", "label": True}
LABELLED_CHAT = {"prompt": [user("Sky?")], "completion": [assistant("green")], "label": False}
LABELLED_TURNS = {"messages": [user("Sky?"), assistant("blue")], "label": True}
LABELLED_ALPACA = {"instruction": "Translate", "input": "cat", "output": "chat", "kto_tag": True}
RANKED = {"prompt": "2+2=", "responses": ["5", "4", "four"], "scores": [-3, 0.5, 0.25]}
RANKED_CHAT = {
    "prompt": [user("Sky?")],
    "responses": [[assistant("green")], [assistant("blue")]],
    "ranks": [2, 1],
}
PAIR = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}


def test_a_labelled_text_is_one_response_of_grade_one_or_zero():
    loaded = load(LABELLED, {**LABELLED, "completion": " 5\n", "label": False, "score": 3})
    assert values(loaded) == [("2+2=", ("4",), (1.0,)), ("2+2=", (" 5\n",), (0.0,))]
    assert (loaded.kind, loaded.layout, loaded.notes) == ("labelled", "TRL unpaired text", [])
    assert [example.row for example in loaded.examples] == [1, 2]


def test_a_labelled_chat_keeps_its_tools_and_template_variables():
    tools, kwargs = [{"type": "function", "function": {"name": "weather"}}], {"enable_thinking": False}
    loaded = load({**LABELLED_CHAT, "tools": json.dumps(tools), "chat_template_kwargs": kwargs})
    assert values(loaded) == [([user("Sky?")], ([assistant("green")],), (0.0,))]
    assert (loaded.kind, loaded.layout, loaded.notes) == ("labelled", "TRL unpaired chat", [])
    assert (loaded.examples[0].tools, loaded.examples[0].template_kwargs) == (tools, kwargs)


def test_a_prompt_that_a_completion_repeats_is_taken_off_it():
    loaded = load({**LABELLED_CHAT, "completion": LABELLED_CHAT["prompt"] + LABELLED_CHAT["completion"]})
    assert values(loaded) == values(load(LABELLED_CHAT))
    assert loaded.notes[0].startswith("1 of 1 rows: the responses repeat the prompt's messages")


def test_labels_one_and_zero_are_read_and_noted():
    loaded = load({**LABELLED, "label": 1}, {**LABELLED, "label": 0.0}, LABELLED)
    assert [example.grades for example in loaded.examples] == [(1.0,), (0.0,), (1.0,)]
    assert loaded.notes == [
        "2 of 3 rows: the label is a number; 1 was read as true (desirable) and 0 as false"
    ]


@pytest.mark.peer
@pytest.mark.parametrize("row", [PAIR, {"prompt": [user("Sky?")], "chosen": [assistant("blue")]}])
def test_what_trl_unpairs_is_read(row):
    unpair = pytest.importorskip("trl").unpair_preference_dataset
    row = {"rejected": [assistant("green")], **row}
    loaded = examples_from_rows(unpair(datasets.Dataset.from_list([row])), source="unpaired")
    assert values(loaded) == [
        (row["prompt"], (row["chosen"],), (1.0,)),
        (row["prompt"], (row["rejected"],), (0.0,)),
    ]


@pytest.mark.parametrize(
    "turns",
    [
        {"messages": [user("Hi"), assistant("Hello"), user("Sky?"), assistant("blue")]},
        {
            "conversations": [
                turn("human", "Hi"),
                turn("gpt", "Hello"),
                turn("human", "Sky?"),
                turn("gpt", "blue"),
            ]
        },
        {
            "conversations": [user("Hi"), assistant("Hello"), user("Sky?"), assistant("blue")],
            "messages": None,
        },
    ],
)
@pytest.mark.parametrize("tag", ["kto_tag", "label"])
def test_the_last_turn_of_a_llama_factory_conversation_is_the_labelled_response(turns, tag):
    loaded = load({**turns, tag: False, "system": "Short.", "tools": '[{"name": "weather"}]'})
    prompt = [{"role": "system", "content": "Short."}, user("Hi"), assistant("Hello"), user("Sky?")]
    assert values(loaded) == [(prompt, ([assistant("blue")],), (0.0,))]
    assert (loaded.kind, loaded.layout) == ("labelled", "LLaMA-Factory ShareGPT for KTO")
    assert loaded.examples[0].tools == [{"type": "function", "function": {"name": "weather"}}]


def test_alpaca_columns_with_a_tag_become_a_labelled_chat():
    loaded = load({**LABELLED_ALPACA, "system": "Short.", "history": [["Hi", "Hello"]]})
    prompt = [
        {"role": "system", "content": "Short."},
        user("Hi"),
        assistant("Hello"),
        user("Translate\ncat"),
    ]
    assert values(loaded) == [(prompt, ([assistant("chat")],), (1.0,))]
    assert (loaded.kind, loaded.layout) == ("labelled", "LLaMA-Factory Alpaca for KTO")


def test_ranked_texts_are_sorted_best_first_by_their_scores():
    loaded = load(RANKED)
    assert values(loaded) == [("2+2=", ("4", "four", "5"), (2.0, 1.0, 0.0))]
    assert (loaded.kind, loaded.layout, loaded.notes) == ("ranked", "ranked text", [])


def test_rank_one_is_the_best_and_ranks_may_have_gaps():
    row = {"prompt": "2+2=", "responses": ["5", "4", "four"], "ranks": [7, 1, 2.0], "scores": None}
    assert values(load(row)) == [("2+2=", ("4", "four", "5"), (2.0, 1.0, 0.0))]


def test_ranked_chats_are_sorted_and_lose_a_prompt_that_all_of_them_repeat():
    whole = [RANKED_CHAT["prompt"] + response for response in RANKED_CHAT["responses"]]
    loaded = load(RANKED_CHAT, {**RANKED_CHAT, "responses": whole})
    expected = ([user("Sky?")], ([assistant("blue")], [assistant("green")]), (1.0, 0.0))
    assert values(loaded) == [expected, expected]
    assert (loaded.kind, loaded.layout, len(loaded.notes)) == ("ranked", "ranked chat", 1)


def test_rrhf_calls_the_prompt_query():
    row = {"query": "2+2=", "responses": RANKED["responses"], "scores": RANKED["scores"]}
    loaded = load(row, RANKED)
    assert values(loaded) == values(load(RANKED)) * 2
    assert loaded.layout == "ranked text"


def test_scores_may_be_larger_than_a_float():
    assert only({**RANKED, "scores": [1, 10**400, 2]}).responses == ("4", "four", "5")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=6, unique=True))
def test_the_grades_of_any_scores_count_down_to_zero_along_the_scores(scores):
    example = only({"prompt": "?", "responses": [repr(score) for score in scores], "scores": scores})
    assert [float(response) for response in example.responses] == sorted(scores, reverse=True)
    assert example.grades == tuple(float(grade) for grade in reversed(range(len(scores))))


def write(path: Path, rows) -> str:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


SOURCES = {
    "labelled text": [LABELLED, {**LABELLED, "completion": "5", "label": False}],
    "labelled chat": [LABELLED_CHAT, {**LABELLED_CHAT, "completion": [assistant("blue")], "label": True}],
    "labelled turns": [LABELLED_TURNS, {**LABELLED_TURNS, "label": False}],
    "labelled alpaca": [LABELLED_ALPACA, {**LABELLED_ALPACA, "output": "chien", "kto_tag": False}],
    "ranked text": [RANKED, {**RANKED, "responses": ["6", "4"], "scores": [0.0, 2.5]}],
    "ranked chat": [RANKED_CHAT, {**RANKED_CHAT, "ranks": [1, 2]}],
    "ranked both ways": [
        {**RANKED, "ranks": None},
        {"prompt": "?", "responses": ["a", "b"], "ranks": [2, 1], "scores": None},
    ],
}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("name", SOURCES)
def test_graded_rows_are_the_same_in_every_kind_of_file_and_in_a_dataset(tmp_path, suffix, name):
    rows = SOURCES[name]
    expected = load(*rows)
    loaded = load_examples(write(tmp_path / f"rows{suffix}", rows))
    in_memory = examples_from_rows(datasets.Dataset.from_list(rows), source="mine")
    assert values(loaded) == values(in_memory) == values(expected)
    assert {found.kind for found in (loaded, in_memory)} == {expected.kind}


@pytest.mark.parametrize("name", ["labelled text", "labelled alpaca"])
def test_labels_are_read_out_of_the_text_that_csv_has_for_them(tmp_path, name):
    rows = SOURCES[name]
    loaded = load_examples(write(tmp_path / "rows.csv", rows))  # Python writes True, pandas too
    assert values(loaded) == values(load(*rows))
    tag = "label" if "label" in rows[0] else "kto_tag"
    lower = [{**row, tag: str(row[tag]).lower()} for row in rows]
    assert values(load_examples(write(tmp_path / "rows.csv", lower))) == values(load(*rows))
    numbers = load_examples(write(tmp_path / "rows.csv", [{**row, tag: int(row[tag])} for row in rows]))
    assert values(numbers) == values(load(*rows))
    assert numbers.notes[0].startswith("2 of 2 rows: the label is a number")


def test_a_label_of_a_csv_file_that_is_no_truth_value_is_refused(tmp_path):
    source = write(tmp_path / "rows.csv", [LABELLED, {**LABELLED, "label": "good"}])
    with pytest.raises(InputError, match=r"row 2 of .*rows\.csv: label is the text 'good', but true"):
        load_examples(source)


def test_pairs_stay_pairs_beside_a_label_or_scores():
    loaded = load({**PAIR, "label": True, "scores": [1, 2], "completion": "4"})
    assert (loaded.kind, values(loaded)) == ("pairs", [("2+2=", ("4", "5"), (1.0, 0.0))])


def test_examples_are_stripped_from_pairs_alone():
    with pytest.raises(InputError, match="memory is TRL unpaired text, strip_few_shot needs TRL text"):
        examples_from_rows([LABELLED], source="memory", reading=ReadOptions(strip_few_shot=True))


def test_the_description_names_labelled_and_ranked_layouts():
    description = describe_layouts()
    for name in (
        "TRL unpaired text",
        "TRL unpaired chat",
        "for KTO",
        "ranked text",
        "ranked chat",
        "kto_tag",
    ):
        assert name in description


def test_pairs_are_of_the_kind_pairs():
    assert load(PAIR).kind == "pairs"
