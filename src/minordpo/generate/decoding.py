"""Answers of a batch, token by token, with less work than `generate()` has: the same tokens, sooner.

Three things make it quick. What all prompts begin with is computed once, and so is each prompt that stands twice. The
rest of the prompts runs as one packed row, without padding. And each pass reads several tokens of an answer: the next
one and guesses at those behind it, of which those are kept that the model itself would have given. Where weights are
read from memory for a few tokens, a pass of sixteen costs what a pass of four costs.

A guess never decides a token: each one is the model's own choice after the tokens before it. Passes of other shapes sum
products in another order, so logits equal those of `generate()` but for rounding, as those of another batch do.
Rounding moves a greedy token only at a tie, and a sampled one where its random number lies at the boundary of two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import Cache, PretrainedConfig, PreTrainedModel

_PASS = 64  # most tokens of a pass with guesses: on a CPU it takes some 3 times as long as one of 4 tokens
_TRUSTED = 4  # guesses that an expected answer is taken to have had right
_FEW = 8  # tokens of a pass up to which a product with the weights first is quicker
_WORTH_A_PASS = 32  # tokens that a common beginning has to spare
_CHUNK = 512  # most tokens of prompts in one row; each of them meets the keys of all the others
_BEYOND = 3  # longest context that a guess is looked up by, in tokens

# Logits (tokens, vocab), the row of each in the batch, its place in the answer → the chosen tokens.
Choice = Callable[[Tensor, Tensor, Tensor], Tensor]


def can_decode(model: PreTrainedModel, longest: int) -> bool:
    """Whether `decode` knows how this model attends, for sequences of at most so many tokens.

    Each token must see all those before it and nothing else: no state-space or convolution layers, no attention window
    that is shorter than the sequences, no layers that share keys, and a mask of our own must count.
    """
    config = model.config.get_text_config()
    takes = inspect.signature(model.forward).parameters
    return (
        bool(model._supports_attention_backend)
        and not model.config.is_encoder_decoder
        and not getattr(config, "num_kv_shared_layers", 0)
        and {"position_ids", "past_key_values", "logits_to_keep"} <= set(takes)
        and set(_layer_types(config)) <= {"full_attention", "sliding_attention", "chunked_attention"}
        and all(longest <= window for window in _windows(config))
    )


def _layer_types(config: PretrainedConfig) -> Sequence[str]:
    return getattr(config, "layer_types", None) or ()


def _windows(config: PretrainedConfig) -> list[int]:
    if set(_layer_types(config)) == {"full_attention"}:
        return []
    found = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return [each for each in found if isinstance(each, int)]


def common_beginning(prompts: Sequence[np.ndarray]) -> np.ndarray:
    """The tokens that all prompts begin with, at least one short of each prompt; none where that spares too few."""
    if len(prompts) < 2:
        return np.zeros(0, np.int64)
    shortest = min(map(len, prompts)) - 1
    heads = np.stack([np.asarray(prompt[:shortest], dtype=np.int64) for prompt in prompts])
    alike = (heads == heads[0]).all(axis=0)
    length = shortest if alike.all() else int(alike.argmin())
    return heads[0, : length if length * (len(prompts) - 1) >= _WORTH_A_PASS else 0]


class Beginning:
    """The common beginning of prompts, whose keys and values a model computes once, when they are first asked for."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, model: PreTrainedModel) -> dict[int, tuple[Tensor, Tensor]]:
        """Keys and values of each layer, (1, heads, tokens, size)."""
        if len(self) and not self.layers:
            slots = _Slots(1, len(self), {})
            _read_prompts(model, slots, [self.ids], 0)
            self.layers = {
                layer: (keys[:, :, :-1], values[:, :, :-1]) for layer, (keys, values) in slots.layers.items()
            }
        return self.layers


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    prompts: Sequence[np.ndarray],
    ends: frozenset[int],
    max_new_tokens: int,
    *,
    choose: Choice,
    beginning: Beginning,
    likely: Sequence[Sequence[int]] | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt, up to its first end token.

    All prompts begin with `beginning` and are longer. `likely` are answers that are expected, one a prompt: the nearer
    they are, the fewer passes it takes. The model is in eval mode with stock attention, and `can_decode` it.
    """
    places: dict[bytes, int] = {}
    which = [places.setdefault(prompt.tobytes(), len(places)) for prompt in prompts]
    distinct = [prompts[which.index(place)] for place in range(len(places))]
    slots = _Slots(len(distinct), max(map(len, prompts)) + max_new_tokens, beginning.of(model))
    logits = _read_prompts(model, slots, distinct, len(beginning))
    device = logits.device
    rows = torch.arange(len(prompts), device=device)
    copies = torch.tensor(which, device=device)
    if len(distinct) < len(prompts):
        slots.keep(copies)
    first = choose(logits[copies], rows, torch.zeros_like(rows)).tolist()
    vocab = model.config.get_text_config().vocab_size
    expected = [list(takewhile(lambda token: token < vocab, each)) for each in likely or [()] * len(prompts)]
    answers = [
        _Answer(row, prompt, expected[row], token)
        for row, (prompt, token) in enumerate(zip(prompts, first, strict=True))
    ]
    going = list(range(len(answers)))  # the answer of each row of slots
    while True:
        still = [place for place, row in enumerate(going) if answers[row].goes_on(ends, max_new_tokens)]
        if not still:
            return [answer.tokens for answer in answers]
        if len(still) < len(going):
            slots.keep(torch.tensor(still, device=device))
            going = [going[place] for place in still]
        # What is guessed well doubles the pass each time; where nothing is, a pass is the next token of each.
        trusted = sum(answers[row].streak for row in going) // len(going)
        width = max(1, min(1 + 2 * trusted, _PASS // len(going)))
        given = _pass(model, slots, [answers[row] for row in going], width, max_new_tokens, choose)
        for row, chosen in zip(going, given, strict=True):
            answers[row].take(chosen, ends)


class _Answer:
    """One answer so far, and guesses at what follows: what stood after the same tokens before."""

    def __init__(self, row: int, prompt: np.ndarray, likely: Sequence[int], first: int) -> None:
        self.row, self.prompt_length = row, len(prompt)
        self.seen = [*prompt.tolist(), *likely]
        self.index: dict[tuple[int, ...], int] = {}  # a context → where the token behind it stands
        for end in range(1, len(self.seen)):
            self._remember(end)
        self.follow: int | None = len(prompt) if likely else None
        # Behind the prompt once more, so that contexts reach back into it.
        self.seen += self.seen[max(0, len(prompt) - _BEYOND) : len(prompt)]
        self.tokens: list[int] = []
        self.guesses: list[int] = []
        # Guesses that were right one after the other, made use of or not.
        self.streak = _TRUSTED if likely else 0
        self._add(first)

    def _remember(self, end: int) -> None:
        for length in range(1, min(_BEYOND, end) + 1):
            self.index[tuple(self.seen[end - length : end])] = end

    def _add(self, token: int) -> None:
        following = self.follow is not None and self.follow < len(self.seen)
        right = following and self.seen[self.follow or 0] == token
        self.tokens.append(token)
        self._remember(len(self.seen))
        self.seen.append(token)
        if right:
            self.follow, self.streak = (self.follow or 0) + 1, self.streak + 1
            return
        self.streak = 0
        for length in range(_BEYOND, 0, -1):
            found = self.index.get(tuple(self.seen[-length:]))
            # A single token says little: one that stands where another was expected is taken for its substitute.
            if found is not None and (length > 1 or not following):
                self.follow = found
                return
        self.follow = (self.follow or 0) + 1 if following else None

    @property
    def position(self) -> int:
        """Of the last token, which no pass has read yet."""
        return self.prompt_length + len(self.tokens) - 1

    def goes_on(self, ends: frozenset[int], max_new_tokens: int) -> bool:
        """Whether another token follows the last one."""
        return self.tokens[-1] not in ends and len(self.tokens) < max_new_tokens

    def next_tokens(self, width: int, max_new_tokens: int) -> list[int]:
        """The last token, and guesses at those behind it."""
        room = min(width - 1, max_new_tokens - len(self.tokens) - 1)
        self.guesses = [] if self.follow is None else self.seen[self.follow : self.follow + room]
        return [self.tokens[-1], *self.guesses]

    def take(self, chosen: Sequence[int], ends: frozenset[int]) -> None:
        """Append what the model chose after the last token and after each guess that was right."""
        guesses = self.guesses
        pairs = zip(guesses, chosen, strict=False)
        right = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1] and pair[0] not in ends, pairs))
        for token in chosen[: right + 1]:
            self._add(token)


class _Slots(Cache):
    """Keys and values of each row's tokens, each at the slot of its position, so that a wrong guess is written over."""

    def __init__(self, rows: int, slots: int, beginning: dict[int, tuple[Tensor, Tensor]]) -> None:
        super().__init__(layers=[])
        self.rows, self.slots = rows, slots
        self.beginning = beginning
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}  # type: ignore[assignment]  # Cache has a list
        self.places: tuple[Tensor, Tensor] | None = None  # row and slot of each token of the pass
        self.visible: int | None = None  # slots that a pass of answers sees; None: the pass is of prompts

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows."""
        for layer, (keys, values) in self.layers.items():
            self.layers[layer] = keys[rows], values[rows]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep the new ones, and return those that the pass sees: the beginning and its own, or all of its rows."""
        new = (key_states, value_states)
        if layer_idx not in self.layers:
            self.layers[layer_idx] = self._empty(key_states), self._empty(value_states)
            for kept, begun in zip(self.layers[layer_idx], self.beginning.get(layer_idx, ()), strict=False):
                kept[:, :, : begun.shape[2]] = begun
        assert self.places is not None
        rows, slots = self.places
        for kept, states in zip(self.layers[layer_idx], new, strict=True):
            kept[rows, :, slots] = states.transpose(1, 2).flatten(0, 1)
        if self.visible is not None:
            keys, values = (kept[:, :, : self.visible] for kept in self.layers[layer_idx])
        elif self.beginning:
            keys, values = (
                torch.cat(both, dim=2) for both in zip(self.beginning[layer_idx], new, strict=True)
            )
        else:
            keys, values = new
        return keys, values

    def _empty(self, like: Tensor) -> Tensor:
        # One slot more than there are positions, for what fills a pass up.
        return like.new_zeros(self.rows, like.shape[1], self.slots + 1, like.shape[3])

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """0: positions and masks are given."""
        return 0


