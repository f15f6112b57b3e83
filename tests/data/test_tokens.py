"""Which tokens the model sees for a pair, and which of them are scored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from helpers.example_pairs import text_pair
from helpers.small_tokenizers import (
    CHATML,
    EMPTY_THOUGHT,
    FORGETFUL,
    GEMMA,
    LLAMA2,
    PLAIN,
    byte_level,
    metaspace,
    smollm2,
    tokenize_example,
    words,
)
from minordpo.data.read.accounting import RowProblem
from minordpo.data.read.examples import Example
from minordpo.data.tokens import (
    TokenExample,
    TokenOptions,
    TokenResponse,
    tokenize_examples,
)
from minordpo.errors import InputError

NO_LIMIT = TokenOptions(max_length=None)


@pytest.fixture(scope="module")
def smol():
    return smollm2()


def user(content: str) -> dict:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict:
    return {"role": "assistant", "content": content}


def chat(prompt="Capital of France?", chosen="Paris.", rejected="Lyon.", **extra) -> Example:
    """A chat pair; a text stands for one message."""
    prompt = [user(prompt)] if isinstance(prompt, str) else prompt
    chosen, rejected = ([assistant(r)] if isinstance(r, str) else r for r in (chosen, rejected))
    return text_pair(prompt, chosen, rejected, row=7, **extra)


def text(prompt="Answer:", chosen=" Yes", rejected=" No") -> Example:
    return text_pair(prompt, chosen, rejected, row=7)


def decoded(tokenizer, ids) -> str:
    return tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)


def scored_text(tokenizer, response: TokenResponse) -> str:
    return decoded(tokenizer, response.ids[response.scored])


def whole_text(tokenizer, pair: TokenExample, response: TokenResponse) -> str:
    return decoded(tokenizer, np.concatenate([pair.prompt_ids, response.ids]))


def test_smollm2_scores_the_newline_after_its_end_of_turn(smol):
    pair = tokenize_example(chat(), smol, options=NO_LIMIT)
    assert decoded(smol, pair.prompt_ids).endswith(
        "<|im_start|>user\nCapital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert pair.responses[0].ids.tolist() == [*smol("Paris.")["input_ids"], 2, 198]
    assert pair.responses[0].scored.all()
    assert scored_text(smol, pair.responses[-1]) == "Lyon.<|im_end|>\n"


def test_scoring_through_the_end_of_turn_leaves_the_newline_out(smol):
    options = TokenOptions(score_end="end_of_turn")
    pair = tokenize_example(chat(), smol, options=options)
    assert scored_text(smol, pair.responses[0]) == "Paris.<|im_end|>"
    assert pair.responses[0].ids[-1] == 2


def test_an_end_of_turn_that_is_no_named_special_token_is_found():
    tokenizer = byte_level(GEMMA)
    assert tokenizer.convert_tokens_to_ids("<end_of_turn>") not in tokenizer.all_special_ids
    pair = tokenize_example(chat(), tokenizer, options=TokenOptions(score_end="end_of_turn"))
    assert scored_text(tokenizer, pair.responses[0]) == "Paris.<end_of_turn>"


def test_scoring_through_the_end_of_turn_is_refused_where_the_template_has_none():
    with pytest.raises(
        InputError, match=r"ends an assistant turn with .* no special token\. Use data\.score_end"
    ):
        tokenize_example(chat(), byte_level(PLAIN), options=TokenOptions(score_end="end_of_turn"))


def test_ids_are_int32_and_masks_are_bool(smol):
    pair = tokenize_example(chat(), smol, options=NO_LIMIT)
    assert pair.row == 7
    assert pair.prompt_ids.dtype == np.int32
    assert {response.ids.dtype for response in pair.responses} == {np.dtype(np.int32)}
    assert {response.scored.dtype for response in pair.responses} == {np.dtype(np.bool_)}


@pytest.mark.parametrize("score_end", ["template", "end_of_turn"])
def test_user_turns_inside_a_response_are_seen_and_not_scored(score_end):
    tokenizer = byte_level()
    several = [
        assistant("Paris."),
        user("Sure?"),
        {"role": "tool", "content": "map"},
        assistant("Yes."),
        user("Ok"),
    ]
    pair = tokenize_example(
        chat(chosen=several), tokenizer, options=TokenOptions(max_length=None, score_end=score_end)
    )
    newline = "\n" if score_end == "template" else ""
    assert scored_text(tokenizer, pair.responses[0]) == f"Paris.<|im_end|>{newline}Yes.<|im_end|>{newline}"
    assert decoded(tokenizer, pair.responses[0].ids) == (
        "Paris.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>tool\nmap<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>" + newline
    )


turns = st.lists(st.tuples(st.text(max_size=8), st.text(min_size=1, max_size=8)), max_size=2)


@given(st.text(min_size=1, max_size=12).filter(str.strip), turns)
@settings(deadline=None, max_examples=60)
def test_any_conversation_is_scored_on_its_assistant_turns(answer, more):
    tokenizer = _BYTE_LEVEL
    response, expected = [assistant(answer)], answer + "<|im_end|>\n"
    for question, reply in more:
        response += [user(question), assistant(reply)]
        expected += reply + "<|im_end|>\n"
    pair = tokenize_example(chat(chosen=response, rejected="# never #"), tokenizer, options=NO_LIMIT)
    assert scored_text(tokenizer, pair.responses[0]) == expected
    rendering = tokenizer.apply_chat_template([user("Capital of France?"), *response], tokenize=False)
    assert whole_text(tokenizer, pair, pair.responses[0]) == rendering


_BYTE_LEVEL = byte_level()


@given(st.text(max_size=12), st.text(min_size=1, max_size=12).filter(str.strip))
@settings(deadline=None, max_examples=100)
def test_any_text_is_its_prompt_as_at_inference_and_its_response(prompt, response):
    tokenizer = smollm2()
    prompt = "Q" + prompt
    pair = tokenize_example(text(prompt, response, "# never #"), tokenizer, options=NO_LIMIT)
    assert pair.prompt_ids.tolist() == tokenizer(prompt)["input_ids"]
    # Decoded rather than as it was written: SmolLM2 has no token for some bytes of rare characters.
    whole = tokenizer(prompt + response + "<|im_end|>")["input_ids"]
    assert whole_text(tokenizer, pair, pair.responses[0]) == decoded(tokenizer, whole)


def test_tools_and_template_variables_reach_the_template():
    tokenizer = byte_level()
    tools = [{"type": "function", "function": {"name": "route", "description": "", "parameters": {}}}]
    pair = tokenize_example(
        chat(chosen="LOUD: Paris.", rejected="LOUD: Lyon.", tools=tools), tokenizer, options=NO_LIMIT
    )
    assert decoded(tokenizer, pair.prompt_ids).startswith("<|im_start|>system\nTools: route<|im_end|>\n")
    loud = chat(chosen="LOUD: Paris.", rejected="LOUD: Lyon.", template_kwargs={"shout": True})
    pair = tokenize_example(loud, tokenizer, options=NO_LIMIT)
    assert decoded(tokenizer, pair.prompt_ids).endswith("assistant\nLOUD: ")
    assert scored_text(tokenizer, pair.responses[0]) == "Paris.<|im_end|>\n"


def test_a_response_of_tool_calls_alone_is_not_empty():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "route"}}]}
    tokenizer = byte_level()
    pair = tokenize_example(chat(chosen=[call]), tokenizer, options=NO_LIMIT)
    assert scored_text(tokenizer, pair.responses[0]) == "<call>route</call><|im_end|>\n"


def test_a_bos_that_the_template_writes_stands_alone():
    tokenizer = byte_level(LLAMA2, adds="<s> $A")
    pair = tokenize_example(chat(), tokenizer, options=NO_LIMIT)
    assert decoded(tokenizer, pair.prompt_ids) == "<s>[INST] Capital of France? [/INST]"
    assert scored_text(tokenizer, pair.responses[0]) == " Paris. </s>"


def test_a_text_prompt_gets_the_bos_of_its_tokenizer_once():
    tokenizer = byte_level(adds="<s> $A")
    plain = tokenize_example(text(), tokenizer, options=NO_LIMIT)
    spelled_out = tokenize_example(text("<s>Answer:"), tokenizer, options=NO_LIMIT)
    assert decoded(tokenizer, plain.prompt_ids) == "<s>Answer:"
    assert spelled_out.prompt_ids.tolist() == plain.prompt_ids.tolist()
    assert spelled_out.responses[0].ids.tolist() == plain.responses[0].ids.tolist()


def test_an_eos_that_the_tokenizer_appends_does_not_end_the_prompt_and_is_not_doubled():
    tokenizer = byte_level(adds="<s> $A </s>")
    pair = tokenize_example(text(), tokenizer, options=NO_LIMIT)
    assert decoded(tokenizer, pair.prompt_ids) == "<s>Answer:"
    assert scored_text(tokenizer, pair.responses[0]) == " Yes</s>"


def test_a_text_response_that_ends_with_eos_gets_no_second_one(smol):
    pair = tokenize_example(text(chosen=" Yes<|im_end|>"), smol, options=NO_LIMIT)
    assert scored_text(smol, pair.responses[0]) == " Yes<|im_end|>"
    assert scored_text(smol, pair.responses[-1]) == " No<|im_end|>"


def test_a_slow_tokenizer_gives_the_same_cuts():
    tokenizer = ByT5Tokenizer(extra_ids=0)  # in Python, without offsets, bytes + 3, and it appends an EOS
    tokenizer.chat_template = PLAIN
    pair = tokenize_example(text("é:", "ja", "nein"), tokenizer, options=NO_LIMIT)
    assert pair.prompt_ids.tolist() == [byte + 3 for byte in "é:".encode()]
    assert pair.responses[0].ids.tolist() == [ord("j") + 3, ord("a") + 3, 1]
    several = [assistant("a"), user("b"), assistant("c")]
    pair = tokenize_example(chat("x", several, "n"), tokenizer, options=NO_LIMIT)
    assert scored_text(tokenizer, pair.responses[0]) == "a\nc\n"
    assert decoded(tokenizer, pair.responses[0].ids) == "a\nUser: b\nAssistant: c\n"


def test_a_token_across_the_prompts_end_is_taken_apart_as_at_inference():
    tokenizer = byte_level()
    pair = tokenize_example(text("Answer: ", "Yes", "No"), tokenizer, options=NO_LIMIT)
    assert tokenizer.tokenize("Answer: Yes") == ["Answer", ":", "ĠYes"]
    assert tokenizer.convert_ids_to_tokens(pair.prompt_ids.tolist()) == ["Answer", ":", "Ġ"]
    assert decoded(tokenizer, pair.responses[0].ids) == "Yes</s>"
    assert pair.notes == {"boundary": "tokenised apart at the prompt's end 'Answer: ' | 'Yes</s>'"}
    assert tokenize_example(text(), tokenizer, options=NO_LIMIT).notes == {}


def test_taking_a_token_apart_adds_no_space_where_the_tokenizer_begins_texts_with_one():
    tokenizer = metaspace()
    pair = tokenize_example(text("Answer: ", "Yes", "No"), tokenizer, options=NO_LIMIT)
    assert tokenizer.tokenize("Yes") == ["▁Yes"]
    assert "".join(tokenizer.convert_ids_to_tokens(pair.responses[0].ids.tolist())) == "Yes</s>"
    assert whole_text(tokenizer, pair, pair.responses[0]) == decoded(
        tokenizer, tokenizer("Answer: Yes</s>")["input_ids"]
    )
    assert "boundary" in pair.notes


def test_a_token_that_cannot_be_taken_apart_is_refused():
    with pytest.raises(RowProblem, match=r"a token straddles the prompt's end 'a black' \| 'bird </s>'"):
        tokenize_example(text("a black", "bird </s>", " berry </s>"), words(), options=NO_LIMIT)


def test_a_token_across_an_inner_turns_beginning_is_taken_apart_too():
    tokenizer = byte_level(PLAIN)
    several = [assistant("No"), user("hello"), assistant("Yes")]
    pair = tokenize_example(chat(chosen=several, rejected=[assistant("...")]), tokenizer, options=NO_LIMIT)
    assert scored_text(tokenizer, pair.responses[0]) == "No\nYes\n"
    tokens = tokenizer.convert_ids_to_tokens(pair.responses[0].ids.tolist())
    first = [
        tokens[i]
        for i in range(1, len(tokens))
        if pair.responses[0].scored[i] and not pair.responses[0].scored[i - 1]
    ]
    assert not first[0].startswith("Ġ")
    assert "boundary" in pair.notes


@pytest.mark.parametrize(
    ("pair", "template", "kind", "message"),
    [
        (chat(chosen=" \n"), CHATML, "empty_response", "^the chosen response is empty$"),
        (chat(rejected=[]), CHATML, "empty_response", "the rejected response is empty"),
        (text(rejected="  "), CHATML, "empty_response", "the rejected response is empty"),
        (text(rejected="</s>"), CHATML, "empty_response", "the rejected response is empty"),
        (chat(), "{{ messages[0].content }}", "unprinted", "the chosen response is only content, which the"),
        (text(rejected=" Yes"), CHATML, "identical", "chosen and rejected are the same"),
        (text(rejected=" Yes</s>"), CHATML, "identical", "chosen and rejected are the same"),
        (chat(prompt=[]), CHATML, "empty_prompt", "the prompt has no messages"),
        (text(prompt=""), CHATML, "empty_prompt", "the prompt is empty"),
        (chat([user("a"), assistant("b")]), CHATML, "assistant_prompt", "ends with an assistant message"),
        (
            chat(chosen=[user("a"), assistant("b")]),
            CHATML,
            "response_role",
            "begins with a message of 'user'",
        ),
        (chat([user("a"), user("b")]), GEMMA, "template_error", "template fails on it: roles must alternate"),
        (chat(template_kwargs={"tokenize": True}), CHATML, "template_error", "multiple values"),
        (
            chat([{"role": "us\ud800er", "content": "a"}]),
            CHATML,
            "template_error",
            r"half a character \(\\ud800\)",
        ),
        (
            chat(),
            EMPTY_THOUGHT,
            "template_prefix",
            r"renders the prompt before the chosen response as .*assistant\\n<think></think>' alone but as "
            r".*assistant\\nParis\.<\|im_end\|>\\n' in the whole",
        ),
        (
            chat(chosen=[assistant("<think>hm</think>a"), user("b"), assistant("c")]),
            FORGETFUL,
            "template_prefix",
            r"renders the chosen response as the last turn as .*hm</think>a.* alone but as .*\\na<\|im_end",
        ),
    ],
)
def test_a_row_that_cannot_be_used_says_why(pair, template, kind, message):
    with pytest.raises(RowProblem, match=message) as raised:
        tokenize_example(pair, byte_level(template), options=NO_LIMIT)
    assert raised.value.kind == kind
    assert "\n" not in str(raised.value)


def test_thoughts_in_a_single_turn_are_scored_under_a_template_that_forgets_them_later():
    tokenizer = byte_level(FORGETFUL)
    pair = tokenize_example(chat(chosen="<think>hm</think>Paris."), tokenizer, options=NO_LIMIT)
    assert scored_text(tokenizer, pair.responses[0]) == "<think>hm</think>Paris.<|im_end|>\n"


def test_chat_pairs_need_a_chat_template():
    with pytest.raises(InputError, match=r"'small' has no chat template.*Set tokenizer\.chat_template"):
        tokenize_example(chat(), byte_level(None), options=NO_LIMIT)


def test_text_pairs_need_an_end_of_text_token():
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match=r"'small' has no eos_token.*Set tokenizer\.eos_token"):
        tokenize_example(text(), tokenizer, options=NO_LIMIT)


def test_a_tokenizer_that_alters_text_beside_its_special_tokens_is_refused_for_text():
    tokenizer = byte_level()

    class Reversing(type(tokenizer)):
        def __call__(self, texts, add_special_tokens=True, **options):
            encoded = super().__call__(texts, add_special_tokens=False, **options)
            return {"input_ids": encoded["input_ids"][::-1]} if add_special_tokens else encoded

    tokenizer.__class__ = Reversing
    with pytest.raises(
        InputError, match=r"differently with its special tokens and without.*Give the rows as chats"
    ):
        tokenize_example(text(), tokenizer, options=NO_LIMIT)


def test_a_length_that_fits_no_pair_is_refused():
    with pytest.raises(InputError, match=r"data\.max_length is 1, but .* at least 2 tokens"):
        TokenOptions(max_length=1)


def test_a_cut_response_ends_without_an_end_of_text_and_one_that_fits_keeps_it(smol):
    pair = text("Answer:", " one two three four", " No")
    prompt, full = len(smol("Answer:")["input_ids"]), len(smol("Answer: one two three four")["input_ids"]) + 1
    uncut = tokenize_example(pair, smol, options=TokenOptions(max_length=full, overlong="refuse"))
    assert uncut.notes == {}
    assert scored_text(smol, uncut.responses[0]) == " one two three four<|im_end|>"
    cut = tokenize_example(pair, smol, options=TokenOptions(max_length=full - 2, overlong="truncate"))
    assert scored_text(smol, cut.responses[0]) == " one two three"
    assert scored_text(smol, cut.responses[-1]) == " No<|im_end|>"
    assert cut.notes == {"cut": f"chosen from {full - prompt} tokens to {full - prompt - 2}"}


@pytest.mark.parametrize("overlong", ["refuse", "drop"])
def test_a_pair_over_max_length_is_a_problem_with_its_lengths(smol, overlong):
    options = TokenOptions(max_length=4, overlong=overlong)
    with pytest.raises(
        RowProblem,
        match=r"^2 of prompt \+ 3 of response = 5$",
    ) as raised:
        tokenize_example(text(chosen=" one two"), smol, options=options)
    assert (raised.value.kind, raised.value.tokens) == ("too_long", 5)


@pytest.mark.parametrize("overlong", ["refuse", "drop", "truncate"])
def test_a_prompt_without_room_for_a_response_is_never_cut(smol, overlong):
    pair = text("one two three four")
    prompt = len(smol("one two three four")["input_ids"])
    with pytest.raises(RowProblem, match=f"^a prompt of {prompt}$") as raised:
        tokenize_example(pair, smol, options=TokenOptions(max_length=prompt, overlong=overlong))
    assert (raised.value.kind, raised.value.tokens) == ("prompt_too_long", prompt + 2)


def test_responses_that_are_the_same_once_cut_are_a_problem(smol):
    options = TokenOptions(max_length=4, overlong="truncate")
    with pytest.raises(RowProblem, match=r"the same in the 2 tokens that data\.max_length leaves") as raised:
        tokenize_example(text(chosen=" one two three", rejected=" one two four"), smol, options=options)
    assert raised.value.kind == "identical"


def test_many_pairs_at_once_are_as_each_alone():
    tokenizer = byte_level(adds="<s> $A")
    pairs = [chat(), text("Answer: ", "Yes", "No"), chat(chosen=""), text(), chat("Other?")]
    together = tokenize_examples(pairs, tokenizer, options=NO_LIMIT)
    assert isinstance(together[2], RowProblem)
    for pair, found in zip(pairs, together, strict=True):
        if isinstance(found, TokenExample):
            alone = tokenize_example(pair, tokenizer, options=NO_LIMIT)
            assert found.prompt_ids.tolist() == alone.prompt_ids.tolist()
            assert [r.ids.tolist() for r in found.responses] == [r.ids.tolist() for r in alone.responses]
            assert found.notes == alone.notes
