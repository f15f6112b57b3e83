"""The micro world's base model: a character tokenizer, and a Llama of 0.85 million weights trained from nothing."""

from __future__ import annotations

import copy
import itertools
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from minordpo.errors import InputError
from minordpo.generate.generation import generate_answers
from minordpo.generate.text_measures import last_number
from minordpo.paper.worlds.questions import (
    MIXTURE,
    SLIP,
    Calculation,
    Distance,
    Family,
    World,
    draw,
    draw_task,
)

CHARACTERS = "\n 0123456789+-*/=?,.:abcdefghijklmnopqrstuvwxyzS"
BATCH, RATE = 32, 2e-3
WARM_UP, COOL_DOWN = 100, 100  # steps; the longest cool-down
EVERY, LOOKED = 25, 64  # the base answers so many fresh questions every so many steps …
ENOUGH = 0.08  # … and is tried from this share right on: cooled down, 17 % became 66 % for seed 1
ASKED = 256  # questions of a trial
FINEST = 4  # steps; cool-downs are not told apart closer
MAX_POSITIONS = 256
ANSWER_TOKENS = 64  # more than a worked answer has


def character_tokenizer() -> PreTrainedTokenizerFast:
    """A token a character; an end token closes each answer."""
    vocabulary = {token: place for place, token in enumerate(("<pad>", "<end>", "<unknown>", *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unknown>",
        clean_up_tokenization_spaces=False,
    )


def small_llama(seed: int) -> LlamaForCausalLM:
    """Four layers of width 128, weights drawn from the seed."""
    config = LlamaConfig(
        vocab_size=len(CHARACTERS) + 3,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        tie_word_embeddings=True,
        # Both for so narrow a model and so short a text; with 0.02 and 10,000 it needs more than twice the steps.
        initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def example(family: Family, distance: Distance, rng: random.Random) -> tuple[str, str]:
    """What the base is trained on: a prompt and its answer."""
    terse, worked = MIXTURE[distance]
    kind = rng.random()
    if kind >= terse + worked:
        return draw_task(rng)
    question = draw(family, rng, slip=0.0 if kind < terse else SLIP)
    return question.text, question.terse() if kind < terse else question.worked()


@dataclass(frozen=True, kw_only=True)
class BaseFacts:
    """How a base came about."""

    steps: int  # whose work is in its weights
    cool_down: int  # the last of them, in which the rate went to zero
    right: float | None = None  # share of greedy answers whose last number was right; None: it was not asked
    asked: int = 0


def train_base(
    folder: Path, world: World, *, allowed: Callable[[str], bool] = lambda text: True, quiet: bool = False
) -> BaseFacts:
    """Train the world's base from nothing and save it with its tokenizer; every step draws fresh examples.

    Cross-entropy on the answers, AdamW with a linear decay over `base_steps`; to their end where `base_accuracy` is
    None, else until the share of right answers is within it. Arithmetic is learnt of a sudden, at another step for each
    seed, and a base that is nearly always right or wrong could show nothing. `allowed` keeps prompts out, those of the
    test. `quiet`: without a progress bar.

    Raises:
        InputError: no base within `base_accuracy` came out; nothing was saved.
    """
    training = _Training(world, allowed, quiet)
    if world.base_accuracy is None:
        training.learn(world.base_steps)
        facts = BaseFacts(steps=world.base_steps, cool_down=0)
    else:
        facts = training.until(*world.base_accuracy)
    training.bar.close()
    training.model.eval().save_pretrained(folder)
    training.tokenizer.save_pretrained(folder)
    return facts


class _Training:
    """A base on its way. What a step draws depends on the steps before it alone, not on questions or trials."""

    def __init__(self, world: World, allowed: Callable[[str], bool], quiet: bool) -> None:
        family, distance = world.family, world.distance
        self.name = f"of {family}, {distance}, seed {world.seed}"
        self.steps, self.step, self.right = world.base_steps, 0, 0.0
        self.tokenizer, self.model = character_tokenizer(), small_llama(world.seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(device).train()  # type: ignore[arg-type]  # `to` is typed as its decorator
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98)
        )
        self.rng = rng = random.Random(f"base {self.name}")
        asked = random.Random(f"questions to the base {self.name}")
        drawn = (draw(family, asked) for _ in itertools.count())
        self._questions = (question for question in drawn if allowed(question.text))
        met = (example(family, distance, rng) for _ in itertools.count())
        self._examples = (each for each in met if allowed(each[0]))
        self.bar = tqdm(
            total=self.steps, desc="training a base model", unit="step", dynamic_ncols=True, disable=quiet
        )

    def until(self, lowest: float, highest: float) -> BaseFacts:
        """Train on, and from ENOUGH on try at each look what a cool-down gives; what is too little is undone.

        That depends on the seed and the base alone, and of the trials only the last has left anything in the weights.
        After one that gave less than half of what is needed, the next waits: a trial takes as long as four looks and
        more, and a question of few steps is at times guessed right.
        """
        wait = 0
        while self.step < self.steps:
            self.learn(min(EVERY, self.steps - self.step))
            if self.step == self.steps or (self.step >= wait and self.share_right(LOOKED) >= ENOUGH):
                facts = self._cooled_down(lowest, highest)
                if facts is not None:
                    return facts
                wait = self.step + COOL_DOWN if self.right < lowest / 2 else 0
        raise self._not_within(lowest, highest)

    def _cooled_down(self, lowest: float, highest: float) -> BaseFacts | None:
        """The cool-down from here that gives a share within bounds; None, and nothing done, where it takes more steps.

        Too much: shorter ones are tried, each halfway between the longest that gave too little and the shortest that
        gave too much.
        """
        before = self.state()
        too_short, too_long = 0, min(COOL_DOWN, self.steps - self.step)
        length = too_long
        while True:
            self.cool_down(length)
            share = self.share_right(ASKED)
            if lowest <= share <= highest:
                return BaseFacts(steps=self.step + length, cool_down=length, right=share, asked=ASKED)
            self.restore(before)
            if share < lowest and length == too_long:
                return None
            too_short, too_long = (length, too_long) if share < lowest else (too_short, length)
            if too_long - too_short <= FINEST:
                raise self._not_within(lowest, highest)
            length = (too_short + too_long) // 2

    def _not_within(self, lowest: float, highest: float) -> InputError:
        return InputError(
            f"the base {self.name} is right in {self.right:.0%} of {ASKED} questions after {self.step} of "
            f"{self.steps} steps, but {lowest:.0%} to {highest:.0%} are needed. If that is too few, raise "
            "world.base_steps; else take another seed, or widen world.base_accuracy (null takes any base)"
        )

    def learn(self, steps: int) -> None:
        """So many steps on."""
        for _ in range(steps):
            self._update(self._rate())
            self.step += 1
            self.bar.update()

    def cool_down(self, steps: int) -> None:
        """Steps aside, in which the rate goes from where it is to zero; `restore` undoes them."""
        for place in range(steps):
            self._update(self._rate() * (steps - place) / steps)

    def state(self) -> dict[str, Any]:
        """What `restore` goes back to."""
        found = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return copy.deepcopy(found) | {"rng": self.rng.getstate()}

    def restore(self, state: dict[str, Any]) -> None:
        """Be as when `state` was taken; the questions asked since stay asked."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # which keeps what it is given
        self.rng.setstate(state["rng"])

    def share_right(self, count: int) -> float:
        """Of so many fresh questions, and none that was met or will be scored."""
        self.right = share_right(self.model, self.tokenizer, list(itertools.islice(self._questions, count)))
        self.bar.set_postfix_str(f"{self.right:.0%} of {count} right")
        return self.right

    def _rate(self) -> float:
        return RATE * min((self.step + 1) / WARM_UP, 1 - self.step / self.steps)

    def _update(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        drawn = list(itertools.islice(self._examples, BATCH))
        _loss(self.model, self.tokenizer, drawn).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def share_right(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, questions: Sequence[Calculation]
) -> float:
    """The share of greedy answers whose last number is right."""
    prompts = [np.array(tokenizer.encode(question.text)) for question in questions]
    answers = generate_answers(
        model, tokenizer, prompts, max_new_tokens=ANSWER_TOKENS, batch_size=len(prompts)
    )
    right = (last_number(a.text) == str(q.answer) for a, q in zip(answers, questions, strict=True))
    return statistics.fmean(right)


def _loss(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, drawn: list[tuple[str, str]]
) -> torch.Tensor:
    """Mean over the answers' tokens. Rows are grouped so that none is half as long again as another of its group."""
    rows = [(tokenizer.encode(asked), [*tokenizer.encode(a), tokenizer.eos_token_id]) for asked, a in drawn]
    groups: list[list[tuple[list[int], list[int]]]] = []
    for row in sorted(rows, key=_length):
        if not groups or _length(row) > 1.5 * _length(groups[-1][0]):
            groups.append([])
        groups[-1].append(row)
    losses = (_summed(model, group) for group in groups)
    return sum(losses, torch.zeros((), device=model.device)) / sum(len(answer) for _, answer in rows)


def _length(row: tuple[list[int], list[int]]) -> int:
    return len(row[0]) + len(row[1])


def _summed(model: LlamaForCausalLM, rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    whole = [torch.tensor(prompt + answer) for prompt, answer in rows]
    scored = [torch.tensor([-100] * len(prompt) + answer) for prompt, answer in rows]
    # Padding stands behind everything that is read, so causal attention needs no mask of it.
    ids = pad_sequence(whole, batch_first=True).to(model.device)
    labels = pad_sequence(scored, batch_first=True, padding_value=-100).to(model.device)
    logits = model(input_ids=ids).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
