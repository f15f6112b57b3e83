"""Seconds and peak memory of an optimizer step: minordpo beside TRL's DPOTrainer, on the same batches.

    python benchmarks/step.py --model FOLDER --pairs FILE --pairs-per-step 8 --steps 3 --rounds 3

Each measurement is a process of its own, the two alternate, and what is compared are medians over the rounds. Both
train DPO on the same pairs in the same order, with fused AdamW and the reference computed beforehand (not timed). TRL
runs a step as padded batches of `--trl-batch` pairs, which are added up; minordpo cuts it into packed rows by its own
token budget. A step is timed from the end of one optimizer step to the end of the next, so batching counts; the
first one warms up and does not. Losses and the gradient's norm of both are printed: they are the same computation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import append_rows, machine, read_pairs, trl_trainer
from minordpo.errors import InputError

WHO = ("minordpo", "trl")


def main() -> int:
    arguments = parser().parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return 0
    if arguments.profile:
        print(profile(arguments))
        return 0
    rows = compare(arguments)
    print(table(rows))
    print(f"{arguments.out}: {len(rows)} rows added")
    return 0


def compare(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the two in turn, add their rows to the CSV, and return these."""
    # The parent imports no torch: a child's peak memory starts at what its parent held when it was forked.
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in WHO}
    for number in range(arguments.rounds):
        for who in WHO:
            found[who].append(_in_process(arguments, who))
            last = found[who][-1]
            print(
                f"round {number + 1}, {who}: {last['seconds']:.3f} s a step, {last['memory_gb']:.2f} GB",
                flush=True,
            )
    rows = _rows(arguments, found)
    append_rows(arguments.out, rows)
    return rows


def parser() -> argparse.ArgumentParser:
    """The options of a comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--pairs", required=True, help="pairs in any layout that minordpo reads")
    parser.add_argument("--pairs-per-step", type=_positive, default=8)
    parser.add_argument(
        "--steps", type=_positive, default=3, help="timed steps of each measurement, after a warm-up"
    )
    parser.add_argument("--rounds", type=_positive, default=3, help="measurements of each of the two")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16 is autocast on float32 weights",
    )
    parser.add_argument(
        "--max-length", type=_positive, default=1024, help="pairs with more tokens are passed over"
    )
    parser.add_argument("--lora", action="store_true", help="train an adapter of rank 16 on every layer")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in both")
    parser.add_argument(
        "--trl-batch", type=_positive, help="pairs of TRL's padded batches (default: all of a step)"
    )
    parser.add_argument("--warm-up", type=int, default=1, help="steps before those that are timed")
    parser.add_argument("--work", default="", help="what the comparison is called in the CSV")
    parser.add_argument(
        "--profile", action="store_true", help="instead: where minordpo's steps spend their time"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "steps.csv")
    parser.add_argument("--measure", choices=WHO, help=argparse.SUPPRESS)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is given, but 1 or more is needed")
    return number


# ---- one measurement, in a process of its own ----
def _in_process(arguments: argparse.Namespace, who: str) -> dict[str, Any]:
    options = [
        f"--{name.replace('_', '-')}={value}" for name, value in vars(arguments).items() if _is_given(value)
    ]
    switches = [f"--{name.replace('_', '-')}" for name, value in vars(arguments).items() if value is True]
    command = [sys.executable, __file__, *options, *switches, "--measure", who]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"measuring {who} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _is_given(value: Any) -> bool:
    return value is not None and not isinstance(value, bool)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step, peak memory and what was computed, of one of the two in this process."""
    from minordpo.engine.models import load_model, load_tokenizer

    steps = arguments.steps + arguments.warm_up
    count = steps * arguments.pairs_per_step
    tokenizer = load_tokenizer(arguments.model)
    rows, tokens = read_pairs(arguments.pairs, tokenizer, count, max_length=arguments.max_length)
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "output_dir": folder,
            "max_steps": steps,
            "learning_rate": 1e-5,
            "bf16": arguments.dtype == "bfloat16",
            "logging_steps": 1,
        }
        if arguments.checkpointing:
            settings["activation_checkpointing"] = True
        model = load_model(arguments.model)
        make = _minordpo if arguments.measure == "minordpo" else _trl
        trainer, watch = make(model, tokenizer, rows, tokens, settings, arguments)
        trainer.train()
    seconds = [end - start for start, end in zip(watch.ends, watch.ends[1:], strict=False)][
        arguments.warm_up :
    ]
    logs = [log for log in trainer.state.log_history if "grad_norm" in log]
    return {
        **machine(),
        "seconds": statistics.mean(seconds),
        "memory_gb": _peak_memory() / 1e9,
        "tokens": statistics.mean(watch.tokens[arguments.warm_up :]),
        "floor": statistics.mean(watch.products[arguments.warm_up :]) / products_a_second(arguments.dtype),
        "loss_first": logs[0]["loss"],
        "loss_last": logs[-1]["loss"],
        "grad_norm_first": logs[0]["grad_norm"],
    }


