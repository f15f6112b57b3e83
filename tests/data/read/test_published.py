"""Rows as published data sets and other tools have them: name → a small row of our own → what it is read as.

The columns follow the data sets' cards and the tools' documentation. Where `checked` is False, they are from memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from minordpo.data.read.examples import examples_from_rows
from minordpo.errors import InputError


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Short."}
ASKED, GOOD, BAD = [user("Sky?")], [assistant("blue")], [assistant("green")]
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky"}'}}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
TEXT = ("Sky?", "blue", "green")
CHAT = (ASKED, GOOD, BAD)


class Case(NamedTuple):
    """A data set or tool, a row as it has them, the layout, prompt and responses, and what is left unread."""

    name: str
    row: dict[str, Any]
    layout: str
    parts: tuple[Any, ...]
    unread: frozenset[str] | set[str] = frozenset()
    checked: bool = False


CASES = [
    Case(
        "trl-internal-testing/zen",
        {"prompt": "Sky?", "chosen": "blue", "rejected": "green"},
        "TRL text",
        TEXT,
    ),
    Case(
        "Anthropic/hh-rlhf",
        {
            "chosen": "\n\nHuman: Sky?\n\nAssistant: It is blue.",
            "rejected": "\n\nHuman: Sky?\n\nAssistant: It is green.",
        },
        "TRL implicit text",
        ("\n\nHuman: Sky?\n\nAssistant:", " It is blue.", " It is green."),
    ),
    Case(
        "HuggingFaceH4/ultrafeedback_binarized",
        {
            "prompt": "Sky?",
            "prompt_id": "0a",
            "chosen": ASKED + GOOD,
            "rejected": ASKED + BAD,
            "messages": ASKED + GOOD,
            "score_chosen": 8.5,
            "score_rejected": 3.0,
        },
        "UltraFeedback chat",
        CHAT,
        {"column prompt_id", "column messages", "column score_chosen", "column score_rejected"},
    ),
    Case(
        "trl-lib/ultrafeedback_binarized",
        {"chosen": ASKED + GOOD, "rejected": ASKED + BAD, "score_chosen": 8.0, "score_rejected": 2.0},
        "TRL implicit chat",
        CHAT,
        {"column score_chosen", "column score_rejected"},
    ),
    Case(
        "allenai/llama-3.1-tulu-3-8b-preference-mixture (open-instruct)",
        {
            "id": "1",
            "source": "wildchat",
            "prompt": "Sky?",
            "chosen": ASKED + GOOD,
            "rejected": ASKED + BAD,
            "chosen_model": "a",
            "rejected_model": "b",
        },
        "UltraFeedback chat",
        CHAT,
        {"column id", "column source", "column chosen_model", "column rejected_model"},
    ),
    Case(
        "Intel/orca_dpo_pairs",
        {"system": "Short.", "question": "Sky?", "chosen": "blue", "rejected": "green"},
        "TRL text",
        TEXT,
        {"column system"},
        True,
    ),
    Case(
        "argilla/distilabel-intel-orca-dpo-pairs",
        {
            "system": "Short.",
            "input": "Sky?",
            "chosen": "blue",
            "rejected": "green",
            "generations": ["blue", "green"],
            "order": ["chosen", "rejected"],
            "rating": [9.0, 2.0],
            "status": "unchanged",
            "in_gsm8k_train": False,
        },
        "TRL text",
        TEXT,
        {f"column {c}" for c in ("system", "generations", "order", "rating", "status", "in_gsm8k_train")},
    ),
    Case(
        "argilla/ultrafeedback-binarized-preferences",
        {
            "source": "x",
            "instruction": "Sky?",
            "chosen_response": "blue",
            "rejected_response": "green",
            "chosen_avg_rating": 5.0,
            "chosen_model": "m",
        },
        "LLaMA-Factory Alpaca",
        CHAT,
        {"column source", "column chosen_avg_rating", "column chosen_model"},
        True,
    ),
    Case(
        "argilla/dpo-mix-7k",
        {"dataset": "capybara", "chosen": ASKED + GOOD, "rejected": ASKED + BAD, "chosen_rating": 5.0},
        "TRL implicit chat",
        CHAT,
        {"column dataset", "column chosen_rating"},
    ),
    Case(
        "jondurbin/truthy-dpo-v0.1",
        {
            "id": "7",
            "source": "s",
            "system": "Short.",
            "prompt": "Sky?",
            "chosen": "blue",
            "rejected": "green",
        },
        "TRL text",
        TEXT,
        {"column id", "column source", "column system"},
    ),
    Case(
        "CyberNative/Code_Vulnerability_Security_DPO",
        {
            "lang": "c",
            "vulnerability": "v",
            "system": "",
            "question": "Sky?",
            "chosen": "blue",
            "rejected": "green",
        },
        "TRL text",
        TEXT,
        {"column lang", "column vulnerability"},
    ),
    Case(
        "Vezora/Code-Preference-Pairs",
        {"input": "Sky?", "accepted": "blue", "rejected": "green", "ID": 1},
        "TRL text",
        TEXT,
        {"column ID"},
    ),
    Case(
        "mlabonne/orpo-dpo-mix-40k",
        {
            "source": "s",
            "prompt": "Sky?",
            "question": "Sky?",
            "chosen": ASKED + GOOD,
            "rejected": ASKED + BAD,
        },
        "UltraFeedback chat",
        CHAT,
        {"column source", "column question"},
    ),
    Case(
        "lvwerra/stack-exchange-paired",
        {
            "qid": 1,
            "question": "Sky?",
            "date": "2010/01/01",
            "metadata": ["https://example.org"],
            "response_j": "blue",
            "response_k": "green",
        },
        "StackExchange pairs",
        TEXT,
        {"column qid", "column date", "column metadata"},
    ),
    Case(
        "xinlai/Math-Step-DPO-10K",
        {
            "dataset": "MATH_Rephrased",
            "prompt": "1+1+1?",
            "initial_reason_steps": "Let's think step by step.\nStep 1: 1+1=2.\nStep 2: ",
            "chosen": "2+1=3.",
            "rejected": "2+1=4.",
            "full_chosen": "2+1=3. The answer is 3",
            "full_rejected": "2+1=4. The answer is 4",
            "answer": "3",
        },
        "Step-DPO",
        ("1+1+1?\nLet's think step by step.\nStep 1: 1+1=2.\nStep 2: ", "2+1=3.", "2+1=4."),
        {f"column {c}" for c in ("dataset", "full_chosen", "full_rejected", "answer")},
        True,
    ),
    Case(
        "nvidia/HelpSteer3",
        {
            "domain": "general",
            "language": "english",
            "context": ASKED,
            "response1": "green",
            "response2": "blue",
            "overall_preference": 2,
            "individual_preference": [{"score": 2, "reasoning": "true", "feedback1": "a"}],
        },
        "HelpSteer3",
        CHAT,
        {"column domain", "column language", "column individual_preference"},
        True,
    ),
    Case(
        "nvidia/HelpSteer2 (preference)",
        {
            "split": "train",
            "prompt": "Sky?",
            "response_1": "blue",
            "response_2": "green",
            "preference_strength": -1,
            "preference_statement": "1 is better",
        },
        "HelpSteer2 preferences",
        TEXT,
        {"column split", "column preference_statement"},
    ),
    Case(
        "PKU-Alignment/PKU-SafeRLHF",
        {
            "prompt": "Sky?",
            "response_0": "green",
            "response_1": "blue",
            "is_response_0_safe": True,
            "is_response_1_safe": True,
            "better_response_id": 1,
            "safer_response_id": 0,
        },
        "PKU-SafeRLHF",
        TEXT,
        {f"column {c}" for c in ("is_response_0_safe", "is_response_1_safe", "safer_response_id")},
        True,
    ),
    Case(
        "stanfordnlp/SHP",
        {
            "post_id": "x",
            "domain": "askscience_train",
            "history": "Sky?",
            "human_ref_A": "green",
            "human_ref_B": "blue",
            "labels": 0,
            "score_A": 3,
            "score_B": 9,
        },
        "SHP",
        TEXT,
        {"column post_id", "column domain", "column score_A", "column score_B"},
        True,
    ),
    Case(
        "openai/webgpt_comparisons",
        {
            "question": {"dataset": "eli5", "id": "1", "full_text": "Sky?"},
            "answer_0": "green",
            "answer_1": "blue",
            "score_0": -0.5,
            "score_1": 0.5,
            "quotes_0": {"title": [], "extract": []},
            "tokens_0": {"prefix": [1], "completion": [2]},
        },
        "WebGPT comparisons",
        TEXT,
        {"column tokens_0", "dataset of question", "id of question"},
    ),
    Case(
        "openai/summarize_from_feedback (comparisons)",
        {
            "info": {"id": "t3", "post": "Sky?", "title": "On the sky", "article": None},
            "summaries": [{"text": "green", "policy": "a"}, {"text": "blue", "policy": "b"}],
            "choice": 1,
            "worker": "w",
        },
        "summaries and a choice",
        TEXT,
        {"column worker", "id of info", "title of info", "policy of summaries"},
    ),
    Case(
        "lmsys/chatbot_arena_conversations",
        {
            "question_id": "1",
            "model_a": "a",
            "model_b": "b",
            "winner": "model_b",
            "conversation_a": ASKED + BAD,
            "conversation_b": ASKED + GOOD,
            "turn": 1,
        },
        "Chatbot Arena",
        CHAT,
        {"column question_id", "column model_a", "column model_b", "column turn"},
    ),
    Case(
        "berkeley-nest/Nectar",
        {
            "prompt": "\n\nHuman: Sky?\n\nAssistant: ",
            "answers": [
                {"answer": "green", "model": "a", "rank": 3.0},
                {"answer": "blue", "model": "b", "rank": 1.0},
                {"answer": "grey", "model": "c", "rank": 2.0},
            ],
            "turns": 1,
            "source": ["x"],
            "good_natured": True,
        },
        "Nectar",
        ("\n\nHuman: Sky?\n\nAssistant: ", "blue", "grey", "green"),
        {"column turns", "column source", "column good_natured", "model of answers"},
        True,
    ),
    Case(
        "openbmb/UltraFeedback",
        {
            "source": "x",
            "instruction": "Sky?",
            "models": ["a", "b"],
            "completions": [
                {"model": "a", "custom_system_prompt": "Be.", "response": "green", "overall_score": 4.0},
                {"model": "b", "custom_system_prompt": "Be.", "response": "blue", "overall_score": 8.5},
            ],
            "correct_answers": ["None"],
        },
        "UltraFeedback with all completions",
        TEXT,
        {"column source", "column models", "column correct_answers"}
        | {"model of completions", "custom_system_prompt of completions"},
    ),
    Case(
        "distilabel (UltraFeedback task)",
        {
            "instruction": "Sky?",
            "generations": ["green", "blue"],
            "generation_models": ["a", "b"],
            "ratings": [1, 5],
            "rationales": ["x", "y"],
            "distilabel_metadata": {"raw": "z"},
            "model_name": "judge",
        },
        "distilabel ratings",
        TEXT,
        {f"column {c}" for c in ("generation_models", "rationales", "distilabel_metadata", "model_name")},
    ),
    Case(
        "distilabel (FormatTextGenerationDPO)",
        {
            "prompt": "Sky?",
            "prompt_id": "0b",
            "chosen": ASKED + GOOD,
            "chosen_model": "a",
            "chosen_rating": 5,
            "rejected": ASKED + BAD,
            "rejected_model": "b",
            "rejected_rating": 1,
        },
        "UltraFeedback chat",
        CHAT,
        {
            f"column {c}"
            for c in ("prompt_id", "chosen_model", "chosen_rating", "rejected_model", "rejected_rating")
        },
    ),
    Case(
        "snorkelai/Snorkel-Mistral-PairRM-DPO-Dataset",
        {
            "prompt_id": "1",
            "prompt": "Sky?",
            "chosen": ASKED + GOOD,
            "rejected": ASKED + BAD,
            "all_generated_responses": ["blue", "green"],
            "all_rm_scores": [1.0, -1.0],
        },
        "UltraFeedback chat",
        CHAT,
        {"column prompt_id", "column all_generated_responses", "column all_rm_scores"},
    ),
    Case(
        "trl-lib/kto-mix-14k",
        {"prompt": ASKED, "completion": GOOD, "label": True},
        "TRL unpaired chat",
        (ASKED, GOOD),
    ),
    Case(
        "abacusai/MetaMath_DPO_FewShot",
        {"prompt": "Sky?", "chosen": "blue", "rejected": "green", "question": "Sky?"},
        "TRL text",
        TEXT,
        {"column question"},
        True,
    ),
    Case(
        "LLaMA-Factory, dpo_en_demo",
        {
            "conversations": [{"from": "human", "value": "Sky?"}],
            "chosen": {"from": "gpt", "value": "blue"},
            "rejected": {"from": "gpt", "value": "green"},
        },
        "LLaMA-Factory ShareGPT",
        CHAT,
        checked=True,
    ),
    Case(
        "LLaMA-Factory v1",
        {
            "chosen_messages": [
                {"role": "user", "content": [{"type": "text", "value": "Sky?"}], "loss_weight": 0.0},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "reasoning", "value": "Look up."},
                        {"type": "text", "value": "blue"},
                    ],
                },
            ],
            "rejected_messages": [
                {"role": "user", "content": [{"type": "text", "value": "Sky?"}], "loss_weight": 0.0},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "tool_call", "value": '{"name": "look", "arguments": {"at": "sky"}}'}
                    ],
                },
            ],
            "extra_info": "x",
        },
        "LLaMA-Factory v1",
        (
            [{**user("Sky?"), "loss_weight": 0.0}],
            [{**assistant("blue"), "reasoning_content": "Look up."}],
            [
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
                    ],
                }
            ],
        ),
        {"column extra_info"},
        True,
    ),
    Case(
        "OpenAI preference fine-tuning",
        {
            "input": {"messages": [SYSTEM, *ASKED], "tools": TOOLS, "parallel_tool_calls": True},
            "preferred_output": [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
            "non_preferred_output": BAD,
        },
        "OpenAI preferences",
        ([SYSTEM, *ASKED], [{"role": "assistant", "tool_calls": [CALL]}], BAD),
        {"parallel_tool_calls of input"},
        True,
    ),
    Case(
        "Axolotl chat_template.default",
        {"messages": [SYSTEM, *ASKED], "chosen": GOOD[0], "rejected": BAD[0]},
        "messages and two answers",
        ([SYSTEM, *ASKED], GOOD, BAD),
        checked=True,
    ),
    Case(
        "Axolotl chatml.ultra",
        {"system": "Short.", "prompt": "Sky?", "chosen": ASKED + GOOD, "rejected": ASKED + BAD},
        "UltraFeedback chat",
        ([SYSTEM, *ASKED], GOOD, BAD),
        checked=True,
    ),
    Case(
        "ms-swift, rejected_response",
        {"messages": [SYSTEM, *ASKED, *GOOD], "rejected_response": "green"},
        "ms-swift rejected_response",
        ([SYSTEM, *ASKED], GOOD, BAD),
        checked=True,
    ),
    Case(
        "ms-swift, rejected_messages with a tool",
        {
            "messages": [
                *ASKED,
                {"role": "tool_call", "content": '{"name": "look", "arguments": {"at": "sky"}}'},
                {"role": "tool_response", "content": "blue!"},
                *GOOD,
            ],
            "rejected_messages": ASKED + BAD,
        },
        "ms-swift rejected_messages",
        (
            ASKED,
            [
                {
                    "role": "assistant",
                    "tool_calls": [
                        {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
                    ],
                },
                {"role": "tool", "content": "blue!"},
                *GOOD,
            ],
            BAD,
        ),
        checked=True,
    ),
    Case(
        "ms-swift, query and response",
        {
            "system": "Short.",
            "history": [["Hi", "Hello"]],
            "query": "Sky?",
            "response": "blue",
            "rejected_response": "green",
        },
        "ms-swift query and response",
        ([SYSTEM, user("Hi"), assistant("Hello"), *ASKED], GOOD, BAD),
        checked=True,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_row_of_a_published_data_set_is_read_as_its_card_means_it(case: Case):
    loaded = examples_from_rows([case.row], source=case.name)
    (example,) = loaded.examples
    assert loaded.layout == case.layout
    assert (example.prompt, *example.responses) == case.parts
    assert {each.what for each in loaded.unread} == case.unread


def test_the_table_has_at_least_25_data_sets_and_tools():
    assert len({case.name for case in CASES}) >= 25


def test_the_tools_of_openais_input_are_the_chats():
    case = next(each for each in CASES if each.name.startswith("OpenAI"))
    assert examples_from_rows([case.row], source="x").examples[0].tools == TOOLS


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"context": ASKED, "response1": "a", "response2": "b", "overall_preference": 0},
            "overall_preference is 0, but a better response is needed",
        ),
        (
            {"conversation_a": ASKED + BAD, "conversation_b": ASKED + GOOD, "winner": "tie (bothbad)"},
            r"winner is tie \(bothbad\), but",
        ),
        (
            {"question": "Sky?", "answer_0": "a", "answer_1": "b", "score_0": 1, "score_1": 1},
            "score_0 and score_1 are the same, but",
        ),
        (
            {"prompt": "Sky?", "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 1}]},
            "responses 1 and 2 both have the rank 1",
        ),
        (
            {"instruction": "Sky?", "generations": ["a", "b"], "ratings": [1, None]},
            "a generation or its rating is null",
        ),
        (
            {"instruction": "Sky?", "completions": [{"response": "a", "overall_score": 1}]},
            "completions is a list of 1, but two or more answers are needed",
        ),
    ],
)
def test_a_row_without_a_better_answer_is_refused_or_dropped(row, words):
    with pytest.raises(InputError, match=f"row 1 of x: {words}") as refused:
        examples_from_rows([row], source="x")
    assert "\n" not in str(refused.value)
    assert len(examples_from_rows([row], source="x", invalid="drop").problems) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            {"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 2},
            "but 0 or 1 is needed",
        ),
        (
            {"history": "a", "human_ref_A": "b", "human_ref_B": "c", "labels": True},
            "labels is true, but 1 or 0",
        ),
        (
            {"conversation_a": [], "conversation_b": [], "winner": "model_c"},
            "winner is the text 'model_c', but model_a or model_b",
        ),
        (
            {"context": "Sky?", "response1": "a", "response2": "b", "overall_preference": 1},
            "context is the text 'Sky\\?', but a list",
        ),
        (
            {"prompt": "a", "response_1": "b", "response_2": "c", "preference_strength": "1"},
            "preference_strength is the text '1', but a number",
        ),
        (
            {"info": {}, "summaries": [], "choice": 0},
            "info is an object .*, but an object with post or article",
        ),
        ({"input": {}, "preferred_output": [], "non_preferred_output": []}, "but an object with messages"),
        ({"messages": ASKED, "rejected_response": "a"}, "a list of 1 in which no answer follows a user turn"),
        ({"messages": "a", "rejected_messages": []}, "messages is the text 'a', but a list"),
        (
            {"chosen_messages": [{"role": "user", "content": [{"type": "image_url", "value": "a"}]}]}
            | {"rejected_messages": []},
            "message 1 of chosen_messages has a part of type image_url, but text, reasoning or tool_call",
        ),
        (
            {"prompt": "a", "answers": [{"answer": "b"}, {"answer": "c"}]},
            "object 1 of answers is an object with",
        ),
    ],
)
def test_a_field_that_cannot_be_read_is_named_with_its_row(row, words):
    with pytest.raises(InputError, match=f"row 1 of x: .*{words}") as refused:
        examples_from_rows([row], source="x")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("score", [-3, -0.5, 1, 3.0])
def test_the_sign_of_a_preference_says_which_answer_is_better(score):
    row = {"context": ASKED, "response1": "one", "response2": "two", "overall_preference": score}
    (example,) = examples_from_rows([row], source="x").examples
    assert example.responses[0] == [assistant("one" if score < 0 else "two")]