def _read_prompts(model: PreTrainedModel, slots: _Slots, prompts: Sequence[np.ndarray], begun: int) -> Tensor:
    """Read the prompts behind their first `begun` tokens; the logits after each, (prompts, vocab)."""
    logits, chunk = [], [0]
    for row in range(1, len(prompts) + 1):
        tokens = sum(len(prompts[each]) - begun for each in chunk)
        if row == len(prompts) or tokens + len(prompts[row]) - begun > _CHUNK:
            logits.append(_read_chunk(model, slots, prompts, chunk, begun))
            chunk = []
        chunk.append(row)
    return torch.cat(logits)


def _read_chunk(
    model: PreTrainedModel, slots: _Slots, prompts: Sequence[np.ndarray], chunk: list[int], begun: int
) -> Tensor:
    device = model.device
    lengths = torch.tensor([len(prompts[row]) - begun for row in chunk])
    ids = torch.from_numpy(np.concatenate([prompts[row][begun:] for row in chunk]).astype(np.int64))
    rows = torch.tensor(chunk).repeat_interleave(lengths)
    ends = lengths.cumsum(0)
    positions = begun + torch.arange(len(ids)) - (ends - lengths).repeat_interleave(lengths)
    own = (rows[:, None] == rows[None]) & (positions[:, None] >= positions[None])
    mask = torch.cat([own.new_ones(len(ids), begun), own], dim=1)
    slots.places, slots.visible = (rows.to(device), positions.to(device)), None
    return _forward(model, slots, ids[None], positions[None], mask[None, None], ends - 1)[0]


