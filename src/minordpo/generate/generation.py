"""Prompts → answers: the most likely ones, or samples from the model's own distribution."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xxhash
from peft import PeftModel
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from minordpo.data.coder import Coder
from minordpo.data.tokens import TokenResponse
from minordpo.engine.attention import attention_switched, stock_implementation
from minordpo.engine.device import out_of_memory
from minordpo.engine.models import causal_model
from minordpo.errors import InputError
from minordpo.generate.decoding import Beginning, can_decode, common_beginning, decode


@dataclass(frozen=True)
class Answer:
    """One generated answer."""

    text: str  # without special tokens
    token_ids: tuple[int, ...]  # without the end token
    stopped: bool  # ended by an end token, not by the length limit
    tokens: int  # generated, the end token counted
    end_token: int | None = None  # the one that ended it

    @property
    def response_ids(self) -> tuple[int, ...]:
        """All generated tokens, the end token included: what has a log-prob."""
        return self.token_ids if self.end_token is None else (*self.token_ids, self.end_token)

    def row(self) -> dict[str, Any]:
        """Return the answer's part of a row of samples.jsonl or probes.jsonl."""
        return {
            "answer": self.text,
            "stopped": self.stopped,
            "tokens": self.tokens,
            "token_ids": list(self.token_ids),
        }

    def all_scored(self) -> TokenResponse:
        """The answer as a response whose every token is scored, the end token too."""
        return TokenResponse(np.array(self.response_ids, np.int32), np.ones(len(self.response_ids), np.bool_))


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are drawn: from the whole distribution, sharpened below a temperature of 1.

    A row's random numbers follow from seed, prompt and the sample's number alone, so an answer does not depend on
    which others are drawn with it, nor on where a run is cut (but for a batch's rounding of the logits, which
    rarely moves a token). A longer `max_new_tokens` continues the same answer; an equal prompt gets an equal one.
    """

    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise InputError(
                f"temperature is {self.temperature:g}, but samples need a number above 0. Raise it, or generate "
                "the most likely answers instead."
            )
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}, but at least 0 is needed. Raise it.")


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How answers are made: greedily, unless there is `sampling`, and then several of a prompt where `samples` are.

    A batch has at most `batch_size` rows and `token_budget` tokens, the longest prompt and a whole answer counted
    for every row.

    Raises:
        InputError: a size below 1.
    """

    max_new_tokens: int
    batch_size: int = 8
    token_budget: int | None = None
    sampling: Sampling | None = None
    samples: int = 1
    # An answer that is expected of each prompt, such as that of a model alike. It changes how long it takes, no token.
    likely: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "token_budget", "samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, but at least 1 is needed. Raise it.")


def generate_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    *,
    progress: str | None = None,
    on_answer: Callable[[], None] = lambda: None,
    **options: Any,
) -> list[Answer]:
    """The answers of `stream_answers` in the order of `prompts`, the samples of a prompt together.

    `options` are those of `GenerationOptions`. `progress` names the progress bar; None shows none. `on_answer` is
    called once an answer, when its batch has ended.
    """
    made = GenerationOptions(**options)
    total = len(prompts) * made.samples
    answers: dict[int, Answer] = {}
    with tqdm(total=total, desc=progress, unit="answer", disable=progress is None) as bar:
        for row, answer in stream_answers(model, tokenizer, prompts, made):
            answers[row] = answer
            bar.update()
            on_answer()
    return [answers[row] for row in range(total)]


