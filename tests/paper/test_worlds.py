"""The micro world: questions whose answers are right, pairs that differ as they say, a base that learns."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from minordpo.errors import InputError
from minordpo.paper.worlds import base, world
from minordpo.paper.worlds.base import CHARACTERS, character_tokenizer, small_llama, train_base
from minordpo.paper.worlds.questions import Calculation, World, draw, draw_task, rejected
from minordpo.paper.worlds.world import make_world
from minordpo.run_folder.files import read_jsonl

FAMILIES = ("chain", "scale")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HELD_OUT", "VALIDATION", "TEST", "RETENTION"):
        monkeypatch.setattr(world, name, 4)


def _computed(text: str) -> int:
    """The answer by Python's own arithmetic, from left to right."""
    first, *moves = re.findall(r"[-+*/]?\d+", text)
    total = first
    for move in moves:
        total = str(eval(f"({total}){move}".replace("/", "//")))
    return int(total)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_the_question_read_from_left_to_right(family: str):
    rng = random.Random(0)
    for _ in range(200):
        question = draw(family, rng)
        assert question.answer == _computed(question.text)
        assert question.answer >= 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_worked_step_goes_on_from_the_one_before_and_holds(family: str):
    rng = random.Random(1)
    for _ in range(100):
        *lines, last = draw(family, rng).worked().split("\n")
        for before, line in zip([None, *lines], lines, strict=False):
            term, result = line.split("=")
            assert _computed(term) == int(result)
            assert before is None or term.startswith(before.split("=")[1])
        assert last == f"So the answer is: {lines[-1].split('=')[1]}"


def test_the_two_styles_of_a_question_worked_by_hand():
    question = Calculation("87+73-62?\n", (("87+73", 160), ("160-62", 98)))
    assert question.terse() == "160,98=98"
    assert question.worked() == "87+73=160\n160-62=98\nSo the answer is: 98"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_slip_leaves_the_question_and_is_carried_on(family: str):
    wrong = 0
    for seed in range(100):
        right, slipped = (draw(family, random.Random(seed), slip=slip) for slip in (0.0, 1e-9))
        assert right.text == slipped.text
        always = draw(family, random.Random(seed), slip=1.0)
        wrong += always.answer != _computed(always.text)
        for (_, before), (term, _) in zip(always.steps, always.steps[1:], strict=False):
            assert re.match(r"\d+", term)[0] == str(before)
    assert wrong > 80


