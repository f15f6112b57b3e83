"""Which verifier a name stands for, its options, and verdicts."""

from __future__ import annotations

import pytest

from minordpo.errors import InputError
from minordpo.verify.options import OPTIONS_OF, VerifierOptions
from minordpo.verify.rules import NumberVerifier
from minordpo.verify.verdict import Asked, Verdict, in_words
from minordpo.verify.verifier import KINDS, Verifier, load_verifier, verifiers_in_words


def test_a_verifier_keeps_its_name_as_it_was_written():
    found = load_verifier("number:asked", allow_code=False)
    assert isinstance(found, NumberVerifier)
    assert isinstance(found, Verifier)
    assert found.spec == "number:asked"


def test_settings_tell_verifiers_apart():
    specs = ["number", "number:asked", "exact", "regex:a", "regex:b"]
    found = [load_verifier(spec, allow_code=False).settings() for spec in specs]
    assert all(found.count(each) == 1 for each in found)
    assert load_verifier("number:last", allow_code=False).settings() == found[0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "nubmer",
            r"^--verify is 'nubmer', which is no verifier \(did you mean number\?\)\. There are number, exact",
        ),
        ("nmber:asked", r"did you mean number\?"),
        ("", "which is no verifier. There are"),
        ("http://localhost:1", "which is no verifier"),
        ("judge", r"which has no URL\. Write judge:URL"),
        ("reward:", r"which names no model\. Write reward:PATH"),
        ("my_checks:one", r"so the module my_checks \(which is not on sys\.path .*--allow-code"),
        ("command:cat", r"^--verify is 'command:cat', so a program would be started\..*--allow-code"),
    ],
)
def test_a_wrong_name_and_code_without_leave_are_refused(spec: str, message: str):
    with pytest.raises(InputError, match=message):
        load_verifier(spec, allow_code=False)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (
            "number",
            {"judge_model": "m"},
            r"^--judge-model is of --verify judge:, but --verify is number\. Leave",
        ),
        ("exact", {"verify_timeout": 3}, r"^--verify-timeout is of --verify judge: and command:, but"),
        (
            "judge:http://x",
            {"verify_timeot": "m"},
            r"^--verify-timeot is no option .*\(did you mean verify_timeout\?\)",
        ),
        (
            "judge:http://x",
            {"judge_model": "m", "judge_mode": "pairs"},
            r"^--judge-mode is 'pairs'.*score or pairwise",
        ),
        ("judge:http://x", {"judge_model": " "}, r"^--judge-model is ' ', but the name"),
        ("judge:http://x", {}, r"must be told which model to ask\. Name it by --judge-model"),
        (
            "judge:http://x",
            {"judge_model": "m", "judge_concurrency": 0},
            r"whole number from 1 to 86,400 is needed",
        ),
        (
            "judge:http://x",
            {"judge_model": "m", "verify_timeout": float("nan")},
            r"^--verify-timeout is nan, but",
        ),
        ("reward:x", {"reward_batch_size": True}, r"^--reward-batch-size is True, but a whole number"),
        (
            "reward:x",
            {"reward_dtype": "float23"},
            r"is 'float23' \(did you mean float32\?\), but float32 or bfloat16",
        ),
        ("my:f", {"verify_timeout": 1}, "but --verify is a function"),
    ],
)
def test_options_of_others_and_impossible_values_are_refused(spec: str, options: dict, message: str):
    with pytest.raises(InputError, match=message):
        load_verifier(spec, allow_code=True, **options)


def test_every_option_belongs_to_a_verifier():
    names = set(VerifierOptions.__dataclass_fields__)
    assert names == {name for each in OPTIONS_OF.values() for name in each}
    assert set(OPTIONS_OF) <= set(KINDS)
    assert all(kind in verifiers_in_words() for kind in KINDS)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_verdict_is_finite(score: float):
    with pytest.raises(ValueError, match="finite"):
        Verdict(score=score, passed=None)


def test_half_a_character_in_a_note_does_not_reach_a_file():
    assert Verdict(score=1.0, passed=None, note="a\ud800b").note == "a?b"


def test_a_prompt_in_words_is_its_text_and_keeps_the_roles_of_several_messages():
    assert in_words("Why?") == in_words([{"role": "user", "content": "Why?"}]) == "Why?"
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert in_words(turns) == "[system]\nBe brief.\n\n[user]\nWhy?"
    assert Asked(row=7, prompt="Why?").where == "row 7 of the prompts"
