"""The model card: what was measured, in words with units, and nothing that a model wrote outside its block."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import LoraConfig
from transformers import TrainerCallback

from helpers.tiny_runs import (
    RENAMED,
    metric_rows,
    moved,
    save_tiny,
    tiny_model,
    token_pairs,
    tokenizer,
    trainer,
)
from minordpo.config import ModelConfig, RunConfig, load_config
from minordpo.data.tokens import TokenExample
from minordpo.engine.models import load_model, save_model
from minordpo.train.card import model_card
from minordpo.train.trainer import PreferenceTrainer

pytestmark = [pytest.mark.filterwarnings(each) for each in RENAMED]

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def config(objective: str = "minordpo", *overrides: str) -> RunConfig:
    settings = [
        "model.path=org/base",
        "data.train=pairs.jsonl",
        f"objective.name={objective}",
        "output=runs/a",
    ]
    return load_config(None, [*settings, *overrides])


def trained(folder: Path, **settings: Any) -> PreferenceTrainer:
    """Three steps, and the held-out pairs measured after them."""
    made = trainer(folder, **{"eval_dataset": token_pairs(11)[8:]} | settings)
    made.train()
    if made.held_out and not made.evaluated_now():
        made.evaluate()
    return made


def sample(when: str, row: int, prompt: str, answer: str, *, stopped: bool = True) -> dict[str, Any]:
    ids = list(range(len(answer)))
    kept = {"when": when, "row": row, "prompt": prompt, "answer": answer, "stopped": stopped}
    return {**kept, "tokens": len(ids) + stopped, "token_ids": ids}


def outside_fences(card: str) -> list[str]:
    """The lines that a reader of Markdown takes for Markdown."""
    found, fence = [], ""
    for line in card.splitlines():
        opening = re.fullmatch(r"(`{3,})\w*", line)
        if fence:
            fence = "" if re.fullmatch(rf"{fence}`*\s*", line) else fence
        elif opening:
            fence = opening[1]
        else:
            found.append(line)
    assert not fence
    return found


def test_the_held_out_pairs_are_told_in_words_with_units(tmp_path):
    card = model_card(config(), trained(tmp_path))
    (last,) = [row for row in metric_rows(tmp_path) if "eval_loss" in row]
    assert "On the 3 held-out pairs, after step 3:\n" in card
    for side in ("chosen", "rejected"):
        value = last[f"eval_logratios/{side}"]
        than = "more" if value > 0 else "less"
        assert (
            f"- On average the {side} responses are {than} likely than under the reference: log-ratio {value:+.2f} "
            "nats.\n" in card
        )
    right = last["eval_rewards/accuracies"]
    assert (
        f"- {right:.0%} ({round(3 * right)} of 3) of the pairs are ranked right: the chosen response" in card
    )
    below = last["eval_chosen_below_reference"]
    assert f"- {below:.0%} ({round(3 * below)} of 3) of the chosen responses are less likely" in card


def test_what_it_was_made_from_is_said(tmp_path):
    made = trained(tmp_path, learning_rate=2e-4, seed=7, beta=0.3)
    card = model_card(config("minordpo", "objective.beta=0.3"), made)
    assert card.splitlines().count("# `base` tuned with `minordpo`") == 1
    for line in (
        "- Model: `org/base`; every weight was tuned.",
        "- Reference: the same model before training.",
        "- Data: 8 pairs of `pairs.jsonl`; 3 others were held out.",
        "- Training: 3 steps of 4 pairs (passes over the data: 1.5), learning rate 0.0002, linear schedule, seed 7.",
        "`minordpo` with beta = 0.3, gate_margin = 0.0, a loss for each prompt:",
        "    −log σ(β chosen_logratio − β max(0, rejected_logratio − gate_margin))",
    ):
        assert line in card.splitlines()
    assert "Source: Xie et al. 2024 (arXiv 2408.09834), Eq. 6" in card
    facts = yaml.safe_load(card.split("---\n")[1])
    assert facts == {
        "library_name": "transformers",
        "base_model": "org/base",
        "pipeline_tag": "text-generation",
        "tags": ["preference-tuning", "minordpo"],
    }


def test_each_term_of_a_sum_has_its_weight_and_formula(tmp_path):
    made = trained(tmp_path, objective="minordpo + 0.1*sft")
    lines = model_card(config("minordpo + 0.1*sft"), made).splitlines()
    assert "1 × `minordpo` with beta = 0.1, gate_margin = 0.0, a loss for each prompt:" in lines
    assert "0.1 × `sft` with per_token = true, a loss for each prompt:" in lines
    assert "# `base` tuned with `minordpo + 0.1*sft`" in lines


def test_a_folder_is_no_base_model_for_the_hub_and_an_odd_name_breaks_nothing(tmp_path):
    made = trained(tmp_path / "run")
    odd = tmp_path / "a`b|*c*: [d]"
    odd.mkdir()
    folder = model_card(replace(config(), model=ModelConfig(path=str(odd))), made)
    assert "base_model" not in yaml.safe_load(folder.split("---\n")[1])
    assert "# ``a`b|*c*: [d]`` tuned with `minordpo`" in folder.splitlines()
    hub = model_card(replace(config(), model=ModelConfig(path="org/x: {y}")), made)
    assert yaml.safe_load(hub.split("---\n")[1])["base_model"] == "org/x: {y}"


def test_without_held_out_pairs_the_last_step_is_told_as_what_it_is(tmp_path):
    card = model_card(config(), trained(tmp_path, eval_dataset=None))
    last = metric_rows(tmp_path)[-1]
    assert "No pairs were held out. On those that the last step trained on, before its update:\n" in card
    assert f"log-ratio {last['logratios/chosen']:+.2f} nats" in card
    assert f"- {last['rewards/accuracies']:.0%} of the pairs are ranked right" in card
    assert "Greedy answers" not in card


def test_labelled_and_ranked_responses_have_their_own_words(tmp_path):
    pairs = token_pairs(8)
    single = [
        TokenExample(p.prompt_ids, p.responses[i % 2 : i % 2 + 1], (float(1 - i % 2),), row=i)
        for i, p in enumerate(pairs)
    ]
    card = model_card(
        config("kto"), trained(tmp_path / "a", objective="kto", pairs=single, eval_dataset=single[:4])
    )
    assert "- Data: 8 labelled responses of `pairs.jsonl`; 4 others" in card
    assert "On average the undesirable responses are" in card
    assert "ranked right" not in card
    assert re.search(r"- \d+% of the desirable responses are less likely", card)
    ranked = [replace(p, grades=(2.0, 0.0)) for p in pairs]
    card = model_card(
        config("rrhf"), trained(tmp_path / "b", objective="rrhf", pairs=ranked, eval_dataset=ranked[:4])
    )
    assert "of the prompts with ranked responses are ranked right: the best response has a larger" in card


def test_the_weights_kept_as_the_best_are_those_whose_measures_are_told(tmp_path):
    class SecondIsBest(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, *, metrics: Any, **kwargs: Any) -> None:
            metrics["eval_loss"] = float(abs(state.global_step - 2))

    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    made = trained(
        tmp_path, callbacks=[SecondIsBest()], load_best_model_at_end=True, learning_rate=1e-2, **settings
    )
    rows = {row["step"]: row for row in metric_rows(tmp_path) if "eval_loss" in row}
    card = model_card(config(), made)
    assert "On the 3 held-out pairs, after step 2, whose weights are kept as the best by loss:\n" in card
    assert f"log-ratio {rows[2]['eval_logratios/chosen']:+.2f} nats" in card
    assert f"{rows[2]['eval_logratios/chosen']:+.2f}" != f"{rows[3]['eval_logratios/chosen']:+.2f}"


# ---- sample answers ----
def test_shares_of_the_answers_stand_before_and_after_with_the_first_two_to_read(tmp_path):
    rows = [
        sample("before", 3, "Q3", "one"),
        sample("before", 5, "Q5", "two", stopped=False),
        sample("before", 8, "Q8", "three", stopped=False),
        sample("after", 3, "Q3", "So the answer is: 7"),
        sample("after", 5, "Q5", "five"),
        sample("after", 8, "Q8", "six", stopped=False),
    ]
    lines = model_card(config(), trained(tmp_path), rows).splitlines()
    assert "| ended by themselves | 33% | 67% |" in lines
    assert '| with a line "So the answer is: N" | 0% | 33% |' in lines
    assert any("one answer is 33% of a share" in line for line in lines)
    at = lines.index("**Row 5: the prompt**")
    shown = [line for line in lines[at:] if line][:10]
    assert shown == [
        "**Row 5: the prompt**",
        *("```", "Q5", "```", "**The answer before** (ran into the limit)"),
        *("```", "two", "```", "**The answer after**", "```"),
    ]
    assert "**Row 8: the prompt**" not in lines


def test_a_format_that_nobody_asked_for_is_not_spoken_of(tmp_path):
    rows = [sample(when, 1, "Hello", "there") for when in ("before", "after")]
    assert "So the answer is" not in model_card(config(), trained(tmp_path), rows)


@pytest.mark.parametrize("field", ["answer", "prompt"])
def test_what_a_model_wrote_stays_in_its_block(tmp_path, field):
    hostile = "\n".join(
        [
            "# HOSTILE heading",
            "```",
            "HOSTILE [link](javascript:alert(1)) <script>HOSTILE</script>",
            "`````",
            "| HOSTILE | table |",
            "~~~",
            "---",
            "HOSTILE\u2028HOSTILE\x1b[31m\u202eHOSTILE\r# HOSTILE",
            "``````` HOSTILE",
        ]
    )
    texts = {"answer": "fine", "prompt": "fine", field: hostile}
    card = model_card(config(), trained(tmp_path), [sample(w, 1, **texts) for w in ("before", "after")])
    assert card.count("HOSTILE") >= 8
    assert not [line for line in outside_fences(card) if "HOSTILE" in line]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u2028\u202e]", card)
    assert "## Use" in outside_fences(card)


def test_long_texts_are_cut_where_it_is_said(tmp_path):
    rows = [sample(w, 1, "p" * 3000 + "END", "BEGIN" + "a" * 3000) for w in ("before", "after")]
    card = model_card(config(), trained(tmp_path), rows)
    assert "**Row 1: the end of the prompt**" in card
    assert re.search(r"\n…p+END\n", card)
    assert re.search(r"\nBEGINa+…\n", card)
    assert len(card) < 9000


# ---- use ----
def test_an_adapter_says_what_it_sits_on(tmp_path):
    made = trained(tmp_path / "a", peft_config=LoraConfig(**LORA))
    card = model_card(replace(config(), lora=LORA), made)
    assert "- Model: `org/base`; a LoRA adapter of rank 4 was tuned on top of it." in card
    assert "An adapter: `AutoPeftModelForCausalLM.from_pretrained` of peft loads it on its base." in card
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "peft"
    save_tiny(tmp_path / "base")
    sft = trainer(tmp_path / "b", model=str(tmp_path / "base"), peft_config=LoraConfig(**LORA))
    save_model(sft.model, tokenizer(), tmp_path / "sft")
    above = trained(tmp_path / "c", model=load_model(str(tmp_path / "sft")), peft_config=LoraConfig(**LORA))
    assert "Two adapters: the tuned one, and in `reference/` the one" in model_card(
        replace(config(), lora=LORA), above
    )


def test_another_reference_is_named_and_an_unmoved_value_has_no_direction(tmp_path):
    other = "model.reference=org/other"
    made = trained(tmp_path / "a", ref_model=moved(tiny_model(), by=0.05))
    assert "- Reference: `org/other`." in model_card(config("minordpo", other), made)
    still = trained(tmp_path / "b", learning_rate=0.0)
    assert "- The chosen responses have a mean log-ratio of 0.00 nats." in model_card(config(), still)