def stream_answers(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[np.ndarray],
    options: GenerationOptions,
    *,
    done: Collection[int] = frozenset(),
) -> Generator[tuple[int, Answer], None, None]:
    """(row, answer) as each batch ends, row = prompt · samples + sample; the longest prompts come first.

    Rows in `done` are left out: answers that were made before a run was cut.
    Nothing of the model's generation_config is used but its end tokens: a
    repetition penalty or a suppressed token would hide what the model does. Between batches the model is as it
    was found, its modes and flags included.

    What the prompts begin with alike is computed once (`decoding`), where the model's attention is as `can_decode`
    knows it; others are answered by their own `generate()`, which gives the same tokens more slowly.

    Where memory runs out, a batch is made again in halves, which is said on the error output.

    Raises:
        InputError: an empty prompt, one of another vocabulary, one that leaves no room for the answer or does not fit
            into memory alone, or an adapter outside the weights.
    """
    base = causal_model(model)
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        raise InputError(
            f"the adapter is of type {model.active_peft_config.peft_type.value}, but only one inside the "
            "weights can be generated with. Use LoRA."
        )
    max_new_tokens, batch_size, samples = options.max_new_tokens, options.batch_size, options.samples
    refuse_prompts(base.config.get_text_config(), prompts, max_new_tokens)
    ends = end_tokens(base, tokenizer)
    # The longest first: what does not fit into memory fails at once, and the time left is not underestimated.
    left = set(range(len(prompts) * samples)).difference(done)
    order = sorted(left, key=lambda row: (-len(prompts[row // samples]), row))
    beginning = Beginning(common_beginning([prompts[row // samples] for row in order]))
    start = 0
    while start < len(order):
        whole = len(prompts[order[start] // samples]) + max_new_tokens
        fitting = batch_size if options.token_budget is None else max(1, options.token_budget // whole)
        batch = order[start : start + min(batch_size, fitting)]
        given = [prompts[row // samples] for row in batch]
        draw = None
        if options.sampling is not None:
            draw = _Draw(given, [row % samples for row in batch], options.sampling, max_new_tokens)
        likely = None if options.likely is None else [options.likely[row // samples] for row in batch]
        with _ready_to_generate(model):
            rows = _continue(base, given, ends, max_new_tokens, draw, beginning, likely)
        if rows is None:
            batch_size = len(batch) // 2
            tqdm.write(
                f"memory ran out: answers are made {batch_size} at a time from now on", file=sys.stderr
            )
            continue
        start += len(batch)
        yield from ((row, read_answer(ids, ends, tokenizer)) for row, ids in zip(batch, rows, strict=True))


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """What ends an answer: generation_config's end tokens, the tokenizer's, the template's end of turn."""
    return ends_of(model.generation_config, tokenizer)


def ends_of(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The end tokens of a model with that generation_config, whose weights need not be loaded."""
    configured = config.eos_token_id if config is not None else None
    ids = configured if isinstance(configured, list) else [configured]
    ids = [*ids, tokenizer.eos_token_id, _end_of_turn(tokenizer)]
    return frozenset(i for i in ids if i is not None and i >= 0)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The first special token that the chat template writes after an assistant's answer."""
    if not tokenizer.chat_template:
        return None
    answer = "An answer."
    turns = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": answer}]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template may refuse these turns, with whatever error; then the eos has to do
        return None
    _, found, after = str(rendered).rpartition(answer)
    following = tokenizer.encode(after, add_special_tokens=False) if found else []
    special = Coder(tokenizer).special_ids
    return next((i for i in following if i in special), None)


def refuse_prompts(
    config: PretrainedConfig,
    prompts: Sequence[np.ndarray],
    max_new_tokens: int,
    *,
    where: Sequence[str] | None = None,
) -> None:
    """Check that a text model of that config can answer the prompts.

    `where` names each prompt in messages; without it prompts are counted from 1.

    Raises:
        InputError: an empty prompt, one of another vocabulary, or one that leaves no room for the answer.
    """
    vocab = config.vocab_size
    room = getattr(config, "max_position_embeddings", None)
    for place, prompt in enumerate(prompts):
        said = f"prompt {place + 1}" if where is None else where[place]
        if len(prompt) == 0:
            raise InputError(
                f"{said} has no tokens, but an answer needs one to follow. Drop it or give it a BOS."
            )
        if int(prompt.max()) >= vocab:
            raise InputError(
                f"{said} has token {int(prompt.max())}, but the model knows {vocab}: the tokenizer is another "
                "model's. Put the model's own tokenizer into its folder."
            )
        if room is not None and len(prompt) + max_new_tokens > room:
            raise InputError(
                f"{said} has {len(prompt)} tokens and max_new_tokens is {max_new_tokens}, but the "
                f"model has {room} positions. Shorten the prompt or lower max_new_tokens."
            )


@contextlib.contextmanager
def _ready_to_generate(model: PreTrainedModel | PeftModel) -> Iterator[None]:
    """Eval mode, stock attention and no gradient checkpointing, each module's own state restored after."""
    base = causal_model(model)
    modules = list(model.modules())
    training = [module.training for module in modules]
    # Layers that recompute drop the cache, and each architecture has its own words for when.
    checkpointing = [module for module in modules if module.__dict__.get("gradient_checkpointing")]
    generation_config = base.generation_config
    try:
        model.eval()
        for module in checkpointing:
            module.gradient_checkpointing = False  # type: ignore[assignment]  # typed as a submodule
        # generate() fills what it is not told from here, so passing a config of our own is not enough.
        base.generation_config = GenerationConfig()
        with attention_switched(base, stock_implementation(base)):
            yield
    finally:
        base.generation_config = generation_config
        for module in checkpointing:
            module.gradient_checkpointing = True  # type: ignore[assignment]  # typed as a submodule
        for module, mode in zip(modules, training, strict=True):
            module.training = mode


def _continue(
    model: PreTrainedModel,
    prompts: list[np.ndarray],
    ends: frozenset[int],
    max_new_tokens: int,
    draw: _Draw | None,
    beginning: Beginning,
    likely: list[Sequence[int]] | None,
) -> list[list[int]] | None:
    """The new tokens of each prompt, after an end token whatever ones; None where memory holds fewer at a time."""
    try:
        if can_decode(model, max(map(len, prompts)) + max_new_tokens):
            choose = _most_likely if draw is None else draw.choose
            return decode(
                model, prompts, ends, max_new_tokens, choose=choose, beginning=beginning, likely=likely
            )
        return generate_plainly(model, prompts, ends, max_new_tokens, draw)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        if len(prompts) == 1:
            raise InputError(
                f"memory does not hold a prompt of {len(prompts[0])} tokens and an answer of up to "
                f"{max_new_tokens}. Lower max_new_tokens, or load the model in bfloat16."
            ) from error
    # Only here, where the error no longer holds on to the batch's tensors.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def generate_plainly(
    model: PreTrainedModel,
    prompts: list[np.ndarray],
    ends: frozenset[int],
    max_new_tokens: int,
    draw: LogitsProcessor | None = None,
) -> list[list[int]]:
    """The new tokens of each prompt by the model's own `generate()`, on a padded batch; it is ready to generate."""
    longest = max(map(len, prompts))
    # Masked in prompts and cut off answers, so any id will do; a tokenizer's own may lie beyond the model's.
    padding = 0
    input_ids = torch.full((len(prompts), longest), padding, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    for row, prompt in enumerate(prompts):
        input_ids[row, longest - len(prompt) :] = torch.from_numpy(np.asarray(prompt, dtype=np.int64))
        mask[row, longest - len(prompt) :] = 1
    config = GenerationConfig(
        do_sample=False,  # samples are drawn in the processor, so that the most likely score is the drawn one
        num_beams=1,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=sorted(ends) or None,
        pad_token_id=padding,
    )
    generate: Any = model.generate
    generated = generate(
        input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
        logits_processor=LogitsProcessorList([] if draw is None else [draw]),
    )
    return generated[:, longest:].tolist()


def _most_likely(logits: torch.Tensor, rows: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    return logits.argmax(dim=-1)


class _Draw(LogitsProcessor):
    """Leaves each row one token, drawn from its distribution by a random number of the row's own.

    One number a token, against the running sum of the probabilities, is all the chance there is in it: the numbers
    are the same on every device, and need no generator a row.
    """

    def __init__(
        self, prompts: list[np.ndarray], numbers: list[int], sampling: Sampling, max_new_tokens: int
    ) -> None:
        self.start = max(map(len, prompts))
        self.temperature = sampling.temperature
        rows = [
            _numbers(sampling.seed, prompt, number, max_new_tokens)
            for prompt, number in zip(prompts, numbers, strict=True)
        ]
        self.uniform = torch.from_numpy(np.stack(rows))

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores with all but the drawn token at −inf."""
        rows = torch.arange(len(scores))
        drawn = self.choose(scores, rows, torch.full_like(rows, input_ids.shape[1] - self.start))
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn[:, None], 0.0)

    def choose(self, scores: torch.Tensor, rows: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """The token drawn from each row of scores, by the number that belongs to its prompt and its place."""
        # float32 would lose tokens of a large vocabulary's tail in the running sum.
        reached = torch.softmax(scores.double() / self.temperature, dim=-1).cumsum(dim=-1)
        uniform = self.uniform[rows.cpu(), steps.cpu()].to(scores.device)
        drawn = torch.searchsorted(reached, (uniform * reached[:, -1])[:, None], right=True)
        return drawn.clamp_(max=scores.shape[1] - 1)[:, 0]


def _numbers(seed: int, prompt: np.ndarray, sample: int, count: int) -> np.ndarray:
    """Uniform random numbers in [0, 1) that belong to one sample of one prompt."""
    content = xxhash.xxh3_128_intdigest(np.asarray(prompt, dtype=np.int64).tobytes())
    return np.random.default_rng([seed, sample, content]).random(count)


def read_answer(row: list[int], ends: frozenset[int], tokenizer: PreTrainedTokenizerBase) -> Answer:
    """The answer that these generated tokens are, up to the first that ends one."""
    end = next((place for place, token in enumerate(row) if token in ends), None)
    ids = tuple(row[:end])
    text = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    end_token = None if end is None else row[end]
    return Answer(str(text), ids, end is not None, len(ids) + (end is not None), end_token)
