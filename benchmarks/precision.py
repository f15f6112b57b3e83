"""Whether bfloat16 trains as float32 does, and minordpo as TRL: held-out log-ratios of the same runs, step by step.

    python benchmarks/precision.py --model FOLDER --pairs FILE --held-out FILE --learning-rate 1e-3
    python benchmarks/precision.py --who minordpo trl --objective dpo --steps 200 …

Every run of a seed has the same pairs in the same order. The first command compares precisions, for each objective and
seed; the second the two programs. The CSV has a row for each measurement of the held-out pairs. The table at the end
says how far runs of one seed lie apart at the last step, beside how far float32 runs of different seeds do.

On a processor without units for bfloat16 its products are computed as units do it: factors in bfloat16, sums in
float32, the result rounded to bfloat16 (`--products stock` takes torch's own, some fifty times slower there).
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, TrainingArguments

from common import append_rows, machine, read_pairs, trl_trainer
from minordpo.engine.models import load_model, load_tokenizer
from minordpo.errors import InputError
from minordpo.run_folder import records as keys
from minordpo.train.trainer import PreferenceTrainer

CHOSEN, REJECTED = f"eval_{keys.CHOSEN_LOGRATIO}", f"eval_{keys.REJECTED_LOGRATIO}"


def main() -> int:
    arguments = _parser().parse_args()
    tokenizer = load_tokenizer(arguments.model)
    count = arguments.steps * arguments.pairs_per_step
    train = list(zip(*read_pairs(arguments.pairs, tokenizer, count, max_length=1024), strict=True))
    held_out = list(
        zip(*read_pairs(arguments.held_out, tokenizer, arguments.held, max_length=1024), strict=True)
    )
    rows: list[dict[str, Any]] = []
    for seed, objective, dtype, who in itertools.product(
        arguments.seeds, arguments.objective, arguments.dtype, arguments.who
    ):
        shuffled = random.Random(seed).sample(train, len(train))
        with _products(arguments.products) if dtype == "bfloat16" else contextlib.nullcontext():
            found = run(arguments, tokenizer, shuffled, held_out, seed, objective, dtype, who)
        facts = {**machine(), "model": Path(arguments.model).name, "products": arguments.products}
        settings = {"learning_rate": arguments.learning_rate, "pairs_per_step": arguments.pairs_per_step}
        made = [
            {**facts, **settings, "who": who, "objective": objective, "dtype": dtype, "seed": seed, **row}
            for row in found
        ]
        append_rows(arguments.out, made)
        rows += made
        last = made[-1]
        print(
            f"seed {seed}, {objective}, {dtype}, {who}: chosen {float(last['chosen']):.2f}, rejected "
            f"{float(last['rejected']):.2f} nats after {last['step']} steps",
            flush=True,
        )
    print(table(rows, arguments.steps))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--held-out", required=True)
    parser.add_argument("--held", type=int, default=64, help="held-out pairs that are measured")
    parser.add_argument("--objective", nargs="+", default=["dpo", "minordpo"])
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--who", nargs="+", choices=("minordpo", "trl"), default=["minordpo"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=5, help="steps between two measurements")
    parser.add_argument("--pairs-per-step", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--products", choices=("units", "stock"), default="units")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "precision.csv")
    return parser


def run(
    arguments: argparse.Namespace,
    tokenizer: Any,
    train: list[Any],
    held_out: list[Any],
    seed: int,
    objective: str,
    dtype: str,
    who: str,
) -> Iterator[dict[str, Any]]:
    """The held-out log-ratios of a run, in nats a response, and the share of its step's gates that were open."""
    model = load_model(arguments.model)
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "output_dir": folder,
            "max_steps": arguments.steps,
            "per_device_train_batch_size": arguments.pairs_per_step,
            "per_device_eval_batch_size": arguments.pairs_per_step,
            "learning_rate": arguments.learning_rate,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 5,
            "bf16": dtype == "bfloat16",
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": arguments.every,
            "train_sampling_strategy": "sequential",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": seed,
        }
        rows, tokens = zip(*train, strict=True)
        held_rows, held_tokens = zip(*held_out, strict=True)
        watch = _Held(1.0 if who == "minordpo" else arguments.beta)
        if who == "minordpo":
            trainer: Any = PreferenceTrainer(
                model,
                objective=objective,
                beta=arguments.beta,
                args=TrainingArguments(use_cpu=not torch.cuda.is_available(), **common),
                train_dataset=list(tokens),
                eval_dataset=list(held_tokens),
                processing_class=tokenizer,
                callbacks=[watch],
            )
        else:
            if objective != "dpo":
                raise InputError(
                    f"TRL is compared with dpo, and {objective} is asked for. Name --objective dpo"
                )
            trainer = trl_trainer(
                model,
                tokenizer,
                rows,
                tokens,
                held_out=held_rows,
                precompute_ref_log_probs=True,
                beta=arguments.beta,
                max_length=None,
                **common,
            )
            trainer.add_callback(watch)
        trainer.train()
    return watch.rows


