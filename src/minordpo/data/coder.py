"""Text to ids and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from minordpo.data.read.accounting import RowProblem
from minordpo.data.rendering import Response
from minordpo.errors import InputError


class Coder:
    """Text to ids and back, with all that depends on the tokenizer's habits."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str] = ()):
        self.tokenizer = tokenizer
        self._texts = texts  # plain-text rows, to find `lead` with

    def encode(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """The ids of each text, special tokens in the text recognised and none added."""
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        if self._starts is None:
            return dict(zip(distinct, self.encode_whole(distinct), strict=True))
        # A prompt is in the text of each of its responses, and a system message in every prompt: each once.
        split = [self.cut(text) for text in distinct]
        pieces = list(dict.fromkeys(chain.from_iterable(split)))
        found = self.tokenizer.backend_tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        ids = dict(zip(pieces, [each.ids for each in found], strict=True))
        return {
            text: list(chain.from_iterable([ids[piece] for piece in each]))
            for text, each in zip(distinct, split, strict=True)
        }

    def cut(self, text: str) -> list[str]:
        """The text in parts whose ids, one after the other, are its own."""
        if self._starts is None:
            return [text]
        places = [0, *(found.start() for found in self._starts.finditer(text) if found.start()), len(text)]
        return [text[a:b] for a, b in pairwise(places)]

    def encode_whole(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, which the tokenizer is given as it is."""
        # verbose=False: lengths are ours to judge, by data.max_length and not by tokenizer.model_max_length.
        encoded = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        found: list[list[int]] = encoded["input_ids"]
        return found

    @cached_property
    def _starts(self) -> re.Pattern[str] | None:
        """The special tokens in front of which a text may be cut and tokenised in parts.

        The tokenizers library takes its added tokens out of a text first and treats what lies between them by itself.
        A special token is such a place if it can overlap no other added token and takes no space from its left. None
        where there is no such token, or the tokenizer is none of that library's as it comes.
        """
        tokenizer: Any = self.tokenizer
        plain = isinstance(tokenizer, PreTrainedTokenizerFast)
        if not plain or type(tokenizer)._encode_plus is not PreTrainedTokenizerFast._encode_plus:
            return None
        backend = tokenizer.backend_tokenizer
        if (
            tokenizer.split_special_tokens
            or backend.encode_special_tokens
            or backend.padding
            or backend.truncation
        ):
            return None
        added = list(tokenizer.added_tokens_decoder.values())
        safe = [each.content for each in added if _may_start(each, added)]
        return re.compile("|".join(map(re.escape, safe))) if safe else None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of the ids, special tokens literal."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    @cached_property
    def lead(self) -> list[int]:
        """The special tokens that the tokenizer puts before a plain text: mostly a BOS or none."""
        text = self._texts[0]
        plain = self.encode([text])[text]
        with_specials = self.tokenizer(text, return_attention_mask=False, verbose=False)["input_ids"]
        for start in range(len(with_specials) - len(plain) + 1):
            if with_specials[start : start + len(plain)] == plain:
                return list(with_specials[:start])
        raise InputError(
            f"the tokenizer {self.tokenizer.name_or_path!r} tokenises {text[:40]!r} differently with its "
            "special tokens and without, so where a text prompt ends is unknown. Give the rows as chats."
        )

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that no ordinary text has."""
        # all_special_ids has the named ones only (no <|eot_id|> of Llama 3), the decoder every added token.
        added = self.tokenizer.added_tokens_decoder
        return frozenset(self.tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}

    def encode_apart(self, prompt_ids: list[int], response: Response, joint: list[int]) -> list[list[int]]:
        """The ids of the response's pieces, each tokenised as the continuation of what stands before it.

        Raises: RowProblem if the pieces do not add up to the whole text.
        """
        wanted = self.decode(joint)
        # SentencePiece models put a space before every text. After a harmless character, which is then taken
        # away, they do not; whether that worked shows in the decoded text.
        for anchor in ("", "\n", ":", "a"):
            ids = self.encode([anchor, *(anchor + piece for piece in response.pieces)])
            start = ids[anchor]
            found = [ids[anchor + piece] for piece in response.pieces]
            if all(piece[: len(start)] == start for piece in found):
                pieces = [piece[len(start) :] for piece in found]
                if self.decode([*prompt_ids, *(i for piece in pieces for i in piece)]) == wanted:
                    return pieces
        raise RowProblem(
            "boundary",
            f"a token straddles {response.around}, and the tokenizer cannot take the two sides apart. "
            "Move the end of the prompt to a word's end",
        )


def _may_start(token: AddedToken, added: Sequence[AddedToken]) -> bool:
    """Whether the tokenizer finds this token wherever its text stands, whatever stands around it."""
    if not token.special or token.normalized or token.lstrip or token.single_word:
        return False
    return not any(_overlap(token.content, each.content) for each in added)


def _overlap(one: str, other: str) -> bool:
    """Whether a text can hold both in such a way that they share a character and are not the same."""
    longest = min(len(one), len(other))
    ends = range(1, longest + (one != other))
    inside = one != other and (one in other or other in one)
    return inside or any(one.endswith(other[:n]) or other.endswith(one[:n]) for n in ends)
