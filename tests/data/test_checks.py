"""Every row of a source is used, or counted and named."""

from __future__ import annotations

import re

import pytest

from helpers.example_pairs import text_pair
from helpers.small_tokenizers import CHATML, EMPTY_THOUGHT, byte_level
from minordpo.data.checks import PreparedExamples
from minordpo.data.prepare import prepare_examples
from minordpo.data.read.examples import Example, LoadedExamples
from minordpo.data.tokens import TokenOptions
from minordpo.errors import InputError

TOKENIZER = byte_level(None)  # "Answer", ":", " Yes", " No" are one token each
NO_LIMIT = TokenOptions(max_length=None)


def load(*texts: tuple[str, str, str], notes: tuple[str, ...] = ()) -> LoadedExamples:
    """A source of text pairs; their rows count from 11, as after a header."""
    pairs = [text_pair(*text, row=row) for row, text in enumerate(texts, 11)]
    return LoadedExamples(pairs, "pairs.jsonl", "TRL text", list(notes))


def prepare(loaded: LoadedExamples, options: TokenOptions = NO_LIMIT, **how) -> PreparedExamples:
    return prepare_examples(loaded, TOKENIZER, options, **how)


def load_labelled(*texts: tuple[str, str, bool]) -> LoadedExamples:
    """A source of labelled text responses."""
    examples = [Example(p, (c,), (float(label),), row) for row, (p, c, label) in enumerate(texts, 11)]
    return LoadedExamples(examples, "labels.jsonl", "TRL unpaired text", kind="labelled")


def load_ranked(*texts: tuple[str, ...]) -> LoadedExamples:
    """A source of ranked text responses: a prompt and what follows it, best first."""
    examples = [
        Example(prompt, responses, tuple(float(i) for i in reversed(range(len(responses)))), row)
        for row, (prompt, *rest) in enumerate(texts, 11)
        for responses in [tuple(rest)]
    ]
    return LoadedExamples(examples, "ranks.jsonl", "ranked text", kind="ranked")


GOOD = ("Answer:", " Yes", " No")
EMPTY = ("Answer:", "  ", " No")
SAME = ("Answer:", " No", " No")
LONG = ("Answer:", " Yes" * 7, " No")  # 2 + 8 tokens
LONG_PROMPT = ("Answer:" * 4, " Yes", " No")  # 8 + 2 tokens
APART = ("Answer: ", "Yes", "No")


def test_good_rows_all_arrive_in_order_with_nothing_to_report():
    texts = [(f"Answer {i}:", " Yes", " No") for i in range(600)]
    prepared = prepare(load(*texts))
    assert [pair.row for pair in prepared.examples] == list(range(11, 611))
    assert prepared.report.startswith("pairs.jsonl: 600 rows read as TRL text, 600 used\n")
    assert prepared.dropped == prepared.kept == {}
    assert "nothing dropped, cut, repeated, contradicted or tokenised apart" in prepared.report


def test_rows_that_cannot_be_used_are_refused_together_after_all_are_read():
    filler = [(f"Answer {i}:", " Yes", " No") for i in range(600)]
    with pytest.raises(InputError) as raised:
        prepare(load(GOOD, EMPTY, *filler, SAME, EMPTY))
    assert str(raised.value) == (
        "pairs.jsonl: 3 rows cannot be used: 2 empty responses (first: row 12, the chosen response is empty)"
        ", 1 pair with chosen = rejected (first: row 613, chosen and rejected are the same). "
        "Fix them or drop them with data.invalid=drop."
    )


def test_one_row_that_cannot_be_used_is_refused_in_the_singular():
    with pytest.raises(
        InputError, match=r"1 row cannot be used: 1 empty .* Fix it or drop it with data\.invalid"
    ):
        prepare(load(GOOD, EMPTY))


