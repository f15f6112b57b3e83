"""`TokenExample` → lines for the terminal: what the model sees, token by token, and what of it is scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from minordpo.data.coder import Coder
from minordpo.data.packing import common_prefix
from minordpo.data.read.layout import Kind
from minordpo.data.tokens import TokenExample

_SHOWN = 60  # tokens of a stretch that are shown; a longer one is shortened in the middle
_MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍"}
_DIM, _BOLD, _OFF = "\x1b[2m", "\x1b[1m", "\x1b[0m"
_GREEN, _YELLOW, _RED = "\x1b[32m", "\x1b[33m", "\x1b[31m"


class TextPiece(NamedTuple):
    """The smallest run of tokens that is whole text: one token, or those that spell one character."""

    text: str
    tokens: int
    scored: bool


def show_example(
    example: TokenExample, tokenizer: PreTrainedTokenizerBase, *, kind: Kind, color: bool
) -> str:
    """The prompt, what all responses begin with, and each one's tail, as text for the terminal.

    Bars stand between tokens, ⏎ for a newline; special tokens are literal, control characters escaped. What
    is not scored is in ⟦brackets⟧, with `color` also dimmed. Long stretches are shortened in the middle.
    """
    prompt, (best, *_) = example.prompt_ids, example.responses
    shared = common_beginning(example)
    stretches = [("prompt", 0, prompt, np.zeros(len(prompt), np.bool_), "")]
    if shared:
        name = "both begin" if len(example.responses) == 2 else "all begin"
        stretches.append((name, len(prompt), best.ids[:shared], best.scored[:shared], _BOLD))
    for (name, hue), response in zip(_titles(example, kind), example.responses, strict=True):
        tail = response.ids[shared:], response.scored[shared:]
        stretches.append((name, len(prompt) + shared, *tail, hue))
    coder, path = Coder(tokenizer), np.concatenate([prompt, best.ids[:shared]])
    lines = []
    for name, start, ids, scored, hue in stretches:
        tokens = f"{len(ids)} token" + ("" if len(ids) == 1 else "s")
        how_many = "all" if scored.all() else int(scored.sum()) or "none"
        lines.append(f"{name} ({tokens}, {how_many} scored)" if len(ids) else f"{name} (no more tokens)")
        pieces = list(text_pieces(path[:start].tolist(), ids.tolist(), scored.tolist(), coder))
        lines.append("  " + _line(pieces, hue, color))
    return "\n".join(lines)


def common_beginning(example: TokenExample) -> int:
    """How many tokens all responses begin with; 0 where there is one response, which shares with none."""
    ids = [response.ids for response in example.responses]
    return common_prefix(ids) if len(ids) > 1 else 0


def _titles(example: TokenExample, kind: Kind) -> list[tuple[str, str]]:
    """What to call each response, and its colour."""
    if kind == "pairs":
        return [("chosen", _GREEN), ("rejected", _RED)]
    if kind == "labelled":
        desirable = example.grades[0] > 0
        return [("completion, labelled true", _GREEN) if desirable else ("completion, labelled false", _RED)]
    last = len(example.responses)
    hues = [_GREEN, *[_YELLOW] * (last - 2), _RED]
    return [(f"rank {rank} of {last}", hue) for rank, hue in enumerate(hues, 1)]


def text_pieces(before: list[int], ids: list[int], scored: list[bool], coder: Coder) -> Iterator[TextPiece]:
    """The ids as pieces of text. Each is decoded behind its left neighbours: alone, some lose their space."""
    path, first = before[-4:] + ids, len(before[-4:])
    for end in range(first + 1, len(path) + 1):
        left = path[max(0, first - 4) : first]
        text = coder.decode(left + path[first:end])
        # A character in several tokens (4 at most) decodes to a replacement character until the last one.
        if text.endswith("\ufffd") and end < len(path) and end - first < 4:
            continue
        known = len(coder.decode(left)) if left else 0
        yield TextPiece(text[known:], end - first, scored[end - len(path) - 1])
        first = end


def _line(pieces: Sequence[TextPiece], hue: str, color: bool) -> str:
    """The pieces in one line, the middle of a long stretch left out and counted."""
    head, tail = pieces[: _SHOWN // 2], pieces[-(_SHOWN // 2) :]
    total = sum(piece.tokens for piece in pieces)
    left_out = total - sum(piece.tokens for piece in (*head, *tail))
    if total <= _SHOWN or left_out <= 0:
        return _marked(pieces, hue, color)
    return f"{_marked(head, hue, color)} … {left_out} more … {_marked(tail, hue, color)}"


def _marked(pieces: Sequence[TextPiece], hue: str, color: bool) -> str:
    runs = []
    for scored, run in groupby(pieces, key=lambda piece: piece.scored):
        text = "│".join(_visible(piece.text) for piece in run)
        text = text if scored else f"⟦{text}⟧"
        runs.append(f"{hue if scored else _DIM}{text}{_OFF}" if color else text)
    return "".join(runs)


def _visible(text: str) -> str:
    """The text in one line, without characters that would steer the terminal."""
    return "".join(_MARKS.get(c, c if c.isprintable() else c.encode("unicode_escape").decode()) for c in text)
