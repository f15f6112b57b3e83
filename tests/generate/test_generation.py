"""Answers against a plain argmax loop."""

import logging

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from helpers.tiny_models import VOCAB
from helpers.word_models import CHATML, argmax_loop, model_of, prompts_of, tokenizer_of
from minordpo.engine.attention import NAME
from minordpo.engine.logprobs import install
from minordpo.errors import InputError
from minordpo.generate.generation import Answer, end_tokens, generate_answers

# peft 0.21 uses a name that transformers 5.23 renames.
PEFT_WARNS = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.mark.parametrize("architecture", ["Llama", "Gemma2", "GPT2"])
def test_answers_are_the_plain_models_argmax_whatever_shares_their_batch(architecture):
    model, prompts = model_of(architecture), prompts_of(3, 17, 1, 9, 9)
    expected = [argmax_loop(model, prompt, 12) for prompt in prompts]
    assert len(set(expected)) > 1
    install(model)
    model.config._attn_implementation = NAME  # as while training
    for batch_size in (1, 2, 8):
        answers = generate_answers(model, tokenizer_of(), prompts, max_new_tokens=12, batch_size=batch_size)
        assert [answer.token_ids for answer in answers] == expected


def test_an_answer_ends_before_its_first_end_token_and_counts_it():
    model, prompts = model_of(), prompts_of(5, 2)
    free = [argmax_loop(model, prompt, 10) for prompt in prompts]
    end = next(token for token in free[0][2:] if token not in free[1])
    model.generation_config.eos_token_id = [90, end]
    cut, whole = generate_answers(model, tokenizer_of(), prompts, max_new_tokens=10)
    place = free[0].index(end)
    assert cut == Answer(" ".join(f"w{i}" for i in free[0][:place]), free[0][:place], True, place + 1, end)
    assert cut.response_ids == free[0][: place + 1]
    assert whole.response_ids == free[1]
    assert (whole.token_ids, whole.stopped, whole.tokens) == (free[1], False, 10)


def test_special_tokens_are_left_out_of_the_text():
    model = model_of()
    token = argmax_loop(model, prompts_of(4)[0], 1)[0]
    tokenizer = tokenizer_of(additional_special_tokens=[f"w{token}"])
    (answer,) = generate_answers(model, tokenizer, prompts_of(4), max_new_tokens=6)
    assert token in answer.token_ids
    assert f"w{token}" not in answer.text.split()
    assert len(answer.text.split()) == sum(i != token for i in answer.token_ids)


def test_end_tokens_come_from_the_config_the_tokenizer_and_the_chat_template():
    end, turn = VOCAB - 5, VOCAB - 3
    assert end_tokens(model_of(), tokenizer_of()) == frozenset()
    assert end_tokens(model_of(eos_token_id=2), tokenizer_of()) == {2}
    assert end_tokens(model_of(eos_token_id=[2, 5]), tokenizer_of(eos_token="<end>")) == {2, 5, end}
    assert end_tokens(model_of(), tokenizer_of(chat_template=CHATML)) == {turn}
    assert end_tokens(model_of(), tokenizer_of(chat_template=CHATML, eos_token="<end>")) == {turn, end}


def test_a_template_that_refuses_or_marks_no_end_of_turn_adds_no_end_token():
    refusing = "{{ raise_exception('a system turn is needed') }}"
    silent = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    for template in (refusing, silent):
        tokenizer = tokenizer_of(chat_template=template, eos_token="<end>")
        assert end_tokens(model_of(), tokenizer) == {VOCAB - 5}


def test_what_the_generation_config_asks_for_changes_no_answer():
    model, prompts = model_of(), prompts_of(6, 3)
    expected = [argmax_loop(model, prompt, 12) for prompt in prompts]
    config = model.generation_config
    config.update(do_sample=True, temperature=3.0, top_k=50, top_p=0.9, repetition_penalty=5.0, num_beams=3)
    config.update(no_repeat_ngram_size=1, suppress_tokens=[expected[0][0]], max_length=4, use_cache=False)
    before = config.to_dict()
    answers = generate_answers(model, tokenizer_of(), prompts, max_new_tokens=12)
    assert [answer.token_ids for answer in answers] == expected
    assert model.generation_config is config
    assert config.to_dict() == before


def state_of(model):
    flags = [(m.training, m.__dict__.get("gradient_checkpointing")) for m in model.modules()]
    return flags, model.config.to_dict(), model.config._attn_implementation, model.generation_config


def training_model():
    """A model in the midst of training, one part of it frozen in eval mode."""
    model = model_of(attention_dropout=0.5)
    install(model)
    model.config._attn_implementation = NAME
    model.train()
    model.model.layers[1].eval()
    model._set_gradient_checkpointing(enable=True)
    model.config.use_cache = False
    return model