def test_rows_that_cannot_be_used_are_dropped_if_asked_and_counted():
    prepared = prepare(load(EMPTY, GOOD, SAME, EMPTY), invalid="drop")
    assert [pair.row for pair in prepared.examples] == [12]
    assert {kind: found.rows for kind, found in prepared.dropped.items()} == {
        "empty_response": [11, 14],
        "identical": [13],
    }
    assert "  dropped: 2 empty responses (first: row 11, the chosen response is empty)\n" in str(
        prepared.report
    )


def test_an_overlong_prompt_is_refused_by_row_and_length():
    with pytest.raises(InputError) as raised:
        prepare(load(GOOD, LONG_PROMPT), TokenOptions(max_length=8))
    assert str(raised.value) == (
        "data.max_length is 8 tokens but row 12 of pairs.jsonl has a prompt of 8. "
        "Raise data.max_length or drop the row with data.overlong=drop."
    )


def test_overlong_rows_are_refused_with_the_first_and_the_longest():
    longer = ("Answer:", " No", " No Yes" * 6)  # 2 + 13 tokens
    with pytest.raises(InputError) as raised:
        prepare(load(GOOD, LONG, LONG_PROMPT, longer), TokenOptions(max_length=8))
    assert str(raised.value) == (
        "data.max_length is 8 tokens but 3 rows of pairs.jsonl are longer: row 12 has 2 of prompt + 8 of "
        "response = 10, and the longest, row 14, has 15 in all. "
        "Raise data.max_length or drop the rows with data.overlong=drop."
    )


def test_a_refusal_names_unusable_and_overlong_rows_alike():
    with pytest.raises(
        InputError, match=r"1 row cannot be used: 1 empty.*data\.invalid=drop\. data\.max_length is 8"
    ):
        prepare(load(EMPTY, LONG), TokenOptions(max_length=8))


def test_overlong_rows_are_refused_though_unusable_ones_may_be_dropped():
    with pytest.raises(InputError, match=r"^data\.max_length is 8 tokens but row 12"):
        prepare(load(EMPTY, LONG, GOOD), TokenOptions(max_length=8), invalid="drop")


def test_overlong_rows_are_dropped_if_asked_and_counted():
    prepared = prepare(load(LONG, GOOD, LONG_PROMPT), TokenOptions(max_length=8, overlong="drop"))
    assert [pair.row for pair in prepared.examples] == [12]
    text = prepared.report
    assert "dropped: 1 row over data.max_length (first: row 11, 2 of prompt + 8 of response = 10)\n" in text
    assert "dropped: 1 prompt that leaves no room for a response in data.max_length (first: row 13" in text


def test_cut_rows_are_used_and_counted():
    prepared = prepare(load(GOOD, LONG), TokenOptions(max_length=8, overlong="truncate"))
    assert len(prepared.examples[1].responses[0].ids) == 6
    assert prepared.kept["cut"].rows == [12]
    assert "  1 row cut to data.max_length (first: row 12, chosen from 8 tokens to 6)\n" in str(
        prepared.report
    )


def test_where_responses_are_cut_a_prompt_without_room_is_refused_unless_invalid_rows_are_dropped():
    options = TokenOptions(max_length=8, overlong="truncate")
    with pytest.raises(
        InputError, match=r"has a prompt of 8\. Raise data\.max_length .* with data\.invalid=drop"
    ):
        prepare(load(GOOD, LONG_PROMPT), options)
    prepared = prepare(load(GOOD, LONG_PROMPT), options, invalid="drop")
    assert prepared.dropped["prompt_too_long"].rows == [12]


def test_repeated_rows_are_kept_and_counted():
    swapped = ("Answer:", " No", " Yes")
    prepared = prepare(load(GOOD, swapped, GOOD, GOOD))
    assert len(prepared.examples) == 4
    assert prepared.kept["duplicate"].rows == [13, 14]
    assert prepared.kept["contradiction"].rows == [12]
    assert "  2 rows that repeat an earlier one, kept (first: row 13, as row 11)\n" in prepared.report