def _minordpo(
    model: Any,
    tokenizer: Any,
    rows: Any,
    tokens: Any,
    settings: dict[str, Any],
    arguments: argparse.Namespace,
) -> tuple[Any, Any]:
    import torch
    from transformers import TrainingArguments

    from minordpo.train.trainer import PreferenceTrainer

    common: dict[str, Any] = {
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "per_device_train_batch_size": arguments.pairs_per_step,
    }
    args = TrainingArguments(**common, disable_tqdm=True, use_cpu=not torch.cuda.is_available(), **settings)
    watch = _watch(
        model,
        arguments,
        lambda step: sum(len(batch.input_ids) for batch in step.batches),
        lambda step: sum(len(batch.targets) for batch in step.batches),
    )
    trainer = _counted(PreferenceTrainer, watch)(
        model,
        objective="dpo",
        beta=0.1,
        args=args,
        train_dataset=tokens,
        processing_class=tokenizer,
        peft_config=_adapter() if arguments.lora else None,
        callbacks=[watch],
    )
    trainer.precompute_reference()
    return trainer, watch


def _trl(
    model: Any,
    tokenizer: Any,
    rows: Any,
    tokens: Any,
    settings: dict[str, Any],
    arguments: argparse.Namespace,
) -> tuple[Any, Any]:
    from trl import DPOTrainer

    batch = arguments.trl_batch or arguments.pairs_per_step
    watch = _watch(
        model,
        arguments,
        lambda inputs: inputs["input_ids"].numel(),
        lambda inputs: inputs["input_ids"].numel(),
    )
    trainer = trl_trainer(
        model,
        tokenizer,
        rows,
        tokens,
        kind=_counted(DPOTrainer, watch),
        peft_config=_adapter() if arguments.lora else None,
        precompute_ref_log_probs=True,
        beta=0.1,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=arguments.pairs_per_step // batch,
        max_length=None,
        **settings,
    )
    trainer.add_callback(watch)
    return trainer, watch


def _adapter() -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _counted(kind: Any, watch: Any) -> Any:
    """The trainer's class with the tokens of each step counted as they go in."""

    class Counted(kind):
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            watch.see(inputs)
            return super().training_step(model, inputs, *rest, **named)

    return Counted


def _watch(model: Any, arguments: argparse.Namespace, count: Any, predicted: Any) -> Any:
    import torch
    from transformers import TrainerCallback

    head = model.get_output_embeddings().weight.numel()
    embedding = model.get_input_embeddings().weight.numel()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    layers = sum(p.numel() for p in model.parameters()) - embedding - (0 if tied else head)
    # Forward, gradients of activations and of weights are 2 operations a weight and token each; an adapter leaves out
    # the third, checkpointing runs the layers' first again. Attention itself is not counted.
    passes = 2 if arguments.lora else 3

    class Watch(TrainerCallback):
        """When each optimizer step was done, and what was computed for it."""

        def __init__(self) -> None:
            self.ends: list[float] = []
            self.tokens: list[int] = [0]
            self.products: list[float] = [0.0]

        def see(self, inputs: Any) -> None:
            """Count a batch of the step that is under way."""
            tokens = count(inputs)
            self.tokens[-1] += tokens
            over_layers = layers * tokens * (passes + arguments.checkpointing)
            self.products[-1] += 2 * (over_layers + head * predicted(inputs) * passes)

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())
            self.tokens.append(0)
            self.products.append(0.0)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del self.tokens[-1], self.products[-1]

    return Watch()


