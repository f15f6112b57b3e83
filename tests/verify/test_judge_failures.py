"""A judge that is down, late, busy or says something else: tried again where that may help, then told in one line."""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from helpers.judges import Judge, Sent, running, says
from minordpo.errors import InputError
from minordpo.run_folder import names
from minordpo.verify import judge_client
from minordpo.verify.judge_client import KEY_VARIABLE, _asked_wait
from minordpo.verify.verdict import Asked, Verdict
from minordpo.verify.verifier import Verifier, load_verifier

ASKED = Asked(row=12, prompt="How much is 6 * 7?")
HTML = Sent(b"<html><body>Bad\nGateway</body></html>")
BUSY = Sent(b'{"error": "slow down"}', status=429)


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MINORDPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(judge_client, "FIRST_WAIT", 0.01)


def verifier(judge: Judge, **options) -> Verifier:
    given = {"judge_model": "m", "judge_retries": 2, "verify_timeout": 0.5} | options
    return load_verifier(f"judge:{judge.url}", allow_code=False, **given)


def in_turn(*replies: Sent | str) -> Callable[..., Sent | str]:
    """Each request gets the next reply, and all after them the last."""
    left = list(replies)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


PASSING = [
    Sent(b"down", status=500),
    Sent(status=503),
    BUSY,
    HTML,
    Sent(b"{}"),
    Sent(b'{"choices": [{"message": {"content": null}}]}'),
    says("I would rather not say."),
    Sent(closes=True),
    replace(says("Score: 4"), cut=True),
    replace(says("Score: 4"), late=1.0),
    Sent(dribbles=True),
]


@pytest.mark.parametrize("reply", PASSING, ids=range(len(PASSING)))
def test_what_may_pass_is_tried_again(reply: Sent):
    with running(in_turn(reply, "Score: 8")) as judge:
        assert list(verifier(judge).verdicts([(0, ASKED, ["x"])])) == [
            (0, [Verdict(score=8.0, passed=None, note="Score: 8")])
        ]
    assert len(judge.asked) == 2


TOLD = [
    (
        Sent(b"down", status=500),
        r"status 500 and 'down' \(asked 3 times\)\. Look at the judge's log",
        3,
    ),
    (BUSY, r"status 429 and .*slow down.*\. Lower --judge-concurrency, or raise --judge-retries", 3),
    (HTML, r"it replied with what is no JSON, '<html><body>Bad Gateway.* Check that the URL", 3),
    (Sent(b"[1]"), r"its reply has no text at choices\[0\]\.message\.content: '\[1\]'", 3),
    (
        says("Seven."),
        r"does not end with a line such as 'Score: 7', but with 'Seven\.' .*--judge-model that keeps",
        3,
    ),
    (Sent(closes=True), r"the connection failed \(.*\)\. Start the judge, or correct its URL", 3),
    (replace(says("Score: 4"), cut=True), r"the connection failed \(IncompleteRead", 3),
    (
        replace(says("Score: 4"), late=1.0),
        r"it did not reply within 0\.5 seconds .*Raise --verify-timeout",
        3,
    ),
    (Sent(dribbles=True), r"it did not reply within 0\.5 seconds", 3),
    (
        Sent(b"who are you?", status=401),
        rf"status 401 and .*\(asked once\)\. Set .*variable {KEY_VARIABLE}",
        1,
    ),
    (Sent(status=404), r"it replied with status 404 \(asked once\)\. Correct the URL or --judge-model", 1),
    (
        Sent(status=307, headers={"Location": "http://elsewhere/"}),
        r"status 307, which points to http://elsewhere/",
        1,
    ),
]


@pytest.mark.parametrize(("reply", "message", "count"), TOLD, ids=range(len(TOLD)))
def test_what_does_not_pass_is_told_in_one_line_with_the_url_and_the_row(
    reply: Sent, message: str, count: int
):
    with running(lambda _: reply) as judge:
        with pytest.raises(InputError, match=message) as raised:
            list(verifier(judge).verdicts([(0, ASKED, ["x"])]))
        assert len(judge.asked) == count
    said = str(raised.value)
    assert said.startswith(
        f"the judge at {judge.url}/v1/chat/completions gave no verdict on an answer to row 12 of"
    )
    assert said.endswith(". Verdicts that came are kept")
    assert "\n" not in said