class _Held(TrainerCallback):
    """Collects held-out log-ratios in nats; the logged values are divided by `scale`."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.open: list[float] = []
        self.rows: list[dict[str, Any]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        closed = logs.get(keys.NO_REJECTED_GRADIENT)
        if closed is not None:
            self.open.append(1 - closed)
        chosen = logs.get(CHOSEN, logs.get(f"eval_{keys.CHOSEN_REWARD}"))
        rejected = logs.get(REJECTED, logs.get(f"eval_{keys.REJECTED_REWARD}"))
        if chosen is None or rejected is None:
            return
        self.rows.append(
            {
                "step": state.global_step,
                "chosen": f"{chosen / self.scale:.4f}",
                "rejected": f"{rejected / self.scale:.4f}",
                "open_gates_least": f"{min(self.open, default=1):.3f}",
                "open_gates_most": f"{max(self.open, default=1):.3f}",
            }
        )


@contextlib.contextmanager
def _products(kind: str) -> Iterator[None]:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    if kind == "stock" or torch.cuda.is_available() or "avx512_bf16" in flags or "amx_bf16" in flags:
        yield
        return
    with _AsUnits():
        yield


class _AsUnits(TorchDispatchMode):
    """Products of bfloat16 tensors by float32 ones: the same factors, sums in float32, the result rounded."""

    NAMES = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu")
    NAMES = (*NAMES, "_scaled_dot_product_flash_attention_for_cpu_backward")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition("::")[2].partition(".")[0]
        kwargs = kwargs or {}
        if name not in self.NAMES or not any(_is_narrow(each) for each in args):
            return func(*args, **kwargs)
        widened = [_widened(each) for each in args]
        found = func(*widened, **{key: _widened(each) for key, each in kwargs.items()})
        if "out" in kwargs:
            return kwargs["out"].copy_(found)
        if name.startswith("_scaled") and not name.endswith("backward"):
            return (found[0].bfloat16(), *found[1:])  # the logarithms of the sums stay in float32
        return tuple(each.bfloat16() for each in found) if isinstance(found, tuple) else found.bfloat16()


def _is_narrow(each: Any) -> bool:
    return isinstance(each, torch.Tensor) and each.dtype == torch.bfloat16


def _widened(each: Any) -> Any:
    return each.float() if _is_narrow(each) else each


def table(rows: list[dict[str, Any]], steps: int) -> str:
    """How far runs of a seed lie apart after the last step, beside how far float32 runs of other seeds do, in nats."""
    last = [row for row in rows if row["step"] == steps]
    lines = []
    for objective in dict.fromkeys(row["objective"] for row in last):
        for which in ("chosen", "rejected"):
            found = {
                (row["who"], row["dtype"], row["seed"]): float(row[which])
                for row in last
                if row["objective"] == objective
            }
            seeds = sorted({seed for _, _, seed in found})
            first = next(iter(found))[:2]
            spread = (
                statistics.stdev([found[(*first, seed)] for seed in seeds])
                if len(seeds) > 1
                else float("nan")
            )
            parts = [f"{' '.join(first)} {statistics.mean(found[(*first, seed)] for seed in seeds):.2f}"]
            for kind in dict.fromkeys(key[:2] for key in found):
                if kind != first:
                    gaps = [abs(found[(*kind, seed)] - found[(*first, seed)]) for seed in seeds]
                    parts.append(
                        f"{' '.join(kind)} is {statistics.mean(gaps):.3f} away (at most {max(gaps):.3f})"
                    )
            lines.append(
                f"{objective}, {which}: {'; '.join(parts)}; standard deviation over seeds {spread:.2f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"precision.py: {error}")
