"""The verifier `judge:URL`: a model behind a chat endpoint scores each answer, or compares every two of a prompt."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import xxhash

from minordpo.errors import InputError
from minordpo.generate.text_measures import without_controls
from minordpo.run_folder.names import CACHED_VERDICTS, cache_folder
from minordpo.verify import judge_prompts as prompts
from minordpo.verify.judge_client import JudgeClient, shown
from minordpo.verify.options import VerifierOptions, flag
from minordpo.verify.verdict import Asked, Groups, Verdict, Verdicts, in_words
from minordpo.verify.verdict_cache import VerdictCache

_QUEUED = 2  # requests a thread that are sent or wait for it
_CHECKED = Asked(row=0, prompt="How much is 2 + 2?")
_CHECKED_ANSWERS = ("It is 4.", "It is 5.")


@dataclass(frozen=True)
class _Mode:
    """How a judge is asked, and how its verdict is read."""

    template: str
    form: str
    read: Callable[[str], object]
    requests: Callable[[Asked, Sequence[str]], list[str | None]]  # None: settled without the judge
    verdicts: Callable[[Sequence[str], Sequence[str | None]], list[Verdict]]  # of answers and replies
    count: Callable[[int], int]  # requests for so many answers


@dataclass(frozen=True, eq=False)
class _Group:
    key: int
    answers: Sequence[str]
    replies: list[Future[str] | None]

    @property
    def missing(self) -> list[Future[str]]:
        """Replies that are not there yet."""
        return [each for each in self.replies if each is not None and not each.done()]


class JudgeVerifier:
    """Scores by a judge, several requests at a time; replies are kept in the cache by the content of the request.

    Raises:
        InputError: no URL or model is named, or they cannot be used.
    """

    passes = False

    def __init__(self, spec: str, url: str | None, options: VerifierOptions) -> None:
        if not url:
            raise InputError(
                f"--verify is {spec!r}, which has no URL. Write judge:URL, as judge:http://localhost:8000"
            )
        if options.judge_model is None:
            raise InputError(
                f"--verify is {spec!r}, but the endpoint must be told which model to ask. Name it by "
                f"{flag('judge_model')}"
            )
        self.spec = spec
        self.compares = options.judge_mode == "pairwise"
        self._options, self._mode = options, _MODES[options.judge_mode]
        self._client = JudgeClient(
            url,
            options.judge_model,
            seconds=float(options.verify_timeout),
            retries=options.judge_retries,
            max_tokens=options.judge_max_tokens,
        )
        self._cache = VerdictCache(cache_folder() / CACHED_VERDICTS)

    def check(self, asked: Sequence[Asked]) -> None:
        """Ask the judge about a made-up answer, unless its reply is in the cache; it is tried twice at most."""
        request = self._mode.requests(_CHECKED, _CHECKED_ANSWERS)[0]
        assert request is not None
        if self._kept(request) is None:
            tries = min(1, self._options.judge_retries)
            self._ask(request, "a question it is tried on", threading.Event(), retries=tries)

    def cost(self, groups: int, answers: int) -> str | None:
        """How many requests are sent where none is in the cache."""
        count = groups * self._mode.count(answers)
        return f"judge: at most {count:,} requests at {shown(self._client.url)}"

    def settings(self) -> dict[str, Any]:
        """The endpoint, the model, the mode, and a digest of what the judge is asked."""
        return {
            "verifier": "judge",
            "url": self._client.url,
            "model": self._client.model,
            "mode": self._options.judge_mode,
            "prompt": xxhash.xxh3_128_hexdigest((self._mode.template + prompts.RIGHT_ANSWER).encode()),
        }

    def verdicts(self, groups: Groups) -> Verdicts:
        """Of each group once all its replies are there; identical requests are sent once."""
        threads = _Threads(self._options.judge_concurrency)
        stopped = threading.Event()
        sent: dict[str, Future[str]] = {}  # by the cache's key, until it is done
        waiting: list[_Group] = []
        try:
            for key, asked, answers in groups:
                waiting.append(self._sent((key, asked, answers), sent, threads, stopped))
                while True:
                    yield from self._finished(waiting)
                    for name in [name for name, each in sent.items() if each.done()]:
                        del sent[name]
                    if len(sent) < _QUEUED * self._options.judge_concurrency:
                        break
                    wait(sent.values(), return_when=FIRST_COMPLETED)
            while waiting:
                wait([each for group in waiting for each in group.missing], return_when=FIRST_COMPLETED)
                yield from self._finished(waiting)
        finally:
            stopped.set()
            threads.end()

    def _sent(
        self,
        group: tuple[int, Asked, Sequence[str]],
        sent: dict[str, Future[str]],
        threads: _Threads,
        stopped: threading.Event,
    ) -> _Group:
        """The group with a future of each reply; once `stopped` is set, no request is tried again."""
        key, asked, answers = group
        if self._options.judge_mode == "pairwise" and len(answers) < 2:
            raise InputError(
                f"{asked.where} has {len(answers)} answers, but {flag('judge_mode')} pairwise compares two or more. "
                "Make more, or take the mode score"
            )
        replies: list[Future[str] | None] = []
        for request in self._mode.requests(asked, answers):
            if request is None:
                replies.append(None)
                continue
            name = self._key(request)
            reply = sent.get(name)
            if reply is None:
                kept = self._kept(request)
                if kept is not None:
                    reply = Future()
                    reply.set_result(kept)
                else:
                    what = f"an answer to {asked.where}"
                    reply = sent[name] = threads.submit(partial(self._ask, request, what, stopped))
            replies.append(reply)
        return _Group(key, answers, replies)

    def _finished(self, waiting: list[_Group]) -> Verdicts:
        """The verdicts of groups that are done, which are taken out; an error of any reply is raised at once."""
        for group in list(waiting):
            for each in group.replies:
                if each is not None and each.done() and each.exception() is not None:
                    each.result()
            if not group.missing:
                waiting.remove(group)
                replies = [None if each is None else each.result() for each in group.replies]
                yield group.key, self._mode.verdicts(group.answers, replies)

    def _key(self, request: str) -> str:
        return self._cache.key(self._client.url, self._options.judge_mode, self._client.body(request))

    def _kept(self, request: str) -> str | None:
        """The reply in the cache, if there is one that can be read."""
        reply = self._cache.get(self._key(request))
        return None if reply is None or self._mode.read(reply) is None else reply

    def _ask(self, request: str, what: str, stopped: threading.Event, *, retries: int | None = None) -> str:
        reply = self._client.ask(
            request, what=what, form=self._mode.form, read=self._mode.read, stopped=stopped, retries=retries
        )
        self._cache.put(self._key(request), reply)
        return reply


# ---- one answer at a time ----
def _score_requests(asked: Asked, answers: Sequence[str]) -> list[str | None]:
    question = in_words(asked.prompt)
    return [prompts.score_request(question, asked.answer, answer) for answer in answers]


def _score_verdicts(answers: Sequence[str], replies: Sequence[str | None]) -> list[Verdict]:
    found = []
    for reply in replies:
        score = prompts.read_score(reply or "")
        assert score is not None
        found.append(Verdict(score=float(score), passed=None, note=without_controls((reply or "").strip())))
    return found


# ---- every two answers, in both orders ----
def _orders(answers: int) -> Iterator[tuple[int, int]]:
    """Each two answers, then the same two in the other order."""
    for first, second in itertools.combinations(range(answers), 2):
        yield first, second
        yield second, first


def _pairwise_requests(asked: Asked, answers: Sequence[str]) -> list[str | None]:
    """None for two answers of one text, which are a tie."""
    question = in_words(asked.prompt)
    return [
        prompts.pairwise_request(question, asked.answer, answers[first], answers[second])
        if answers[first] != answers[second]
        else None
        for first, second in _orders(len(answers))
    ]


def _pairwise_verdicts(answers: Sequence[str], replies: Sequence[str | None]) -> list[Verdict]:
    """An answer's score is its mean over the others: 1 where it wins in both orders, 0 where it loses, else 1/2."""
    points: list[list[float]] = [[] for _ in answers]
    read = [None if reply is None else prompts.read_better(reply) for reply in replies]
    for place, (first, second) in enumerate(itertools.combinations(range(len(answers)), 2)):
        both = read[2 * place], read[2 * place + 1]
        point = 1.0 if both == ("a", "b") else 0.0 if both == ("b", "a") else 0.5
        points[first].append(point)
        points[second].append(1 - point)
    return [
        Verdict(
            score=sum(each) / len(each),
            passed=None,
            note=f"{each.count(1.0)} won, {each.count(0.5)} tied, {each.count(0.0)} lost",
        )
        for each in points
    ]


_MODES = {
    "score": _Mode(
        prompts.SCORE_PROMPT,
        prompts.SCORE_FORM,
        prompts.read_score,
        _score_requests,
        _score_verdicts,
        lambda answers: answers,
    ),
    "pairwise": _Mode(
        prompts.PAIRWISE_PROMPT,
        prompts.PAIRWISE_FORM,
        prompts.read_better,
        _pairwise_requests,
        _pairwise_verdicts,
        lambda answers: answers * (answers - 1),
    ),
}


class _Threads:
    """Threads that do jobs; a process may end while they wait for a judge, unlike those of `concurrent.futures`."""

    def __init__(self, count: int) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[str], Callable[[], str]] | None] = queue.SimpleQueue()
        self._count = count
        for _ in range(count):
            threading.Thread(target=self._work, daemon=True).start()

    def submit(self, job: Callable[[], str]) -> Future[str]:
        """The job's result, when there is one."""
        future: Future[str] = Future()
        self._jobs.put((future, job))
        return future

    def end(self) -> None:
        """Forget jobs that have not begun; threads end with the job they are at."""
        while True:
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, do = job
            try:
                future.set_result(do())
            except BaseException as error:  # it is raised where the result is asked for
                future.set_exception(error)