def test_rows_tokenised_apart_are_counted_with_the_place():
    prepared = prepare(load(GOOD, APART))
    assert prepared.kept["boundary"].rows == [12]
    assert (
        "1 row whose prompt and response were tokenised apart, as at inference "
        "(first: row 12, tokenised apart at the prompt's end 'Answer: ' | 'Yes</s>')"
    ) in prepared.report


def test_token_counts_are_those_counted_by_hand():
    both = ("Answer:", " Yes No", " Yes Yes Yes")
    lines = [" ".join(line.split()) for line in prepare(load(GOOD, both)).report.splitlines()]
    assert lines[3:8] == [
        "prompt 2.0 2",
        "chosen 2.5 3",
        "rejected 3.0 4",
        "common beginning 0.5 1",
        # The last token predicts nothing and is not computed: 2 + 1 + 1, then 2 + 1 + 1 + 2. Padded: 8, then 12.
        "10 distinct tokens to compute; two padded rows a pair would cost 20 (2.00 times as many)",
    ]


def test_the_report_is_a_block_that_ends_with_the_first_pair_in_use():
    text = prepare(load(EMPTY, GOOD, notes=("the prompt was found",)), invalid="drop").report
    lines = text.split("\n")
    assert lines[:2] == ["pairs.jsonl: 2 rows read as TRL text, 1 used", "  note: the prompt was found"]
    assert re.search(r"\n  chosen +2\.0 +2\n", text)
    assert "4 distinct tokens to compute; two padded rows a pair would cost 8 (2.00 times as many)" in text
    assert lines[-7:] == [
        "the first pair (row 12) as the model sees it:",
        "prompt (2 tokens, none scored)",
        "  ⟦Answer│:⟧",
        "chosen (2 tokens, all scored)",
        "   Yes│</s>",
        "rejected (2 tokens, all scored)",
        "   No│</s>",
    ]


def test_a_template_problem_is_refused_with_both_renderings():
    prompt, chosen, rejected = (
        [{"role": role, "content": "hello" + role}] for role in ("user", "assistant", "assistant")
    )
    chosen[0]["content"] = "Yes"
    loaded = LoadedExamples([text_pair(prompt, chosen, rejected, row=1)], "chats.json", "TRL chat")
    refusal = (
        r"1 row whose beginning .* renders in two ways .*<think></think>' alone but as .*Yes<\|im_end\|>"
    )
    with pytest.raises(InputError, match=refusal):
        prepare_examples(loaded, byte_level(EMPTY_THOUGHT), NO_LIMIT)
    assert prepare_examples(loaded, byte_level(CHATML), NO_LIMIT).examples


def test_a_source_of_which_nothing_is_left_is_refused():
    with pytest.raises(
        InputError, match=r"pairs\.jsonl: of 2 rows none can be used: 1 empty .*1 pair with chosen ="
    ):
        prepare(load(EMPTY, SAME), invalid="drop")


def test_a_source_without_rows_is_refused():
    with pytest.raises(InputError, match=r"pairs\.jsonl has no rows, but at least one is needed"):
        prepare(load())


@pytest.mark.parametrize(
    ("rows", "progress", "bar"), [(2001, True, True), (2001, False, False), (2000, True, False)]
)
def test_a_progress_bar_appears_for_many_rows_if_asked_for(rows, progress, bar, capsys):
    prepare(load(*[GOOD] * rows), progress=progress)
    assert ("tokenising" in capsys.readouterr().err) == bar


