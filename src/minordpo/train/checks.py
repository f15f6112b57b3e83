"""What the trainer makes sure of before it starts: pairs prepared, weights wide enough."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftConfig, PeftModel
from torch import nn
from transformers import IntervalStrategy, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from minordpo.data.cache import cached_examples
from minordpo.data.prepare import prepare_examples
from minordpo.data.read.examples import examples_from_rows
from minordpo.data.read.rows import rows_of
from minordpo.data.stored import StoredExamples
from minordpo.data.tokens import TokenExample, TokenOptions
from minordpo.errors import InputError, did_you_mean
from minordpo.objectives import Objective, refuse_data
from minordpo.run_folder.records import EvaluationRow
from minordpo.train.metrics import METRICS


def prepare_rows(
    rows: Any,
    name: str,
    tokenizer: PreTrainedTokenizerBase | None,
    options: TokenOptions | None,
    invalid: Literal["refuse", "drop"],
    objective: Objective,
    cache: Path | None,
) -> StoredExamples:
    """Rows of any known layout as token examples; token examples as they are. The report on the rows is printed.

    Raises:
        InputError: rows that cannot be used, or not by the objective.
    """
    if name == "eval_dataset" and isinstance(rows, Sequence) and not len(rows):
        return StoredExamples.of([])
    if not hasattr(rows, "__iter__"):
        raise InputError(
            f"{name} is a {type(rows).__name__}, but a Dataset or a list of rows is needed. Pass one"
        )
    if isinstance(rows, Sequence) and len(rows) and isinstance(rows[0], TokenExample):
        stored = rows if isinstance(rows, StoredExamples) else _stored(rows, name)
        refuse_unsuited(objective, stored, name)
        return stored
    if tokenizer is None:
        raise InputError("processing_class is missing: pass the model's tokenizer")
    if isinstance(rows, Mapping):
        raise InputError(f"{name} is a dict of data sets; pass one data set")
    how: dict[str, Any] = {"invalid": invalid, "progress": True}
    options = options or TokenOptions()
    if cache is None:
        prepared = prepare_examples(
            examples_from_rows(rows, source=name, invalid=invalid), tokenizer, options, **how
        )
    else:
        prepared = cached_examples(rows_of(rows, source=name), tokenizer, options, cache=cache, **how)
    refuse_unsuited(objective, prepared.examples, name)
    print(prepared.report)
    return prepared.examples


def _stored(rows: Sequence[Any], name: str) -> StoredExamples:
    other = next((i for i, row in enumerate(rows, 1) if not isinstance(row, TokenExample)), None)
    if other is not None:
        raise InputError(f"row {other} of {name} is no TokenExample as the first is. Pass rows of one kind")
    return StoredExamples.of(rows)


def refuse_unsuited(objective: Objective, examples: StoredExamples, source: str) -> None:
    """Refuse examples that the objective cannot use.

    Raises:
        InputError: with the objectives that can use them.
    """
    single = int((examples.counts == 1).sum())
    if 0 < single < len(examples):
        raise InputError(
            f"{source} holds {single} single responses among {len(examples)} examples. Give pairs, labelled "
            "or ranked responses, not a mixture"
        )
    kind = "labelled" if single else "pairs" if examples.are_pairs else "ranked"
    refuse_data(objective, kind, ([grade] for grade in examples.grades.tolist()), source)


def with_reference(objective: Objective, *, measure: bool) -> bool:
    """Whether a run has a reference: where the objective needs it, or it is wanted for measurement.

    Raises:
        InputError: it is needed and not wanted.
    """
    if objective.reference and not measure:
        raise InputError(
            f"metrics.reference is false, but the objective {objective.name} is made of reference log-probs. "
            "Leave metrics.reference out"
        )
    return measure


def refuse_wrong_types(model: Any, peft_config: Any, invalid: Any, token_budget: Any) -> None:
    """Refuse arguments that are not what they are called, before anything slow.

    Raises:
        InputError: one of them.
    """
    for name, value, kinds in (
        ("model", model, (PreTrainedModel, PeftModel, str)),
        ("peft_config", peft_config, (PeftConfig, type(None))),
    ):
        if not isinstance(value, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds).replace("NoneType", "None")
            raise InputError(f"{name} is a {type(value).__name__}, but a {wanted} is needed. Pass one")
    if invalid not in ("refuse", "drop"):
        raise InputError(f"invalid is {invalid!r}, but must be refuse or drop")
    if token_budget is not None and token_budget < 1:
        raise InputError(f"token_budget is {token_budget}, but a row holds at least 1 token. Raise it")


def refuse_unmeasured(args: TrainingArguments, objective: Objective, *, held_out: bool) -> None:
    """Refuse settings that measure on held-out examples where there are none, or that would not be looked at.

    Raises:
        InputError: one of them.
    """
    strategy = IntervalStrategy(args.eval_strategy).value
    if strategy != "no" and not held_out:
        raise InputError(
            f"training.eval_strategy is {strategy}, but there are no held-out pairs. Set data.eval (or pass "
            "eval_dataset), or leave eval_strategy out"
        )
    if strategy == "no" and args.eval_steps is not None:
        raise InputError(
            f"training.eval_steps is {args.eval_steps:g}, but training.eval_strategy is no, so it would not be looked "
            "at. Set training.eval_strategy=steps, or leave eval_steps out"
        )
    best, known = args.metric_for_best_model, [*METRICS, *objective.report_names]
    if best is not None and best.removeprefix(EvaluationRow.PREFIX) not in known:
        raise InputError(
            f"training.metric_for_best_model is {best}, which is not measured"
            f"{did_you_mean(best.removeprefix(EvaluationRow.PREFIX), known)}. Measured are: {', '.join(known)}"
        )


def refuse_lone_prompts(objective: Objective, prompts: int) -> None:
    """An objective that pairs prompts with each other's responses needs two of them a step.

    Raises:
        InputError: there is one.
    """
    if objective.mismatched and prompts < 2:
        raise InputError(
            f"{objective.name} compares with responses to other prompts of the step, but a step has 1 prompt. Raise "
            "training.per_device_train_batch_size or training.gradient_accumulation_steps"
        )


def widen_weights(model: nn.Module) -> str | None:
    """Make all trainable weights float32, and return a line where some were not.

    One Adam step of 1e-5 moves only 2 % of bfloat16 weights. A base frozen under an adapter stays as it is.

    Raises:
        InputError: no weight is trainable, or trainable weights are neither float32 nor narrower floating point.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise InputError(
            "every weight of the model is frozen; unfreeze some, or pass peft_config (in a config: lora) for an adapter"
        )
    kinds = sorted({str(p.dtype).removeprefix("torch.") for p in trained} - {"float32"})
    if not kinds:
        return None
    if not {*kinds} <= {"bfloat16", "float16"}:
        raise InputError(
            f"trainable weights are {' and '.join(kinds)}, but float32 is needed. Load the model in float32"
        )
    for parameter in trained:
        parameter.data = parameter.data.float()
    if len(trained) == sum(1 for _ in model.parameters()):
        model.float()  # buffers too
    return (
        f"the weights were {' and '.join(kinds)} and are trained in float32, which takes twice their memory: in "
        f"{kinds[0]} most of a small update is lost. For speed set bf16=true (in a config: training.bf16)"
    )


def tell_slow_bfloat16(args: TrainingArguments) -> None:
    """Say so where bfloat16 makes a run slower: a processor without instructions for it emulates each product."""
    if not args.bf16 or args.device.type != "cpu" or args.process_index:
        return
    wide, narrow = (_seconds_of_product(dtype) for dtype in (torch.float32, torch.bfloat16))
    if narrow > 2 * wide:
        print(
            f"a bfloat16 matrix product takes {narrow / wide:.0f} times as long as a float32 one on this processor: "
            "training.bf16=false would be faster",
            file=sys.stderr,
        )


def _seconds_of_product(dtype: torch.dtype) -> float:
    """The least of three, of a size that a small model's layers have."""
    left, right = torch.ones(256, 576, dtype=dtype), torch.ones(576, 576, dtype=dtype)
    taken = []
    for _ in range(4):  # the first one warms up
        started = time.perf_counter()
        left @ right
        taken.append(time.perf_counter() - started)
    return min(taken[1:])