@pytest.mark.parametrize("family", FAMILIES)
def test_a_close_pair_differs_in_every_digit_of_one_result_before_the_last(family: str):
    rng = random.Random(2)
    for _ in range(100):
        question = draw(family, rng)
        right, wrong = question.worked().split("\n"), rejected(question, "result", family, rng).split("\n")
        changed = [place for place, (a, b) in enumerate(zip(right, wrong, strict=True)) if a != b]
        assert len(changed) == 1
        assert changed[0] < len(question.steps) - 1
        (term, old), (same, new) = (lines[changed[0]].split("=") for lines in (right, wrong))
        assert term == same
        assert len(old) == len(new)
        assert all(a != b for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_quarter_is_other_digits_and_the_answer_line_stays(family: str):
    rng = random.Random(3)
    for _ in range(100):
        question = draw(family, rng)
        right, wrong = question.worked(), rejected(question, "quarter", family, rng)
        assert len(right) == len(wrong)
        assert right.split("\n")[-1] == wrong.split("\n")[-1]
        body = len(right) - len(right.split("\n")[-1]) - 1
        changed = sum(a != b for a, b in zip(right, wrong, strict=True))
        digits = sum(character.isdigit() for character in right[:body])
        assert changed == min(digits, round(body / 4))


def test_an_independent_answer_is_wrong_and_whole():
    rng = random.Random(4)
    for _ in range(100):
        question = draw("chain", rng)
        *lines, last = rejected(question, "independent", "chain", rng).split("\n")
        assert last != f"So the answer is: {question.answer}"
        assert all(_computed(term) == int(result) for term, result in (line.split("=") for line in lines))


def test_tasks_are_sorted_digits_and_letters_turned_round():
    rng = random.Random(5)
    for _ in range(50):
        text, answer = draw_task(rng)
        kind, given = text.rstrip("?\n").split(" ")
        assert answer == ("".join(sorted(given)) if kind == "sort" else given[::-1])


def test_the_tokenizer_gives_back_every_character_and_knows_all_that_is_written():
    tokenizer, rng = character_tokenizer(), random.Random(6)
    assert tokenizer.decode(tokenizer.encode(CHARACTERS)) == CHARACTERS
    for family in FAMILIES:
        for _ in range(50):
            text = "".join(base.example(family, "half", rng))
            assert tokenizer.unk_token_id not in tokenizer.encode(text)


def test_the_mixture_of_a_base_is_what_its_distance_says():
    rng, n = random.Random(7), 3000
    for distance, (terse, worked) in base.MIXTURE.items():
        answers = [base.example("chain", distance, rng)[1] for _ in range(n)]
        assert sum("So the" in answer for answer in answers) / n == pytest.approx(worked, abs=0.04)
        assert sum("," in answer for answer in answers) / n == pytest.approx(terse, abs=0.04)


def test_a_base_learns_and_is_the_same_from_the_same_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "BATCH", 16)
    for name in ("one", "two"):
        train_base(tmp_path / name, World(seed=3, base_steps=20, base_accuracy=None))
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "two"))
    assert all(a.equal(b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    tokenizer, rng = AutoTokenizer.from_pretrained(tmp_path / "one"), random.Random(8)
    drawn = [base.example("chain", "full", rng) for _ in range(64)]
    before = base._loss(small_llama(3), tokenizer, drawn).item()
    assert base._loss(one, tokenizer, drawn).item() < before - 0.5


@dataclass
class _Watched:
    """What a base's training did: each step's share of the full rate, and the question counts it was looked at by."""

    rates: list[float]
    counts: list[int]
    drawn: list[list[tuple[str, str]]]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], _Watched]:
    """A base looked at every three steps, whose cool-down has eight, and that is right as often as is told."""
    for name, value in (("BATCH", 2), ("EVERY", 3), ("WARM_UP", 2), ("COOL_DOWN", 8), ("FINEST", 1)):
        monkeypatch.setattr(base, name, value)
    seen = _Watched([], [], [])
    step, loss = torch.optim.AdamW.step, base._loss

    def stepped(optimizer: torch.optim.AdamW) -> None:
        seen.rates.append(optimizer.param_groups[0]["lr"] / base.RATE)
        step(optimizer)

    def lost(model: object, tokenizer: object, drawn: list[tuple[str, str]]) -> object:
        seen.drawn.append(drawn)
        return loss(model, tokenizer, drawn)

    def told(shares: list[float]) -> _Watched:
        left = iter(shares)

        def asked(model: object, tokenizer: object, questions: list[Calculation]) -> float:
            seen.counts.append(len(questions))
            return next(left)

        monkeypatch.setattr(base, "share_right", asked)
        return seen

    monkeypatch.setattr(torch.optim.AdamW, "step", stepped)
    monkeypatch.setattr(base, "_loss", lost)
    return told


def _train(
    folder: Path, steps: int = 50, accuracy: tuple[float, float] | None = (0.45, 0.65)
) -> base.BaseFacts:
    return train_base(folder, World(base_steps=steps, base_accuracy=accuracy))


TRUNK = [0.5, 0.98, 0.96, 0.94, 0.92, 0.9, 0.88, 0.86, 0.84]  # warm-up of 2 steps, a decay over 50


def test_a_base_that_is_seldom_right_is_not_tried_and_one_within_bounds_is_taken(
    tmp_path: Path, watch: Callable[[list[float]], _Watched]
):
    seen = watch([0.05, 0.1, 0.45])
    assert _train(tmp_path / "base") == base.BaseFacts(steps=14, cool_down=8, right=0.45, asked=256)
    assert seen.counts == [64, 64, 256]
    assert seen.rates == pytest.approx([*TRUNK[:6], *(0.88 * left / 8 for left in range(8, 0, -1))])


def test_too_little_after_a_trial_goes_on_as_if_there_had_been_none(
    tmp_path: Path, watch: Callable[[list[float]], _Watched]
):
    seen = watch([0.1, 0.23, 0.2, 0.6])
    assert _train(tmp_path / "tried").steps == 14
    assert seen.rates == pytest.approx(
        [
            *TRUNK[:3],
            *(0.94 * left / 8 for left in range(8, 0, -1)),
            *TRUNK[3:6],
            *(0.88 * left / 8 for left in range(8, 0, -1)),
        ]
    )
    assert seen.drawn[3] == seen.drawn[11]  # the step after the trial draws what its first step drew
    drawn = seen.drawn[11:]
    seen.drawn.clear()
    watch([0.0, 0.2, 0.6])
    assert _train(tmp_path / "untried").steps == 14
    assert seen.drawn[3:] == drawn
    tried, untried = (load_file(tmp_path / name / "model.safetensors") for name in ("tried", "untried"))
    assert all(tried[name].equal(untried[name]) for name in untried)


