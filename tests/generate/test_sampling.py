"""Samples against the model's own distribution, and batches that do not fit into memory."""

import pytest
import torch

from helpers.tiny_models import VOCAB
from helpers.word_models import argmax_loop, model_of, prompts_of, tokenizer_of
from minordpo.engine.device import out_of_memory
from minordpo.errors import InputError
from minordpo.generate import generation
from minordpo.generate.decoding import decode
from minordpo.generate.generation import GenerationOptions, Sampling, generate_answers, stream_answers


def samples_of(prompts, *, seed=0, temperature=1.0, samples=3, max_new_tokens=6, model=None, **sizes):
    made = generate_answers(
        model_of() if model is None else model,
        tokenizer_of(),
        prompts,
        samples=samples,
        sampling=Sampling(temperature=temperature, seed=seed),
        max_new_tokens=max_new_tokens,
        **sizes,
    )
    assert len(made) == samples * len(prompts)
    ids = [answer.token_ids for answer in made]
    return [ids[start : start + samples] for start in range(0, len(ids), samples)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_have_the_frequencies_of_the_models_own_distribution(temperature):
    model, count = model_of(initializer_range=0.05), 3000
    (prompt,) = prompts_of(5)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(prompt, dtype=torch.long)[None]).logits[0, -1]
    expected = torch.softmax(logits.double() / temperature, dim=-1)
    assert expected.max() < 0.9  # there is something to draw
    sizes = {"samples": count, "max_new_tokens": 1, "batch_size": 1000}
    (drawn,) = samples_of([prompt], temperature=temperature, model=model, **sizes)
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=VOCAB)
    wanted = expected * count
    rare = wanted < 5
    assert counts[rare].sum() <= 2 * wanted[rare].sum() + 10
    # Chi-squared over its degrees of freedom is 1 on average; a top-k, a top-p or another temperature gives tens.
    assert (((counts - wanted) ** 2 / wanted)[~rare]).sum() / (~rare).sum() < 1.6


def test_a_sample_does_not_depend_on_what_shares_its_batch():
    prompts = prompts_of(3, 17, 1, 9)
    alone = [samples_of([prompt], batch_size=1)[0] for prompt in prompts]
    assert len({sample for samples in alone for sample in samples}) == 12
    assert samples_of(prompts, batch_size=5) == alone
    assert samples_of(prompts[::-1], batch_size=8) == alone[::-1]
    assert samples_of(prompts, batch_size=8, token_budget=30) == alone
    assert [each[:2] for each in alone] == samples_of(prompts, samples=2)
    assert [[s[:4] for s in each] for each in alone] == samples_of(prompts, max_new_tokens=4)


def test_answers_that_are_there_already_are_left_out_and_the_others_are_the_same():
    model, prompts = model_of(), prompts_of(3, 17, 1)
    options = GenerationOptions(sampling=Sampling(), samples=2, max_new_tokens=5, batch_size=2)
    whole = dict(stream_answers(model, tokenizer_of(), prompts, options))
    assert sorted(whole) == [0, 1, 2, 3, 4, 5]
    others = dict(stream_answers(model, tokenizer_of(), prompts, options, done={1, 2, 3}))
    assert others == {row: whole[row] for row in (0, 4, 5)}
    assert dict(stream_answers(model, tokenizer_of(), prompts, options, done=whole)) == {}


def test_another_seed_draws_other_samples_and_the_same_one_the_same():
    prompts = prompts_of(4)
    assert samples_of(prompts, seed=1) == samples_of(prompts, seed=1) != samples_of(prompts, seed=2)


def test_a_very_low_temperature_draws_the_most_likely_answer():
    model, prompts = model_of(), prompts_of(6, 3)
    expected = [[argmax_loop(model, prompt, 6)] * 3 for prompt in prompts]
    assert samples_of(prompts, temperature=1e-6) == expected


def test_what_the_generation_config_asks_for_changes_no_sample():
    model, prompts = model_of(), prompts_of(6, 3)
    expected = samples_of(prompts)
    model.generation_config.update(do_sample=True, temperature=0.1, top_k=1, top_p=0.1, min_p=0.9)
    assert samples_of(prompts, model=model) == expected


def test_batches_keep_to_the_token_budget_with_the_longest_prompts_first(monkeypatch):
    model, shapes = model_of(), []

    def recorded(model, prompts, *more, **options):
        shapes.append((len(prompts), max(map(len, prompts))))
        return decode(model, prompts, *more, **options)

    monkeypatch.setattr(generation, "decode", recorded)
    prompts = prompts_of(3, 17, 1, 9, 9, 40)
    options = GenerationOptions(max_new_tokens=5, batch_size=3, token_budget=44)
    rows = stream_answers(model, tokenizer_of(), prompts, options)
    assert [row for row, _ in rows] == [5, 1, 3, 4, 0, 2]
    assert shapes == [(1, 40), (2, 17), (3, 9)]  # 45 tokens are too many, but an answer has to be made


class SmallMemory:
    """`decode` on a device that holds so many rows, and says what it was asked for."""

    def __init__(self, rows, error):
        self.rows, self.error, self.asked = rows, error, []

    def __call__(self, model, prompts, *more, **options):
        self.asked.append(len(prompts))
        if len(prompts) > self.rows:
            raise self.error
        return decode(model, prompts, *more, **options)


def refusal_of_a_cpu():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**15)
    return caught.value


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_where_memory_runs_out_the_batch_is_halved_and_it_is_said(device, monkeypatch, capsys):
    model, prompts = model_of(), prompts_of(3, 17, 1, 9, 9, 5, 2)
    expected = generate_answers(model, tokenizer_of(), prompts, max_new_tokens=4)
    error = refusal_of_a_cpu() if device == "cpu" else torch.OutOfMemoryError("CUDA out of memory")
    memory = SmallMemory(2, error)
    monkeypatch.setattr(generation, "decode", memory)
    assert generate_answers(model, tokenizer_of(), prompts, max_new_tokens=4, batch_size=6) == expected
    assert memory.asked == [6, 3, 1, 1, 1, 1, 1, 1, 1]
    assert capsys.readouterr().err.splitlines() == [
        "memory ran out: answers are made 3 at a time from now on",
        "memory ran out: answers are made 1 at a time from now on",
    ]


def test_a_single_answer_that_does_not_fit_into_memory_is_refused(monkeypatch):
    model = model_of()
    monkeypatch.setattr(generation, "decode", SmallMemory(0, torch.OutOfMemoryError("no more")))
    said = "memory does not hold a prompt of 7 tokens and an answer of up to 4. Lower max_new_tokens"
    with pytest.raises(InputError, match=said):
        generate_answers(model, tokenizer_of(), prompts_of(7, 3), max_new_tokens=4, batch_size=1)


def test_an_error_that_is_not_about_memory_is_none_of_memory():
    assert out_of_memory(MemoryError())
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples is 0, but at least 1 is needed"),
        ({"seed": -1}, "seed is -1, but at least 0 is needed"),
        ({"temperature": 0.0}, "temperature is 0, but samples need a number above 0"),
        ({"temperature": float("nan")}, "temperature is nan, but samples need a number above 0"),
        ({"token_budget": 0}, "token_budget is 0, but at least 1 is needed"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        samples_of(prompts_of(3), **settings)
