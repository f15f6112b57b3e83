"""Our ids beside those that TRL 1.16 makes of the same rows."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from helpers.example_pairs import text_pair
from helpers.places import SHARED
from helpers.small_tokenizers import smollm2, tokenize_example
from minordpo.data.tokens import TokenExample, TokenOptions, tokenize_examples

DEMO = SHARED / "data" / "chat" / "dpo_en_demo.json"
NO_LIMIT = TokenOptions(max_length=None)


@pytest.fixture(scope="module")
def smol():
    return smollm2()


def trl_ids(rows: list[dict], tokenizer) -> list[dict]:
    """The ids that TRL's DPOTrainer makes of the rows, by its own code."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    args = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    trainer = SimpleNamespace(_tokenizer=tokenizer)
    dataset = datasets.Dataset.from_list(rows)
    return list(trl.DPOTrainer._prepare_dataset(trainer, dataset, tokenizer, args, "train"))


@pytest.mark.peer
@pytest.mark.parametrize("layout", ["chat", "text", "implicit chat", "implicit text"])
def test_ids_are_those_of_trl(smol, layout):
    questions = ["Capital of France?", "Is 7 prime, and why? Explain.\n\nBriefly.", "Grüße – 🙂?"]
    answers = [("Paris.", "Lyon, I think."), ("Yes.\n", "No\n\n"), ("日本 🗾", "ok")]
    rows, pairs = [], []
    for question, (chosen, rejected) in zip(questions, answers, strict=True):
        if layout.endswith("chat"):
            turns = [[{"role": "assistant", "content": answer}] for answer in (chosen, rejected)]
            pairs.append(text_pair([{"role": "user", "content": question}], *turns, row=1))
        else:
            pairs.append(text_pair(f"Q: {question}\nA:", " " + chosen, " " + rejected, row=1))
        pair = pairs[-1]
        explicit = {"prompt": pair.prompt, "chosen": pair.responses[0], "rejected": pair.responses[-1]}
        whole = {"chosen": pair.prompt + pair.responses[0], "rejected": pair.prompt + pair.responses[-1]}
        rows.append(whole if layout.startswith("implicit") else explicit)
    for pair, theirs in zip(pairs, trl_ids(rows, smol), strict=True):
        ours = tokenize_example(pair, smol, options=NO_LIMIT)
        assert ours.prompt_ids.tolist() == theirs["prompt_ids"]
        assert ours.responses[0].ids.tolist() == theirs["chosen_ids"]
        assert ours.responses[-1].ids.tolist() == theirs["rejected_ids"]
        assert ours.responses[0].scored.all()
        assert ours.responses[-1].scored.all()


@pytest.mark.peer
def test_a_prompt_is_whole_where_trl_takes_its_last_token_away(smol):
    prompt = [{"role": "user", "content": "Prime?"}]
    chosen, rejected = ([{"role": "assistant", "content": answer}] for answer in ("Yes.", "  No"))
    (theirs,) = trl_ids([{"prompt": prompt, "chosen": chosen, "rejected": rejected}], smol)
    ours = tokenize_example(text_pair(prompt, chosen, rejected, row=1), smol, options=NO_LIMIT)
    seen = smol.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    assert ours.prompt_ids.tolist() == seen
    assert theirs["prompt_ids"] == seen[:-1]
    assert smol.decode(theirs["rejected_ids"]) == "\n  No<|im_end|>\n"
    assert smol.decode(ours.responses[-1].ids.tolist()) == "  No<|im_end|>\n"
    assert "boundary" in ours.notes


@pytest.mark.peer
@pytest.mark.shared
def test_ids_are_those_of_trl_on_real_conversations(smol):
    if not DEMO.exists():
        pytest.skip("the shared data folder is not there")
    roles = {"human": "user", "gpt": "assistant", "system": "system"}

    def message(turn: dict) -> dict:
        return {"role": roles[turn["from"]], "content": turn["value"]}

    rows = [
        {
            "prompt": [message(turn) for turn in row["conversations"]],
            "chosen": [message(row["chosen"])],
            "rejected": [message(row["rejected"])],
        }
        for row in json.loads(DEMO.read_text())[:60]
    ]
    pairs = [text_pair(**row, row=i) for i, row in enumerate(rows, 1)]
    ours = tokenize_examples(pairs, smol, options=NO_LIMIT)
    for pair, theirs in zip(ours, trl_ids(rows, smol), strict=True):
        assert isinstance(pair, TokenExample)
        assert pair.prompt_ids.tolist() == theirs["prompt_ids"]
        assert pair.responses[0].ids.tolist() == theirs["chosen_ids"]
        assert pair.responses[-1].ids.tolist() == theirs["rejected_ids"]