def test_less_than_half_of_what_is_needed_waits_as_long_as_the_longest_cool_down(
    tmp_path: Path, watch: Callable[[list[float]], _Watched]
):
    seen = watch([0.1, 0.22, 0.1, 0.5])
    assert (
        _train(tmp_path / "base").steps == 12 + 8
    )  # tried at step 3, looked at next when 8 steps have gone by
    assert seen.counts == [64, 256, 64, 256]


def test_too_much_after_a_trial_is_met_by_shorter_cool_downs_from_the_same_step(
    tmp_path: Path, watch: Callable[[list[float]], _Watched]
):
    seen = watch([0.1, 0.7, 0.3, 0.65])
    assert _train(tmp_path / "base") == base.BaseFacts(steps=9, cool_down=6, right=0.65, asked=256)
    lengths = [8, 4, 6]
    down = [0.94 * left / length for length in lengths for left in range(length, 0, -1)]
    assert seen.rates == pytest.approx([*TRUNK[:3], *down])
    assert seen.drawn[3] == seen.drawn[11] == seen.drawn[15]


def test_the_end_of_all_steps_is_tried_whatever_was_seen_before_it(
    tmp_path: Path, watch: Callable[[list[float]], _Watched]
):
    watch([0.0, 0.5])
    assert _train(tmp_path / "base", steps=5) == base.BaseFacts(steps=5, cool_down=0, right=0.5, asked=256)


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([0.0, 0.44], r"is right in 44% of 256 questions after 5 of 5 steps, but 45% to 65% are needed"),
        ([0.1, 0.7, 0.7], r"is right in 70% of 256 questions after 3 of 5 steps.*widen world\.base_accuracy"),
    ],
    ids=["too-little", "too-much"],
)
def test_a_base_that_ends_outside_the_bounds_is_refused_and_not_saved(
    tmp_path: Path, watch: Callable[[list[float]], _Watched], shares: list[float], said: str
):
    watch(shares)
    with pytest.raises(InputError, match=said):
        _train(tmp_path / "base", steps=5)
    assert not (tmp_path / "base").exists()


def test_a_base_of_any_accuracy_takes_all_steps_and_is_never_asked(
    tmp_path: Path, watch: Callable[[list[float]], _Watched]
):
    seen = watch([])
    assert _train(tmp_path / "base", accuracy=None) == base.BaseFacts(steps=50, cool_down=0)
    assert len(seen.rates) == 50


def test_the_base_loss_is_the_mean_over_the_answers_tokens_however_rows_are_grouped():
    tokenizer, model, rng = character_tokenizer(), small_llama(0), random.Random(6)
    drawn = [base.example("chain", "full", rng) for _ in range(12)]
    losses, tokens = 0.0, 0
    for prompt, answer in drawn:
        asked, given = tokenizer.encode(prompt), [*tokenizer.encode(answer), tokenizer.eos_token_id]
        logps = model(input_ids=torch.tensor([[*asked, *given]])).logits[0].log_softmax(-1)
        losses -= sum(logps[len(asked) + place - 1, token].item() for place, token in enumerate(given))
        tokens += len(given)
    assert base._loss(model, tokenizer, drawn).item() == pytest.approx(losses / tokens, abs=1e-5)