def products_a_second(dtype: str) -> float:
    """Operations a second of a large matrix product in that dtype: the best of ten."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(getattr(torch, dtype)) for _ in range(2))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def profile(arguments: argparse.Namespace) -> str:
    """Where the timed steps of minordpo spend their time, by operation."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    from minordpo.train.trainer import PreferenceTrainer

    arguments.measure = "minordpo"
    stock, steps = PreferenceTrainer.training_step, []

    def training_step(self: Any, *inputs: Any, **named: Any) -> Any:
        steps.append(1)
        if len(steps) <= arguments.warm_up:
            return stock(self, *inputs, **named)
        with profiled(activities=[ProfilerActivity.CPU]) as found:
            result = stock(self, *inputs, **named)
        tables.append(
            found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=45)
        )
        return result

    tables: list[str] = []
    PreferenceTrainer.training_step = training_step  # type: ignore[method-assign]  # watched on purpose
    measure(arguments)
    return tables[-1]


def _peak_memory() -> int:
    """Bytes: of the GPU's allocator, or the whole process's on a CPU (interpreter and libraries included)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# ---- what came out ----
def _rows(arguments: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    medians = {
        who: {
            name: statistics.median(run[name] for run in runs)
            for name in ("seconds", "memory_gb", "tokens", "floor")
        }
        for who, runs in found.items()
    }
    rows = []
    for who, runs in found.items():
        seconds, own, peer = [run["seconds"] for run in runs], medians[who], medians["trl"]
        facts = ("date", "machine", "minordpo", "torch", "transformers", "trl")
        rows.append(
            {
                **{name: runs[0][name] for name in facts},
                "work": arguments.work,
                "model": Path(arguments.model).name,
                "dtype": arguments.dtype,
                "tuned": "adapter" if arguments.lora else "full",
                "checkpointing": arguments.checkpointing,
                "trl_batch": arguments.trl_batch or arguments.pairs_per_step,
                "pairs": Path(arguments.pairs).name,
                "pairs_per_step": arguments.pairs_per_step,
                "steps": arguments.steps,
                "rounds": arguments.rounds,
                "who": who,
                "seconds_median": f"{own['seconds']:.4f}",
                "seconds_min": f"{min(seconds):.4f}",
                "seconds_max": f"{max(seconds):.4f}",
                "memory_gb": f"{own['memory_gb']:.3f}",
                "tokens_per_step": round(own["tokens"]),
                "floor_seconds": f"{own['floor']:.3f}",
                "speed_over_trl": f"{peer['seconds'] / own['seconds']:.3f}",
                "memory_over_trl": f"{own['memory_gb'] / peer['memory_gb']:.3f}",
                "tokens_over_trl": f"{own['tokens'] / peer['tokens']:.3f}",
                "loss_first": f"{runs[0]['loss_first']:.6f}",
                "loss_last": f"{runs[0]['loss_last']:.6f}",
                "grad_norm_first": f"{runs[0]['grad_norm_first']:.6f}",
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    shown = {
        "who": "who",
        "seconds_median": "s/step",
        "seconds_min": "min",
        "seconds_max": "max",
        "memory_gb": "peak GB",
        "tokens_per_step": "tokens/step",
        "floor_seconds": "floor s",
        "speed_over_trl": "speed/TRL",
        "memory_over_trl": "memory/TRL",
        "loss_first": "first loss",
        "loss_last": "last loss",
        "grad_norm_first": "first |grad|",
    }
    lines = [list(shown.values()), *([str(row[name]) for name in shown] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(shown))]
    table = "\n".join(
        "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines
    )
    return f"{rows[0]['machine']}, {rows[0]['dtype']}, {rows[0]['pairs']}\n{table}"


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"step.py: {error}")