def test_a_judge_that_is_down_is_found_before_anything_slow():
    with running(in_turn("Score: 1")) as judge:
        pass
    with pytest.raises(
        InputError, match=r"no verdict on a question it is tried on: the connection failed .*refused"
    ):
        verifier(judge, judge_retries=5).check([ASKED])


def test_verdicts_that_came_stay_when_a_later_one_fails(tmp_path):
    def fails_on_y(asked) -> Sent | str:
        return Sent(status=400) if "\ny\n" in asked.text else "Score: 6"

    with running(fails_on_y) as judge:
        verdicts = verifier(judge, judge_concurrency=1).verdicts([(0, ASKED, ["x"]), (1, ASKED, ["y"])])
        with pytest.raises(InputError, match="status 400"):
            list(verdicts)
        assert len(judge.asked) == 2
        judge.script = lambda _: "Score: 6"
        assert len(list(verifier(judge).verdicts([(0, ASKED, ["x"]), (1, ASKED, ["y"])]))) == 2
        assert len(judge.asked) == 3
    assert len(list((tmp_path / "cache" / names.CACHED_VERDICTS).rglob("*.json"))) == 2


def test_a_failure_ends_the_run_without_waiting_for_the_others():
    def script(asked) -> Sent | str:
        return Sent(status=400) if "\ny\n" in asked.text else replace(says("Score: 6"), late=3.0)

    with running(script) as judge:
        began = time.monotonic()
        with pytest.raises(InputError, match="status 400"):
            list(verifier(judge, verify_timeout=5).verdicts([(0, ASKED, ["x", "z"]), (1, ASKED, ["y"])]))
        assert time.monotonic() - began < 2


def test_a_server_says_how_long_to_wait():
    with running(in_turn(replace(BUSY, headers={"Retry-After": "0.4"}), "Score: 8")) as judge:
        list(verifier(judge).verdicts([(0, ASKED, ["x"])]))
    first, second = judge.asked
    assert second.at - first.at > 0.39


def test_a_time_to_come_back_is_read_in_seconds_or_as_a_date():
    assert _asked_wait("3") == 3.0
    assert _asked_wait(email.utils.formatdate(time.time() + 100, usegmt=True)) == pytest.approx(100, abs=3)
    assert _asked_wait(email.utils.formatdate(time.time() - 100, usegmt=True)) == 0.0
    assert _asked_wait("1e99") == judge_client.LONGEST_ASKED_WAIT
    assert [_asked_wait(each) for each in (None, "soon", "nan")] == [None, None, None]


def test_waits_grow():
    waits = [judge_client._wait(tried, judge_client._Failure("", "")) for tried in range(20)]
    assert all(0.005 * 2**n <= each <= 0.01 * 2**n for n, each in enumerate(waits[:12]))
    assert max(waits) <= judge_client.LONGEST_WAIT


def test_a_server_that_quotes_the_key_does_not_get_it_into_a_message(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret-1")
    with (
        running(lambda _: Sent(b"no such key: sk-secret-1", status=401)) as judge,
        pytest.raises(InputError, match=rf"no such key: \[{KEY_VARIABLE}\]") as raised,
    ):
        list(verifier(judge).verdicts([(0, ASKED, ["x"])]))
    assert "sk-secret-1" not in str(raised.value)


def test_a_redirect_is_not_followed():
    with running(lambda _: "Score: 8") as other:
        redirect = Sent(status=302, headers={"Location": f"{other.url}/v1/chat/completions"})
        with (
            running(lambda _: redirect) as judge,
            pytest.raises(InputError, match="Name that URL if you trust it"),
        ):
            list(verifier(judge).verdicts([(0, ASKED, ["x"])]))
    assert other.asked == []


def test_threads_end_with_the_verdicts():
    before = threading.active_count()
    with running(lambda _: "Score: 8") as judge:
        list(verifier(judge).verdicts([(0, ASKED, ["x"])]))
    for _ in range(100):
        if threading.active_count() <= before:
            break
        time.sleep(0.02)
    assert threading.active_count() <= before