def _pass(
    model: PreTrainedModel,
    slots: _Slots,
    answers: Sequence[_Answer],
    width: int,
    max_new_tokens: int,
    choose: Choice,
) -> list[list[int]]:
    """One pass over the last token of each answer and guesses at those behind: what the model chooses after each."""
    given = [answer.next_tokens(width, max_new_tokens) for answer in answers]
    width = max(map(len, given))
    spare = slots.slots
    ids, positions, places = (torch.zeros(len(given), width, dtype=torch.long) for _ in range(3))
    for place, (answer, tokens) in enumerate(zip(answers, given, strict=True)):
        filled = len(tokens)
        ids[place, :filled] = torch.tensor(tokens)
        positions[place] = answer.position
        positions[place, :filled] += torch.arange(filled)
        places[place] = positions[place]
        places[place, filled:] = spare
    device = model.device
    visible = int(positions.max()) + 1
    mask = torch.arange(visible) <= positions[:, :, None]
    batch_rows = torch.arange(len(given)).repeat_interleave(width)
    slots.places, slots.visible = (batch_rows.to(device), places.flatten().to(device)), visible
    logits = _forward(model, slots, ids, positions, mask[:, None], 0)
    rows = torch.tensor([answer.row for answer in answers]).repeat_interleave(width).to(device)
    steps = torch.tensor([len(answer.tokens) for answer in answers])[:, None] + torch.arange(width)
    steps = steps.clamp_(max=max_new_tokens - 1).flatten().to(device)  # those beyond are of what fills up
    return choose(logits.flatten(0, 1), rows, steps).view(len(given), width).tolist()


