"""The verifier `reward:PATH`: the score of a reward model, a sequence classifier with one label."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jinja2
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from minordpo.engine.identity import model_identity
from minordpo.engine.models import load_reward_model, load_tokenizer
from minordpo.errors import InputError
from minordpo.verify.options import VerifierOptions, flag
from minordpo.verify.verdict import Asked, Groups, Verdict, Verdicts

_BATCHES_SORTED = 16  # so many batches' sequences are sorted by length together
_TRIED = 200  # rows whose prompts are rendered before anything slow


class RewardVerifier:
    """Prompt and answer as the reward model's own chat template writes them → its logit.

    A text prompt is a user's turn there. Without a template prompt and answer are one text, and chats are refused.
    The model is loaded when it is first needed; the score does not depend on the batch beyond rounding.

    Raises:
        InputError: no path is named.
    """

    passes = False
    compares = False

    def __init__(self, spec: str, path: str | None, options: VerifierOptions) -> None:
        if not path:
            raise InputError(
                f"--verify is {spec!r}, which names no model. Write reward:PATH, a folder or a hub id"
            )
        self.spec = spec
        self._path, self._dtype, self._batch_size = path, options.reward_dtype, options.reward_batch_size
        self._loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None

    def check(self, asked: Sequence[Asked]) -> None:
        """Load the model, and refuse prompts that its template cannot write."""
        model, tokenizer = self._model()
        for each in asked[:_TRIED]:
            self._tokens(each, "", tokenizer, model)

    def cost(self, groups: int, answers: int) -> str | None:
        """How many sequences the model reads."""
        return f"{self.spec}: {groups * answers:,} sequences, {self._batch_size} at a time"

    def settings(self) -> dict[str, Any]:
        """The model's identity and the precision; the batch size changes rounding alone."""
        return {"verifier": "reward", "model": model_identity(self._path), "dtype": self._dtype}

    def verdicts(self, groups: Groups) -> Verdicts:
        """The logits as scores, groups in their order; sequences of like length share a batch."""
        model, tokenizer = self._model()
        for some in _chunks(groups, self._batch_size * _BATCHES_SORTED):
            rows = [self._tokens(asked, text, tokenizer, model) for _, asked, texts in some for text in texts]
            scores = iter(_scores(model, rows, self._batch_size))
            for key, asked, texts in some:
                yield key, [self._verdict(asked, next(scores)) for _ in texts]

    def _verdict(self, asked: Asked, score: float) -> Verdict:
        if score - score != 0:  # not finite
            raise InputError(
                f"--verify {self.spec} gave an answer to {asked.where} the score {score}, but a finite number is "
                f"needed. Load the model with {flag('reward_dtype')} float32, or name another model"
            )
        return Verdict(score=score, passed=None)

    def _model(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self._loaded is None:
            model: Any = load_reward_model(self._path, dtype=self._dtype)
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._loaded = model.to(device), load_tokenizer(self._path)
        return self._loaded

    def _tokens(
        self, asked: Asked, answer: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> list[int]:
        if tokenizer.chat_template:
            turns = (
                [{"role": "user", "content": asked.prompt}]
                if isinstance(asked.prompt, str)
                else list(asked.prompt)
            )
            text = self._rendered(asked, [*turns, {"role": "assistant", "content": answer}], tokenizer)
        elif isinstance(asked.prompt, str):
            text = asked.prompt + answer
        else:
            raise InputError(
                f"{asked.where} is a chat, but the tokenizer of --verify {self.spec} has no chat template. Give text "
                "prompts, or name a reward model with a template"
            )
        # A template writes the special tokens itself.
        ids: list[int] = tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if not ids:
            raise InputError(f"an answer to {asked.where} and its prompt are empty together. Drop the row")
        if longest is not None and len(ids) > longest:
            raise InputError(
                f"an answer to {asked.where} is with its prompt {len(ids):,} tokens long, but --verify {self.spec} "
                f"reads {longest:,}. Drop the row, make shorter answers or name another reward model"
            )
        return ids

    def _rendered(self, asked: Asked, turns: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> str:
        try:
            return str(tokenizer.apply_chat_template(turns, tokenize=False))
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise InputError(
                f"the chat template of --verify {self.spec} fails on {asked.where}: {' '.join(str(error).split())}. "
                "Correct the row or the template"
            ) from error


def _chunks(groups: Groups, sequences: int) -> Iterator[list[tuple[int, Asked, Sequence[str]]]]:
    """Groups that have together at least so many answers; the last have fewer."""
    some, count = [], 0
    for group in groups:
        some.append(group)
        count += len(group[2])
        if count >= sequences:
            yield some
            some, count = [], 0
    if some:
        yield some


def _scores(model: PreTrainedModel, rows: Sequence[Sequence[int]], batch_size: int) -> list[float]:
    """The logit of each row, in their order."""
    scores = [0.0] * len(rows)
    by_length = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    for places in _batched(by_length, batch_size):
        for place, score in zip(places, _logits(model, [rows[place] for place in places]), strict=True):
            scores[place] = score
    return scores


def _batched(places: Iterable[int], size: int) -> Iterator[list[int]]:
    places = iter(places)
    while some := list(itertools.islice(places, size)):
        yield some


def _logits(model: PreTrainedModel, rows: Sequence[Sequence[int]]) -> list[float]:
    """The logit of each row of a batch, padded at the end.

    A classifier on a decoder reads its score at the last token that is not the config's padding token. Where the
    config names none, it is for this batch a token that no row ends with: then each score is read at the row's end.
    """
    config = model.config.get_text_config()
    padding, longest = config.pad_token_id, max(map(len, rows))
    chosen = padding
    if chosen is None:
        ends = {row[-1] for row in rows}
        chosen = next(each for each in itertools.count() if each not in ends)
    ids = torch.tensor([[*row, *[chosen] * (longest - len(row))] for row in rows], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
    config.pad_token_id = chosen
    try:
        with torch.inference_mode():
            return model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
    finally:
        config.pad_token_id = padding
