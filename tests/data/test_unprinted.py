"""What a chat template leaves out is told, and refused where it is all that a response says."""

from __future__ import annotations

import pytest

from helpers.small_tokenizers import CHATML, byte_level
from minordpo.data import template as templates
from minordpo.data.checks import PreparedExamples
from minordpo.data.prepare import prepare_examples
from minordpo.data.read.examples import examples_from_rows
from minordpo.data.tokens import TokenOptions
from minordpo.errors import InputError

CALLS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m.content %}{{ m.content }}{% endif %}"
    "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TOOLED = "{% if tools %}{{ tools | tojson }}{% endif %}" + CALLS
NO_CALLS = CALLS.replace("m.tool_calls or []", "[]")
NO_SYSTEM = CALLS.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}", 1)
TRIMMED = CALLS.replace("{{ m.content }}", "{{ m.content | trim }}")
LAST_THOUGHT = CALLS.replace(
    "{% for c", "{% if loop.last and m.reasoning_content %}{{ m.reasoning_content }}{% endif %}{% for c", 1
)
THINKS = "{% if enable_thinking %}{{ '<think>' }}{% endif %}" + CALLS


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def calling(name):
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": name}}],
    }


CHAT = {"prompt": [user("Sky?")], "chosen": [assistant("blue")], "rejected": [assistant("green")]}
TOOLS = [{"type": "function", "function": {"name": "look"}}]


def prepare(*rows, template=CALLS, **how) -> PreparedExamples:
    loaded = examples_from_rows(list(rows), source="pairs")
    return prepare_examples(loaded, byte_level(template), TokenOptions(max_length=None), **how)


def unread(*rows, template=CALLS) -> dict[str, int]:
    return {each.what: count for each, count in prepare(*rows, template=template).unread.items()}


def test_nothing_is_told_of_what_is_printed():
    assert unread(CHAT, {**CHAT, "chosen": [calling("look")], "tools": TOOLS}, template=TOOLED) == {}


@pytest.mark.parametrize("key", ["reasoning_content", "name", "weight", "refusal", "thoughts"])
@pytest.mark.parametrize("template", [CALLS, CHATML], ids=["calls", "ChatML"])
def test_a_message_key_that_is_not_printed_is_counted_by_rows(key, template):
    row = {**CHAT, "chosen": [assistant("blue", **{key: 1})], "rejected": [assistant("green", **{key: 2})]}
    assert unread(CHAT, row, row | {"prompt": [user("Sea?")]}, template=template) == {f"message key {key}": 2}


def test_empty_keys_are_not_counted():
    assert unread({**CHAT, "chosen": [assistant("blue", tool_calls=[], reasoning_content="")]}) == {}


def test_a_key_that_is_printed_of_one_turn_and_not_of_another_is_told():
    earlier = [user("Hi"), assistant("Hello", reasoning_content="Be kind"), user("Sky?")]
    last = {**CHAT, "chosen": [assistant("blue", reasoning_content="look up")]}
    assert unread(last, template=LAST_THOUGHT) == {}
    assert unread({**last, "prompt": earlier}, template=LAST_THOUGHT) == {"message key reasoning_content": 1}


@pytest.mark.parametrize(("template", "told"), [(CALLS, {"column tools": 1}), (TOOLED, {})])
def test_tools_are_told_where_the_template_does_not_print_them(template, told):
    assert unread({**CHAT, "tools": TOOLS}, template=template) == told


@pytest.mark.parametrize("value", [True, False])
def test_a_variable_that_the_template_has_not_is_told(value):
    row = {**CHAT, "chat_template_kwargs": {"enable_thinking": value}}
    assert unread(row) == {"enable_thinking of chat_template_kwargs": 1}
    assert unread(row, template=THINKS) == {}


def test_a_system_turn_that_the_template_leaves_out_is_told():
    row = {**CHAT, "system": "S"}  # a letter that stands elsewhere too
    assert unread(row, template=NO_SYSTEM) == {"content of system turns": 1}
    assert unread(row) == {}


def test_contents_that_a_template_trims_are_printed():
    assert unread({**CHAT, "chosen": [assistant(" blue \n")]}, template=TRIMMED) == {}


def test_pairs_that_differ_only_in_what_is_not_printed_say_so():
    row = {**CHAT, "chosen": [assistant("Let me look.", tool_calls=calling("look")["tool_calls"])]}
    row["rejected"] = [assistant("Let me look.", tool_calls=calling("guess")["tool_calls"])]
    with pytest.raises(
        InputError, match=r"chosen and rejected differ only in tool_calls, which the chat template"
    ):
        prepare(row, template=NO_CALLS)
    assert len(prepare(row).examples) == 1


def test_a_response_that_is_only_calls_is_refused_where_they_are_not_printed():
    with pytest.raises(
        InputError, match=r"the chosen response is only tool_calls, which the chat template does not"
    ):
        prepare({**CHAT, "chosen": [calling("look")]}, template=NO_CALLS)
    assert len(prepare({**CHAT, "chosen": [calling("look")]}).examples) == 1


def test_such_rows_are_dropped_and_counted_if_asked():
    row = {**CHAT, "chosen": [assistant("", weight=1)]}
    prepared = prepare(CHAT, row, invalid="drop")
    assert {kind: each.rows for kind, each in prepared.dropped.items()} == {"unprinted": [2]}


def test_the_report_has_a_line_for_what_is_not_read():
    report = prepare({**CHAT, "score": 1, "tools": TOOLS}, {**CHAT, "prompt": [user("Sea?")]}).report
    assert "  not read, and in how many of 2 rows it is not empty: column score (1)\n" in report
    assert (
        "  not read: column tools, not empty in 1 of 2 rows; the chat template does not print it\n" in report
    )


def test_a_form_of_conversation_is_tried_once(monkeypatch):
    rendered = []
    render = templates.TemplateWriter._render
    monkeypatch.setattr(
        templates.TemplateWriter, "_render", lambda self, *a, **k: rendered.append(a) or render(self, *a, **k)
    )
    rows = [
        {**CHAT, "prompt": [user(f"Sky {i}?")], "chosen": [assistant("blue", weight=i + 1)]}
        for i in range(20)
    ]
    prepare(rows[0])
    once = len(rendered)
    rendered.clear()
    prepare(*rows)
    assert len(rendered) < 20 * once - 15


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}], ids=["none", "null", "empty"])
def test_a_call_without_content_is_read_by_templates_that_add_text_to_it(content):
    adds = CALLS.replace("{% if m.content %}{{ m.content }}{% endif %}", "{{ m.content + '' }}")
    call = {"role": "assistant", "tool_calls": calling("look")["tool_calls"], **content}
    (example,) = prepare({**CHAT, "chosen": [call]}, template=adds).examples
    text = byte_level(adds).decode(example.responses[0].ids)
    assert text.startswith('{"name": "look"}')
    with pytest.raises(
        InputError, match=r"the chosen response is only tool_calls, which the chat template does not"
    ):
        prepare({**CHAT, "chosen": [call]}, template=adds.replace("m.tool_calls or []", "[]"))


def test_turns_after_the_last_answer_are_told():
    row = {**CHAT, "chosen": [assistant("blue"), user("Thanks!")]}
    assert unread(CHAT, row) == {"turns after a response's last answer": 1}