def _forward(
    model: Any, slots: _Slots, ids: Tensor, positions: Tensor, mask: Tensor, kept: Tensor | int
) -> Tensor:
    device = model.device
    mask = mask.to(device)
    if model.config._attn_implementation == "eager":  # which adds the mask
        mask = torch.zeros_like(mask, dtype=model.dtype).masked_fill_(~mask, torch.finfo(model.dtype).min)
    with _FewTokens():
        logits = model(
            input_ids=ids.to(device),
            position_ids=positions.to(device),
            attention_mask=mask,
            past_key_values=slots,
            use_cache=True,
            logits_to_keep=kept.to(device) if isinstance(kept, Tensor) else kept,
        ).logits
    return logits.float()


class _FewTokens(TorchFunctionMode):
    """Inside, a CPU's float32 products of weights with two to eight tokens have the weights on the left.

    The BLAS library then does not copy them first: 0.7 → 0.44 ms for (1536, 576) and 30 → 14 ms for a head of 49,152
    tokens, at four tokens on one core of an EPYC without AVX-512.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The product, or whatever else is called."""
        if (
            func is torch.nn.functional.linear
            and not kwargs
            and args[2:] in ((), (None,))
            and _few(*args[:2])
        ):
            tokens, weight = args[:2]
            return (weight @ tokens.flatten(0, -2).t()).t().unflatten(0, tokens.shape[:-1])
        return func(*args, **(kwargs or {}))


def _few(tokens: Tensor, weight: Tensor) -> bool:
    return (
        weight.dtype == tokens.dtype == torch.float32
        and weight.device.type == "cpu"
        and 1 < tokens.numel() // tokens.shape[-1] <= _FEW
        and not torch.is_autocast_enabled("cpu")
    )