def test_labelled_responses_are_counted_by_label_and_named_as_completions():
    texts = [("Answer:", " Yes", True), ("Answer:", " No", False), ("Answer:", " Yes No", False)]
    prepared = prepare(load_labelled(*texts))
    text = prepared.report
    assert text.split("\n") == [
        "labels.jsonl: 3 rows read as TRL unpaired text, 3 used",
        "  nothing dropped, cut, repeated, contradicted or tokenised apart",
        "  1 desirable, 2 undesirable",
        "  tokens                  mean       max",
        "  prompt                   2.0         2",
        "  completion               2.3         3",
        "  10 tokens to compute",  # prompt and completion less its last: 3 + 3 + 4
        "",
        "the first example (row 11) as the model sees it:",
        "prompt (2 tokens, none scored)",
        "  ⟦Answer│:⟧",
        "completion, labelled true (2 tokens, all scored)",
        "   Yes│</s>",
    ]


def test_the_labels_of_dropped_rows_are_not_counted():
    loaded = load_labelled(("Answer:", " Yes", False), ("Answer:", "", True), ("Answer:", " ", False))
    report = prepare(loaded, invalid="drop").report
    assert (
        "  0 desirable, 1 undesirable\n  note: with one label alone nothing is contrasted; add the other"
        in report
    )
    assert "2 empty responses (first: row 12, the completion is empty)" in report


def test_a_completion_labelled_true_and_false_is_reported_and_kept():
    yes, no, other = ("Answer:", " Yes", True), ("Answer:", " Yes", False), ("Answer :", " Yes", False)
    prepared = prepare(load_labelled(yes, other, no, no, yes))
    assert len(prepared.examples) == 5
    assert prepared.kept["contradiction"].rows == [13]
    assert prepared.kept["duplicate"].rows == [14, 15]
    assert (
        "  1 row that judges the responses of an earlier one otherwise, kept "
        "(first: row 13, row 11 labels the same completion otherwise)\n"
    ) in prepared.report
    assert "2 rows that repeat an earlier one, kept (first: row 14, as row 13)" in prepared.report


def test_responses_ranked_in_another_order_are_reported_and_kept():
    prepared = prepare(
        load_ranked(
            ("Answer:", " Yes", " No", " Yes No"),
            ("Answer:", " No", " Yes No", " Yes"),
            ("Answer:", " Yes", " No", " Yes No"),
            ("Answer:", " Yes", " No"),
        )
    )
    assert {kind: found.rows for kind, found in prepared.kept.items()} == {
        "contradiction": [12],
        "duplicate": [13],
    }
    assert "(first: row 12, row 11 has them in another order)" in prepared.report


def test_ranked_responses_are_counted_together_and_cost_a_padded_row_each():
    prepared = prepare(load_ranked(("Answer:", " Yes Yes", " Yes No No", " Yes"), ("Answer:", " No", " Yes")))
    text = prepared.report
    assert text.split("\n")[1:8] == [
        "  nothing dropped, cut, repeated, contradicted or tokenised apart",
        "  2.5 responses to a prompt on average, 3 at most",
        "  tokens                  mean       max",
        "  prompt                   2.0         2",
        "  responses                2.6         4",  # (3 + 4 + 2 + 2 + 2) / 5
        "  common beginning         0.5         1",
        # Less each last token: Answer : Yes, then Yes, then No No; and Answer : No Yes. Padded: 3 (2 + 4) + 2 (2 + 2).
        "  10 distinct tokens to compute; a padded row for each response would cost 26 (2.60 times as many)",
    ]
    assert "the first example (row 11) as the model sees it:\nprompt (2" in text
    assert (
        "\nall begin (1 token, all scored)\n   Yes\nrank 1 of 3 (2 tokens, all scored)\n   Yes│</s>\n" in text
    )


def test_a_ranked_row_with_identical_responses_is_refused_by_their_ranks():
    with pytest.raises(InputError) as raised:
        prepare(load_ranked(("Answer:", " Yes", " No", " Yes")))
    assert str(raised.value) == (
        "ranks.jsonl: 1 row cannot be used: 1 row with identical responses (first: row 11, response of rank 1 "
        "and response of rank 3 are the same). Fix it or drop it with data.invalid=drop."
    )
