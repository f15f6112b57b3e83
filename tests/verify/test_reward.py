"""A reward model as a verifier, against stock transformers one row at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

from helpers.small_tokenizers import CHATML, byte_level
from minordpo.errors import InputError
from minordpo.verify.verdict import Asked
from minordpo.verify.verifier import Verifier, load_verifier

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.25,
    "num_labels": 1,
}
ANSWERS = ("Yes.", "No", "The answer is Yes. " * 4, "", "hello there, how are you?", "No")
CHAT = Asked(row=4, prompt=[{"role": "user", "content": "Is it so?"}])
TEXT = Asked(row=5, prompt="Is it so? ")


def saved(folder: Path, model_class, config_class, *, template: str | None, **settings) -> Path:
    tokenizer = byte_level(template)
    config = config_class(**SIZES | {"vocab_size": len(tokenizer)} | settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def llama(tmp_path) -> Path:
    return saved(
        tmp_path / "llama", LlamaForSequenceClassification, LlamaConfig, template=CHATML, pad_token_id=None
    )


def verifier(folder: Path, **options) -> Verifier:
    return load_verifier(f"reward:{folder}", allow_code=False, **options)


def scores(found: Verifier, *groups) -> list[list[float]]:
    verdicts = dict(found.verdicts([(key, *group) for key, group in enumerate(groups)]))
    assert list(verdicts) == list(range(len(groups)))
    assert {each.passed for of in verdicts.values() for each in of} == {None}
    return [[each.score for each in of] for of in verdicts.values()]


def plain(folder: Path, text: str) -> float:
    """Stock transformers, one row, nothing padded."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = tokenizer(text, add_special_tokens=not tokenizer.chat_template, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids).logits.item()


@pytest.mark.parametrize("padding", [None, 0, 4])  # 4 is <|im_end|>, which the template writes near the end
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    ("model_class", "config_class"),
    [(LlamaForSequenceClassification, LlamaConfig), (Qwen2ForSequenceClassification, Qwen2Config)],
)
def test_scores_are_those_of_stock_transformers_one_by_one(
    tmp_path, model_class, config_class, batch_size: int, padding: int | None
):
    # Without the line break that CHATML ends in, <|im_end|> is the last token.
    template = CHATML.replace("<|im_end|>\n{% endfor %}", "<|im_end|>{% endfor %}")
    folder = saved(tmp_path / "model", model_class, config_class, template=template, pad_token_id=padding)
    chat, text = scores(verifier(folder, reward_batch_size=batch_size), (CHAT, ANSWERS), (TEXT, ANSWERS))
    head = "<|im_start|>user\nIs it so?{}<|im_end|><|im_start|>assistant\n{}<|im_end|>"
    expected = [plain(folder, head.format("", answer)) for answer in ANSWERS]
    assert chat == pytest.approx(expected, abs=1e-5)
    assert text == pytest.approx([plain(folder, head.format(" ", answer)) for answer in ANSWERS], abs=1e-5)
    assert len(set(expected)) == len(set(ANSWERS))  # no two alike but those of one text


def test_without_a_template_prompt_and_answer_are_one_text(tmp_path):
    folder = saved(tmp_path / "m", LlamaForSequenceClassification, LlamaConfig, template=None)
    found = verifier(folder)
    found.check([TEXT])
    (of,) = scores(found, (TEXT, ANSWERS))
    assert of == pytest.approx([plain(folder, TEXT.prompt + answer) for answer in ANSWERS], abs=1e-5)
    with pytest.raises(
        InputError, match=r"^row 4 of the prompts is a chat, but the tokenizer of --verify .* no chat"
    ):
        found.check([TEXT, CHAT])


def test_many_groups_come_in_their_order_and_as_a_stream(llama):
    found = verifier(llama, reward_batch_size=2)
    taken = []

    def groups():
        for key in range(40):
            taken.append(key)
            yield key, CHAT, ["Yes." * (1 + key % 3), "No"]

    verdicts = found.verdicts(groups())
    assert next(verdicts)[0] == 0
    assert len(taken) == 16  # sequences of sixteen batches of two
    assert [key for key, _ in verdicts] == list(range(1, 40))
    assert found.cost(40, 2) == f"reward:{llama}: 80 sequences, 2 at a time"


def test_bfloat16_is_near_float32_and_another_setting(llama):
    (exact,) = scores(verifier(llama), (CHAT, ANSWERS))
    half = verifier(llama, reward_dtype="bfloat16")
    (near,) = scores(half, (CHAT, ANSWERS))
    assert near != exact
    assert near == pytest.approx(exact, abs=0.2)
    assert half.settings() != verifier(llama).settings() == verifier(llama, reward_batch_size=1).settings()


def test_the_score_is_that_of_an_evaluated_model(tmp_path):
    folder = saved(
        tmp_path / "m",
        LlamaForSequenceClassification,
        LlamaConfig,
        template=CHATML,
        attention_dropout=0.5,
        pad_token_id=0,
    )
    found = verifier(folder)
    assert scores(found, (CHAT, ANSWERS)) == scores(found, (CHAT, ANSWERS))


def test_a_model_without_a_head_is_refused(tmp_path):
    folder = saved(tmp_path / "m", LlamaForCausalLM, LlamaConfig, template=CHATML)
    with pytest.raises(
        InputError, match=r"of a LlamaForSequenceClassification .* first score\.weight is missing"
    ):
        verifier(folder).check([CHAT])


def test_a_classifier_of_several_labels_is_refused(tmp_path):
    folder = saved(tmp_path / "m", LlamaForSequenceClassification, LlamaConfig, template=CHATML, num_labels=3)
    with pytest.raises(
        InputError, match=r"is a classifier with 3 labels, but a reward model with 1 label is needed"
    ):
        verifier(folder).check([CHAT])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "holds a config but no weights"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (
            lambda folder: (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "base"}'),
            r"is an adapter, but a whole reward model is needed\. Merge it into base first",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99),
            "sequence classifier with one label",
        ),
    ],
)
def test_a_folder_that_is_no_reward_model_is_refused(llama, spoil, message: str):
    spoil(llama)
    with pytest.raises(InputError, match=message):
        verifier(llama).check([CHAT])


def test_what_the_model_cannot_read_is_refused_with_the_row(llama, tmp_path):
    with pytest.raises(
        InputError, match=r"^an answer to row 4 of the prompts is with .* \d+ tokens long, .*256"
    ):
        scores(verifier(llama), (CHAT, ["a" * 300]))
    picky = CHATML.replace(
        "{% for m in messages %}", "{% for m in messages %}{{ raise_exception('no system') }}", 1
    )
    folder = saved(tmp_path / "picky", LlamaForSequenceClassification, LlamaConfig, template=picky)
    with pytest.raises(
        InputError, match=r"the chat template of --verify .* fails on row 4 of the prompts: no system"
    ):
        verifier(folder).check([CHAT])


def test_a_score_that_is_not_finite_is_refused_with_the_row(llama):
    model = LlamaForSequenceClassification.from_pretrained(llama)
    model.score.weight.data.fill_(torch.nan)
    model.save_pretrained(llama)
    with pytest.raises(
        InputError, match=r"gave an answer to row 4 of the prompts the score nan, but a finite"
    ):
        scores(verifier(llama), (CHAT, ANSWERS))