def test_a_world_is_written_whole_and_keeps_its_questions_from_the_base(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
):
    met: list[str] = []
    kept = base.example

    def watched(*arguments: object) -> tuple[str, str]:
        found = kept(*arguments)
        met.append(found[0])
        return found

    monkeypatch.setattr(base, "example", watched)
    made = make_world(tmp_path / "world", World(base_accuracy=None, pairs=6, base_steps=2))
    rows = {file.stem: [row for _, row in read_jsonl(file)] for file in made.glob("*.jsonl")}
    assert {name: len(each) for name, each in rows.items()} == {
        "pairs": 6,
        "held_out": 4,
        "validation": 4,
        "test": 4,
        "retention": 4,
    }
    prompts = [row.get("prompt", row.get("question")) for each in rows.values() for row in each]
    assert len(set(prompts)) == len(prompts)
    assert (made / "base" / "model.safetensors").exists()
    trained = json.loads((made / "base" / "trained.json").read_text())
    assert trained.pop("seconds") > 0
    assert trained == {"steps": 2, "cool_down": 0, "right": None, "asked": 0}
    assert len(met) >= 2 * base.BATCH
    stamp = (made / "base" / "model.safetensors").stat().st_mtime_ns
    make_world(made, World(base_accuracy=None, pairs=6, base_steps=2))
    assert (made / "base" / "model.safetensors").stat().st_mtime_ns == stamp


def test_the_base_meets_no_prompt_that_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trained: list[str] = []
    loss = base._loss

    def watched(model: object, tokenizer: object, drawn: list[tuple[str, str]]) -> object:
        trained.extend(prompt for prompt, _ in drawn)
        return loss(model, tokenizer, drawn)

    monkeypatch.setattr(base, "_loss", watched)
    train_base(tmp_path, World(base_steps=2, base_accuracy=None), allowed=lambda text: text < "5")
    assert trained
    assert all(prompt < "5" for prompt in trained)


def test_another_world_in_the_folder_is_refused_by_the_difference(tmp_path: Path, small: None):
    make_world(tmp_path / "world", World(base_accuracy=None, pairs=2, base_steps=1))
    with pytest.raises(InputError, match="holds a world of seed 0, not 1"):
        make_world(tmp_path / "world", World(base_accuracy=None, seed=1, pairs=2, base_steps=1))


def test_a_world_made_by_another_version_is_known_but_for_a_key_that_is_gone(tmp_path: Path, small: None):
    wanted = World(base_accuracy=None, pairs=2, base_steps=1)
    file = make_world(tmp_path / "world", wanted) / "world.json"
    stored = json.loads(file.read_text())
    del stored["distance"]
    file.write_text(json.dumps(stored))
    assert make_world(tmp_path / "world", wanted) == tmp_path / "world"
    file.write_text(json.dumps(stored | {"colour": "red"}))
    with pytest.raises(InputError, match=r"world\.json: world\.colour is not a key of minordpo"):
        make_world(tmp_path / "world", wanted)


def test_a_folder_with_something_else_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no world"):
        make_world(tmp_path, World())
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["base_steps", "pairs"])
def test_a_world_of_nothing_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match=f"a world of 0 {name}"):
        make_world(tmp_path / "world", World(**{name: 0}))


@pytest.mark.parametrize("wanted", [[0.4], [0.6, 0.5], [0.45, 65.0]], ids=["one", "turned", "percent"])
def test_bounds_of_a_base_that_are_no_two_shares_are_refused(tmp_path: Path, wanted: list[float]):
    with pytest.raises(InputError, match=r"base_accuracy is \[.*two shares from 0 to 1.*\[0\.45, 0\.65\]"):
        make_world(tmp_path / "world", World(base_accuracy=tuple(wanted)))


def test_a_world_found_written_is_known_by_the_bounds_of_its_base(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "share_right", lambda *_: 0.5)
    made = make_world(tmp_path / "world", World(pairs=2, base_steps=1, base_accuracy=(0.4, 0.6)))
    assert json.loads((made / "base" / "trained.json").read_text())["right"] == 0.5
    assert make_world(made, World(pairs=2, base_steps=1, base_accuracy=(0.4, 0.6))) == made
    with pytest.raises(
        InputError, match=r"holds a world of base_accuracy \[0\.4, 0\.6\], not \[0\.4, 0\.7\]"
    ):
        make_world(made, World(pairs=2, base_steps=1, base_accuracy=(0.4, 0.7)))


def test_a_world_that_was_cut_short_goes_on_to_the_same_files(tmp_path: Path, small: None):
    wanted = World(base_accuracy=None, pairs=3, base_steps=1)
    whole = make_world(tmp_path / "whole", wanted)
    cut = make_world(tmp_path / "cut", wanted)
    (cut / "world.json").unlink()
    (cut / "pairs.jsonl").write_text('{"prompt": "87')
    make_world(cut, wanted)
    for file in ("pairs.jsonl", "test.jsonl", "world.json"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes()
    assert json.loads((cut / "world.json").read_text())["pairs"] == 3