def test_a_model_in_training_is_left_as_it_was_found():
    model = training_model()
    before = state_of(model)
    assert any(checkpointing for _, checkpointing in before[0])
    plain = model_of()
    (answer,) = generate_answers(model, tokenizer_of(), prompts_of(4), max_new_tokens=8)
    assert answer.token_ids == argmax_loop(plain, prompts_of(4)[0], 8)  # no dropout either
    assert state_of(model) == before


def test_a_model_is_left_as_it_was_found_by_a_generation_that_fails(monkeypatch):
    model = training_model()
    before = state_of(model)

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.lm_head, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        generate_answers(model, tokenizer_of(), prompts_of(4), max_new_tokens=8)
    assert state_of(model) == before


def test_the_cache_is_used_and_nothing_recomputed_although_checkpointing_is_on():
    model, lengths, recomputing = training_model(), [], set()

    def look(module, _, kwargs):
        lengths.append(kwargs["input_ids"].shape[1])
        recomputing.update(m for m in module.modules() if m.__dict__.get("gradient_checkpointing"))

    model.model.register_forward_pre_hook(look, with_kwargs=True)
    generate_answers(model, tokenizer_of(), prompts_of(7), max_new_tokens=4)
    assert lengths == [7, 1, 1, 1]
    assert recomputing == set()


class Records(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        self.messages.append(record.getMessage())


@pytest.mark.parametrize(
    "special", [{}, {"eos_token": "<end>"}, {"pad_token": "<pad>", "eos_token": "<end>"}]
)
def test_nothing_is_warned_of_with_or_without_a_padding_token(special):
    logger, records = logging.getLogger("transformers"), Records()
    logger.addHandler(records)
    try:
        prompts = [np.array(ids, np.int32) for ids in ([5, 0], [4, 8, 1], [3], [9, 9, 9, 9])]
        answers = generate_answers(model_of(), tokenizer_of(**special), prompts, max_new_tokens=5)
    finally:
        logger.removeHandler(records)
    assert records.messages == []
    assert [a.token_ids for a in answers] == [argmax_loop(model_of(), prompt, 5) for prompt in prompts]


@PEFT_WARNS
def test_an_adapter_generates_as_its_merged_model_does():
    adapted = get_peft_model(model_of(), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    adapted.train()
    prompts = prompts_of(5, 8)
    answers = [a.token_ids for a in generate_answers(adapted, tokenizer_of(), prompts, max_new_tokens=10)]
    assert all(module.training for module in adapted.modules())
    merged = adapted.eval().merge_and_unload()
    assert answers == [argmax_loop(merged, prompt, 10) for prompt in prompts]
    assert answers != [argmax_loop(model_of(), prompt, 10) for prompt in prompts]


def test_no_prompts_give_no_answers():
    assert generate_answers(model_of(), tokenizer_of(), [], max_new_tokens=3) == []


def test_the_progress_bar_names_its_work_and_is_silent_unless_asked_for(capsys):
    generate_answers(model_of(), tokenizer_of(), prompts_of(2, 2), max_new_tokens=1)
    assert capsys.readouterr() == ("", "")
    generate_answers(model_of(), tokenizer_of(), prompts_of(2, 2), max_new_tokens=1, progress="probing")
    assert "probing: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompts", "sizes", "message"),
    [
        (prompts_of(2), {"max_new_tokens": 0}, "max_new_tokens is 0, but at least 1 is needed"),
        (prompts_of(2), {"max_new_tokens": 1, "batch_size": 0}, "batch_size is 0, but at least 1 is needed"),
        (prompts_of(2, 0), {"max_new_tokens": 1}, "prompt 2 has no tokens"),
        (
            prompts_of(9),
            {"max_new_tokens": 504},
            "has 9 tokens and max_new_tokens is 504, but the model has 512",
        ),
    ],
)
def test_what_cannot_be_generated_is_refused(prompts, sizes, message):
    with pytest.raises(InputError, match=message):
        generate_answers(model_of(), tokenizer_of(), prompts, **sizes)


def test_an_answer_may_fill_the_last_position():
    (answer,) = generate_answers(
        model_of(max_position_embeddings=16), tokenizer_of(), prompts_of(9), max_new_tokens=7
    )
    assert answer.tokens == 7


@PEFT_WARNS
def test_a_prompt_learning_adapter_is_refused():
    adapted = get_peft_model(model_of(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(InputError, match="adapter is of type PROMPT_TUNING"):
        generate_answers(adapted, tokenizer_of(), prompts_of(2), max_new_tokens=2)
