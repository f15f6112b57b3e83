"""Each layout in use gives the same kind of pair, and rows that fit none are refused by row and remedy."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.places import ROOT, SHARED
from minordpo.data.read.examples import Example, examples_from_rows, load_examples
from minordpo.data.read.recognise import LAYOUTS, describe_layouts
from minordpo.errors import InputError

SHAREGPT_FILE = SHARED / "data" / "chat" / "dpo_en_demo.json"


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def load(*rows):
    return examples_from_rows(list(rows), source="memory")


def only(*rows) -> Example:
    loaded = load(*rows)
    assert len(loaded.examples) == 1
    return loaded.examples[0]


TEXT = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}
CHAT = {"prompt": [user("Sky?")], "chosen": [assistant("blue")], "rejected": [assistant("green")]}
SHAREGPT = {
    "conversations": [{"from": "human", "value": "Sky?"}],
    "chosen": {"from": "gpt", "value": "blue"},
    "rejected": {"from": "gpt", "value": "green"},
}
ALPACA = {"instruction": "Translate", "chosen": "chat", "rejected": "chien"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}


def test_text_columns_are_kept_to_the_character():
    loaded = load({"prompt": " 2+2=\n", "chosen": "", "rejected": "", "score": 3})
    pair = loaded.examples[0]
    assert (pair.prompt, pair.responses[0], pair.responses[-1], pair.row) == (" 2+2=\n", "", "", 1)
    assert (loaded.layout, loaded.notes, pair.tools, pair.template_kwargs) == ("TRL text", [], None, {})


def test_chat_messages_keep_their_tool_calls_and_lose_their_null_keys():
    calling = {"role": "assistant", "content": None, "tool_calls": [CALL], "name": None}
    loaded = load({**CHAT, "chosen": [calling, {"role": "tool", "content": "sunny", "name": "weather"}]})
    assert loaded.layout == "TRL chat"
    assert loaded.examples[0].prompt == [user("Sky?")]
    assert loaded.examples[0].responses[0] == [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny", "name": "weather"},
    ]


def test_numpy_arrays_of_messages_are_lists_afterwards():
    row = {field: np.array(messages, dtype=object) for field, messages in CHAT.items()}
    pair = only(row)
    assert [pair.prompt, pair.responses[0], pair.responses[-1]] == list(CHAT.values())
    assert isinstance(pair.responses[0], list)


def test_text_parts_of_a_message_are_joined():
    parts = [{"type": "text", "text": "bl"}, {"type": "text", "text": "ue", "image_url": None}]
    assert only({**CHAT, "chosen": [assistant(parts)]}).responses[0] == [assistant("blue")]


def test_a_prompt_that_the_responses_repeat_is_taken_off_them():
    row = {**CHAT, "chosen": CHAT["prompt"] + CHAT["chosen"], "rejected": CHAT["prompt"] + CHAT["rejected"]}
    loaded = load(row, CHAT)
    assert [(p.prompt, p.responses[0], p.responses[-1]) for p in loaded.examples] == [
        tuple(CHAT.values())
    ] * 2
    assert loaded.notes == [
        "1 of 2 rows: the responses repeat the prompt's messages; the repetition was taken off"
    ]


@pytest.mark.parametrize("wrap", [lambda value: value, json.dumps])
def test_tools_and_template_kwargs_are_read_as_values_and_as_json_text(wrap):
    tools, kwargs = [{"type": "function", "function": {"name": "weather"}}], {"enable_thinking": False}
    pair = only({**CHAT, "tools": wrap(tools), "chat_template_kwargs": wrap(kwargs)})
    assert (pair.tools, pair.template_kwargs) == (tools, kwargs)


@pytest.mark.parametrize("nothing", [None, "", [], "[]"])
def test_empty_tools_are_no_tools(nothing):
    assert only({**CHAT, "tools": nothing}).tools is None


def test_the_common_messages_are_the_implicit_prompt():
    shared = [{"role": "system", "content": "Short."}, user("Hi"), assistant("Hello"), user("Sky?")]
    loaded = load({"chosen": [*shared, assistant("blue")], "rejected": [*shared, assistant("green")]})
    pair = loaded.examples[0]
    assert (pair.prompt, pair.responses[0], pair.responses[-1]) == (
        shared,
        [assistant("blue")],
        [assistant("green")],
    )
    assert (loaded.layout, loaded.notes) == ("TRL implicit chat", [])


def test_equal_conversations_keep_their_last_assistant_message_as_response():
    whole = [user("Hi"), assistant("Hello"), user("Sky?"), assistant("blue")]
    pair = only({"chosen": whole, "rejected": whole})
    assert (pair.prompt, pair.responses[0], pair.responses[-1]) == (whole[:3], whole[3:], whole[3:])


def test_a_conversation_that_continues_the_other_leaves_both_a_response():
    longer = [user("Hi"), assistant("Hello"), user("Sky?"), assistant("blue")]
    pair = only({"chosen": longer, "rejected": longer[:2]})
    assert (pair.prompt, pair.responses[0], pair.responses[-1]) == (
        longer[:1],
        longer[1:],
        [assistant("Hello")],
    )


def test_conversations_that_part_at_a_user_turn_begin_their_responses_at_the_shared_assistant_turn():
    shared = [user("Hi"), assistant("Hello")]
    chosen, rejected = [user("a?"), assistant("a")], [user("b?"), assistant("b")]
    loaded = load({"chosen": shared + chosen, "rejected": shared + rejected})
    pair = loaded.examples[0]
    assert pair.prompt == shared[:1]
    assert (pair.responses[0], pair.responses[-1]) == (shared[1:] + chosen, shared[1:] + rejected)
    assert "1 of 1 rows: the conversations part at a turn that is not the assistant's" in loaded.notes[0]


@pytest.mark.parametrize(
    ("chosen", "rejected", "count"),
    [
        ([user("a"), assistant("x")], [user("b"), assistant("y")], 0),
        ([assistant("x")], [assistant("y")], 0),
        ([user("a"), user("b")], [user("a"), user("c")], 1),
        ([], [], 0),
    ],
)
def test_conversations_without_a_common_prompt_are_refused(chosen, rejected, count):
    with pytest.raises(
        InputError, match=f"row 1 of memory: chosen and rejected share {count} first messages"
    ):
        load({"chosen": chosen, "rejected": rejected})


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue", "The sky is green", "The sky is"),  # the space goes to the responses, as in TRL
        ("The sky is blue", "The sky is black", "The sky is"),  # TRL would cut inside the word
        ("Sky?\nblue", "Sky?\nblack", "Sky?\n"),
        ("Sky?Blue", "Sky?Green", "Sky?"),
        ("1+1= 2", "1+1= 2", "1+1="),
        ("The sky is", "The sky is blue", "The sky"),
        (
            "\n\nHuman: Hi\n\nAssistant: I am",
            "\n\nHuman: Hi\n\nAssistant: I do",
            "\n\nHuman: Hi\n\nAssistant:",
        ),
    ],
)
def test_the_common_beginning_of_texts_is_the_implicit_prompt(chosen, rejected, prompt):
    loaded = load({"chosen": chosen, "rejected": rejected})
    pair = loaded.examples[0]
    assert pair.prompt == prompt
    assert (prompt + pair.responses[0], prompt + pair.responses[-1]) == (chosen, rejected)
    assert loaded.layout == "TRL implicit text"
    assert loaded.notes[0].startswith("1 of 1 rows: the prompt is what both texts begin with")


@given(st.text("ab \n.", max_size=12), st.text("ab \n.", max_size=6), st.text("ab \n.", max_size=6))
def test_an_implicit_text_prompt_and_its_responses_make_up_the_texts_again(shared, chosen, rejected):
    row = {"chosen": "Q: " + shared + chosen, "rejected": "Q: " + shared + rejected}
    pair = only(row)
    assert (pair.prompt + pair.responses[0], pair.prompt + pair.responses[-1]) == (
        row["chosen"],
        row["rejected"],
    )
    assert pair.responses[0]
    assert pair.responses[-1]


def test_an_empty_implicit_text_is_kept_for_the_doctor():
    pair = only({"chosen": "Sky? blue", "rejected": ""})
    assert (pair.prompt, pair.responses[0], pair.responses[-1]) == ("", "Sky? blue", "")


def test_texts_without_a_common_word_are_refused():
    with pytest.raises(
        InputError, match=r"row 1 of memory: chosen \('blue'\) and rejected \('black'\) begin with"
    ):
        load({"chosen": "blue", "rejected": "black"})


@pytest.mark.peer
@pytest.mark.parametrize(
    "row",
    [
        {"chosen": "The sky is blue", "rejected": "The sky is green"},
        {"chosen": "Sky?Blue", "rejected": "Sky?Green"},
        {"chosen": "Sky?\nblue", "rejected": "Sky?\ngreen"},
        {"chosen": [user("Hi"), assistant("a")], "rejected": [user("Hi"), assistant("b")]},
        {"chosen": [user("Hi"), assistant("a")], "rejected": [user("Hi"), assistant("a")]},
        {
            "chosen": [user("Hi"), assistant("a"), user("Sky?"), assistant("blue")],
            "rejected": [user("Hi"), assistant("a"), user("Sky?"), assistant("green")],
        },
    ],
)
def test_implicit_prompts_end_where_trl_ends_them_outside_words(row):
    extract_prompt = pytest.importorskip("trl.data_utils").extract_prompt
    pair = only(row)
    assert {
        "prompt": pair.prompt,
        "chosen": pair.responses[0],
        "rejected": pair.responses[-1],
    } == extract_prompt(row)


def test_a_text_prompt_that_the_conversations_repeat_is_redundant():
    conversations = {
        "chosen": [user("Sky?"), assistant("blue")],
        "rejected": [user("Sky?"), assistant("green")],
    }
    loaded = load({"prompt": "Sky?", **conversations}, {"prompt": "Other?", **conversations})
    assert (loaded.layout, len(loaded.notes)) == ("UltraFeedback chat", 1)
    assert [(p.prompt, p.responses[0], p.responses[-1]) for p in loaded.examples] == [
        tuple(CHAT.values())
    ] * 2
    assert loaded.notes[0].startswith("1 of 2 rows: the prompt column is none of the row's messages")


def test_other_columns_beside_whole_conversations_change_nothing():
    conversations = {
        "chosen": [user("Sky?"), assistant("blue")],
        "rejected": [user("Sky?"), assistant("green")],
    }
    assert load({"question": "Sky?", "messages": [], **conversations}).layout == "TRL implicit chat"


def test_a_text_prompt_before_assistant_messages_is_the_user_turn():
    pair = only({**CHAT, "prompt": "Sky?"})
    assert (pair.prompt, pair.responses[0], pair.responses[-1]) == tuple(CHAT.values())


def test_sharegpt_turns_become_messages():
    turns = [
        {"from": "system", "value": "Short."},
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Bern"}}'},
        {"from": "observation", "value": "sunny"},
    ]
    loaded = load({**SHAREGPT, "conversations": turns, "system": "Short.", "tools": '[{"name": "weather"}]'})
    pair = loaded.examples[0]
    assert (loaded.layout, loaded.notes) == ("LLaMA-Factory ShareGPT", [])
    assert pair.prompt == [
        {"role": "system", "content": "Short."},
        user("Weather?"),
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "content": "sunny"},
    ]
    assert (pair.responses[0], pair.responses[-1]) == ([assistant("blue")], [assistant("green")])
    assert pair.tools == [{"type": "function", "function": {"name": "weather"}}]


def test_a_sharegpt_response_may_call_several_functions_with_arguments_as_text():
    calls = json.dumps([{"name": "weather", "arguments": '{"city": "Bern"}'}] * 2)
    pair = only({**SHAREGPT, "chosen": {"from": "function_call", "value": calls}})
    assert pair.responses[0] == [{"role": "assistant", "tool_calls": [CALL, CALL]}]


def test_a_sharegpt_system_column_stands_in_for_a_system_turn_and_yields_to_one():
    turn = [{"from": "system", "value": "turn"}, *SHAREGPT["conversations"]]
    loaded = load({**SHAREGPT, "system": "column"}, {**SHAREGPT, "conversations": turn, "system": "column"})
    assert [pair.prompt[0] for pair in loaded.examples] == [
        {"role": "system", "content": "column"},
        {"role": "system", "content": "turn"},
    ]
    assert loaded.notes[0].startswith("1 of 2 rows: there is a system turn and a different system column")


@pytest.mark.shared
def test_the_llama_factory_demo_file_loads_whole():
    if not SHAREGPT_FILE.exists():
        pytest.skip("the shared data folder is not beside the checkout")
    loaded = load_examples(str(SHAREGPT_FILE))
    raw = json.loads(SHAREGPT_FILE.read_text(encoding="utf-8"))
    assert (loaded.layout, len(loaded.examples), loaded.notes) == ("LLaMA-Factory ShareGPT", 240, [])
    assert sum(pair.prompt[0]["role"] == "system" for pair in loaded.examples) == 64
    assert max(len(pair.prompt) for pair in loaded.examples) == 13
    assert all(pair.prompt[-1]["role"] == "user" for pair in loaded.examples)
    assert [pair.responses[0] for pair in loaded.examples] == [
        [assistant(row["chosen"]["value"])] for row in raw
    ]
    assert [pair.row for pair in loaded.examples] == list(range(1, 241))


def test_alpaca_columns_become_messages():
    row = {**ALPACA, "input": "cat", "system": "Short.", "history": [["Hi", "Hello"]]}
    loaded = load(row)
    assert loaded.layout == "LLaMA-Factory Alpaca"
    assert loaded.examples[0].prompt == [
        {"role": "system", "content": "Short."},
        user("Hi"),
        assistant("Hello"),
        user("Translate\ncat"),
    ]
    assert (loaded.examples[0].responses[0], loaded.examples[0].responses[-1]) == (
        [assistant("chat")],
        [assistant("chien")],
    )


def test_the_older_alpaca_form_holds_both_responses_in_output():
    loaded = load({"instruction": "Translate", "input": "", "output": ["chat", "chien"]})
    assert loaded.layout == "LLaMA-Factory Alpaca, older"
    pair = loaded.examples[0]
    assert (pair.prompt, pair.responses[0], pair.responses[-1]) == (
        [user("Translate")],
        [assistant("chat")],
        [assistant("chien")],
    )


def test_the_description_names_every_layout_on_one_line():
    description = describe_layouts()
    for name in ("TRL text", "TRL chat", "TRL implicit", "UltraFeedback", "ShareGPT", "Alpaca"):
        assert name in description
    assert "\n" not in description


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_table_of_the_docs_has_every_layout(layout):
    table = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    form = "chat" if layout.is_chat else "text"
    assert re.search(
        rf"\n\| {re.escape(layout.name)} \| [a-z ]+ \| {form} \| {re.escape(layout.shape)} \|\n", table
    )
