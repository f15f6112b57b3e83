"""A few fixed prompts answered greedily now and then: what the text is like, as a row of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minordpo.data.tokens import TokenExample, TokenResponse
from minordpo.generate.generation import Answer, generate_answers
from minordpo.generate.text_measures import MIN_LOOP, asked_line, last_number, measure
from minordpo.run_folder import records

LEAST_PROBES = 6  # of a run, after the one at step 0
MOST_BETWEEN = 100  # steps of a long run: the answers are then a few per cent of it (docs/monitor.md)

# Tokens of an answer, where they are not told. With fewer no cycle is called one; with more a text is judged as well.
LEAST_TOKENS, MOST_TOKENS = MIN_LOOP, 48

# Examples → the reference's log-probs of their tokens, in nats.
Reference = Callable[[Sequence[TokenExample]], Sequence[np.ndarray]]


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt as tokens; the number that answers it and the best response to it, where they are known."""

    ids: np.ndarray
    number: str | None = None
    best: TokenResponse | None = None


@dataclass(frozen=True, eq=False)
class Probe:
    """The prompts, and how they are answered."""

    tokenizer: PreTrainedTokenizerBase
    prompts: Sequence[Prompt]
    max_new_tokens: int

    def answer(
        self,
        model: PreTrainedModel | PeftModel,
        make: Callable[..., list[Answer]] = generate_answers,
        **options: Any,
    ) -> list[Answer]:
        """The answers; model and random states are left as they were. `options` go to `make`."""
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            return make(
                model,
                self.tokenizer,
                [prompt.ids for prompt in self.prompts],
                max_new_tokens=self.max_new_tokens,
                batch_size=len(self.prompts),
                **options,
            )

    def measures(
        self,
        answers: Sequence[Answer],
        first: Sequence[Sequence[int]] | None,
        reference: Reference | None = None,
        *,
        at_start: bool = False,
    ) -> list[dict[str, float]]:
        """What each answer is like; `first` are the tokens of those at step 0.

        With a reference also −log π_ref a token, in nats, where the answer is not empty, and `at_start` the same of the
        best response that the data has to the prompt, where it has one.
        """
        found = []
        for place, (answer, prompt) in enumerate(zip(answers, self.prompts, strict=True)):
            measured = measure(answer)
            if prompt.number is not None:
                measured[records.CORRECT] = float(is_right(answer, prompt.number))
            if first is not None:
                measured[records.DISTANCE] = distance(answer.token_ids, first[place])
            found.append(measured)
        if reference is not None:
            self._judge(found, records.REFERENCE_NLL, [answer.all_scored() for answer in answers], reference)
            if at_start:
                best = [prompt.best for prompt in self.prompts]
                self._judge(found, records.CHOSEN_NLL, best, reference)
        return found

    def _judge(
        self,
        found: list[dict[str, float]],
        name: str,
        responses: Sequence[TokenResponse | None],
        reference: Reference,
    ) -> None:
        there = {place: each for place, each in enumerate(responses) if each is not None and len(each.ids)}
        asked = [
            TokenExample(self.prompts[place].ids, (response,), (1.0,), row=place + 1)
            for place, response in there.items()
        ]
        for place, logps in zip(there, reference(asked) if asked else [], strict=True):
            found[place][name] = -float(logps.mean())

    def texts(
        self, step: int, answers: Sequence[Answer], measures: Sequence[Mapping[str, float]]
    ) -> list[dict[str, Any]]:
        """Rows of probes.jsonl, an answer with its measures each; prompts stand in those of step 0."""
        rows = []
        for number, (answer, measured) in enumerate(zip(answers, measures, strict=True), 1):
            rounded = {name: round(value, 6) for name, value in measured.items()}
            rows.append({"step": step, "prompt": number, **answer.row(), "measures": rounded})
        if step == 0:
            for row, prompt in zip(rows, self.prompts, strict=True):
                row["asked"] = self.tokenizer.decode(prompt.ids.tolist())
        return rows


def is_right(answer: Answer, number: str) -> bool:
    """Whether the answer is the number: in the line it was asked for, or last in an answer that ended by itself."""
    return asked_line(answer.text) == number or (answer.stopped and last_number(answer.text) == number)


def distance(answer: Sequence[int], other: Sequence[int]) -> float:
    """1 − 2·LCS / (both lengths): the share of tokens outside the longest common subsequence; 0 for equal answers.

    Source: the indel distance (Levenshtein's without substitutions), normalised by the lengths' sum.
    """
    if not len(answer) + len(other):
        return 0.0
    lengths = [0] * (len(other) + 1)
    for token in answer:
        diagonal = 0
        for place, each in enumerate(other, 1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if token == each else max(above, lengths[place - 1])
            diagonal = above
    return 1 - 2 * lengths[-1] / (len(answer) + len(other))


def probe_tokens(total: int, *, launched: bool) -> int:
    """The longest answer of a run of so many steps: what keeps six probes at about a twentieth of its time.

    A function of the steps alone, never of measured time, so that a resumed run decides alike. Reckoned for small
    models, whose probes cost most against their steps: on a processor a probe of T tokens took some (T + 8) / 80 steps,
    on a GPU, where each token waits for its `launched` kernels, it is some T / 20 (docs/monitor.md).
    """
    fitting = total // 6 if launched else 2 * total // 3 - 8
    return min(max(fitting, LEAST_TOKENS), MOST_TOKENS)


def is_due(step: int, total: int, every: int | str) -> bool:
    """Whether the prompts are answered after this step: each `every` steps, and at the run's last.

    "auto" is each sixth of the run, of a long one every 100 steps.
    """
    if step >= total:
        return True
    if isinstance(every, int):
        return step % every == 0
    if total > LEAST_PROBES * MOST_BETWEEN:
        return step % MOST_BETWEEN == 0
    # The steps that the sixths of the run end in; each step of a run of fewer.
    return step * LEAST_PROBES // total != (step - 1) * LEAST_PROBES // total


def prompts_of(
    examples: Iterable[TokenExample],
    tokenizer: PreTrainedTokenizerBase,
    count: int,
    *,
    most_tokens: int | None,
) -> list[Prompt]:
    """The first distinct prompts of at most that many tokens, where there is a limit.

    Where the best response ends in the line "So the answer is: N", as the pairs that `minordpo data corrupt` makes,
    answers can be checked by N.
    """
    found: dict[bytes, Prompt] = {}
    for example in examples:
        if len(found) == count:
            break
        if not 0 < len(example.prompt_ids) <= (most_tokens or len(example.prompt_ids)):
            continue
        number, best = None, None
        if example.grades[0] > 0:
            best = example.responses[0]
            text = tokenizer.decode(example.responses[0].ids.tolist(), skip_special_tokens=True)
            number = asked_line(str(text))
        found.setdefault(example.prompt_ids.tobytes(), Prompt(example.prompt_ids, number, best))
    return list(found.values())
