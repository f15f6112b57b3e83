"""A template that copies contents is run once for each sequence of roles, and gives what it gives of each by itself."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.example_pairs import text_pair
from helpers.small_tokenizers import (
    CHATML,
    EMPTY_THOUGHT,
    FORGETFUL,
    GEMMA,
    LLAMA2,
    PLAIN,
    byte_level,
    smollm2,
)
from minordpo.data.read.fields import Message
from minordpo.data.template import TemplateWriter, copies_contents

SYSTEM_APART = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}"
    "{% if system is defined %}{{ '<<' + system + '>>' }}{% endif %}"
    "{% for m in rest %}{{ (m['content'] if m['role'] == 'user' else '[' ~ m['content'] ~ ']') + '\n' }}"
    "{% if loop.last and m.content is string %}!{% endif %}{% endfor %}"
    "{% if messages[-1].role != 'assistant' %}{{ messages | length }}{% endif %}"
)
COPY = {
    "ChatML": CHATML,
    "thought": EMPTY_THOUGHT,
    "Llama 2": LLAMA2,
    "plain": PLAIN,
    "system apart": SYSTEM_APART,
}
LOOK = {
    "trim": GEMMA,
    "split": FORGETFUL,
    "condition": "{% for m in messages %}{% if m.content %}{{ m.content }}{% endif %}{% endfor %}",
    "comparison": "{% for m in messages %}{{ m.content }}{{ 'x' if m.content == 'a' else 'y' }}{% endfor %}",
    "search": "{% for m in messages %}{% if 'a' in m.content %}x{% endif %}{{ m.content }}{% endfor %}",
    "in a text": "{% for m in messages %}{% if m.content in 'abc' %}x{% endif %}{% endfor %}",
    "length": "{% for m in messages %}{{ m.content | length }}{% endfor %}",
    "index": "{% for m in messages %}{{ m.content[0] }}{% endfor %}",
    "slice": "{% for m in messages %}{{ m.content[:3] }}{% endfor %}",
    "whole message": "{% for m in messages %}{{ m | tojson }}{% endfor %}",
    "all messages": "{{ messages | tojson }}",
    "a dict's method": "{% for m in messages %}{% for k, v in m.items() %}{{ v | upper }}{% endfor %}{% endfor %}",
    "get": "{% for m in messages %}{{ m.get('content') | upper }}{% endfor %}",
    "a name": "{% for m in messages %}{% set c = m.content %}{{ c | upper }}{% endfor %}",
    "a name of a name": "{% for m in messages %}{% set c = m %}{% set d = c %}{{ d.content | upper }}{% endfor %}",
    "a name set below": "{% for m in messages %}{{ c | upper }}{% set c = m.content %}{% endfor %}",
    "a namespace": "{% set ns = namespace(c='') %}{% for m in messages %}{% set ns.c = m.content %}{% endfor %}"
    "{{ ns.c | upper }}",
    "a block": "{% for m in messages %}{% set c %}{{ m.content }}{% endset %}{{ c | upper }}{% endfor %}",
    "a filter block": "{% for m in messages %}{% filter upper %}{{ m.content }}{% endfilter %}{% endfor %}",
    "a macro": "{% macro up(x) %}{{ x | upper }}{% endmacro %}{% for m in messages %}{{ up(m.content) }}{% endfor %}",
    "a macro's end": "{% macro last() %}{{ messages[0].content }}{% endmacro %}{{ last() | upper }}",
    "the message before": "{% for m in messages %}{{ loop.previtem.content | upper if loop.previtem else '' }}"
    "{% endfor %}",
    "changed": "{% for m in messages %}{{ loop.changed(m.content) }}{% endfor %}",
    "map": "{{ messages | map(attribute='content') | join(',') | upper }}",
    "a list": "{% for m in messages %}{{ ([m.content] + ['a']) | last }}{{ [m.content] | first | upper }}{% endfor %}",
    "product": "{% for m in messages %}{{ m.content * 2 }}{% endfor %}",
    "a key in a variable": "{% for m in messages %}{% set k = 'content' %}{{ m[k] | upper }}{% endfor %}",
    "the time": "{% for m in messages %}{{ m.content }}{% endfor %}{{ strftime_now('%Y') }}",
}
CONTENTS = ["", " ", "a", "Abc \n", "{{ x }}", "\x02message 0\x02", "</think>b", "é" * 3, "0"]


def conversations() -> list[list[Message]]:
    rng = np.random.default_rng(0)
    made = []
    for _ in range(60):
        roles = ["system"] * int(rng.integers(2)) + ["user", "assistant"] * int(rng.integers(1, 3))
        made.append([{"role": role, "content": str(rng.choice(CONTENTS))} for role in roles])
    return made


@pytest.mark.parametrize("name", [*COPY, *LOOK, "SmolLM2"])
def test_what_is_written_is_what_the_template_gives(name: str):
    tokenizer = smollm2() if name == "SmolLM2" else byte_level((COPY | LOOK).get(name))
    template = TemplateWriter(tokenizer)
    example = text_pair([], [], [], row=1)

    def outcome(write: object, *args: object, **options: object) -> object:
        try:
            return write(*args, **options)  # type: ignore[operator]
        except Exception as error:
            return type(error).__name__, str(error)

    for messages in conversations():
        for asks in (False, True):
            found = outcome(template.write, example, messages, asks=asks)
            plain = outcome(
                tokenizer.apply_chat_template, messages, tokenize=False, add_generation_prompt=asks
            )
            assert found == plain


@pytest.mark.parametrize("name", COPY)
def test_a_template_that_only_writes_contents_out_is_known(name: str):
    assert copies_contents(COPY[name])


@pytest.mark.parametrize("name", LOOK)
def test_a_template_that_looks_at_contents_is_known(name: str):
    assert not copies_contents(LOOK[name])


def test_tools_variables_and_other_fields_are_given_to_the_template_itself():
    tokenizer = byte_level()
    template = TemplateWriter(tokenizer)
    call = {
        "role": "assistant",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
    }
    asked = [{"role": "user", "content": "Hi"}]
    tools = [{"type": "function", "function": {"name": "g"}}]
    shouted = text_pair(asked, [call], [call], row=1, tools=tools, template_kwargs={"shout": True})
    text = template.write(shouted, [*asked, call], asks=True)
    assert text == (
        "<|im_start|>system\nTools: g<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "<call>f</call><|im_end|>\n<|im_start|>assistant\nLOUD: "
    )
