"""What the benchmarks share: the pairs, TRL's trainer on them, facts of the machine, rows of a CSV."""

from __future__ import annotations

import csv
import datetime
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from minordpo.errors import InputError


def machine() -> dict[str, str]:
    """Date, processor and versions, as the first columns of each row."""
    import torch

    if torch.cuda.is_available():
        processor = torch.cuda.get_device_name()
    else:
        processor = (
            f"{_cpu_model()}, {_instructions()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        )
    return {
        "date": datetime.date.today().isoformat(),
        "machine": processor,
        **{name: version(name) for name in ("minordpo", "torch", "transformers", "trl")},
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _instructions() -> str:
    """The widest instruction set, with the units for bfloat16."""
    import torch

    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    units = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *units])


def read_pairs(file: str, tokenizer: Any, count: int, *, max_length: int) -> tuple[list[Any], list[Any]]:
    """The first `count` usable pairs of a file, as rows of text and as tokens; longer ones are passed over.

    Raises:
        InputError: the file has fewer.
    """
    from minordpo.data.read.examples import load_examples
    from minordpo.data.tokens import TokenExample, TokenOptions, tokenize_examples

    options = TokenOptions(max_length=max_length)
    rows: list[dict[str, Any]] = []
    tokens: list[TokenExample] = []
    for chunk in _chunks(load_examples(file).examples, 256):
        for pair, found in zip(chunk, tokenize_examples(chunk, tokenizer, options=options), strict=True):
            if isinstance(found, TokenExample) and len(tokens) < count:
                rows.append(_row(pair))
                tokens.append(found)
        if len(tokens) == count:
            return rows, tokens
    raise InputError(
        f"{file} has {len(tokens)} pairs of at most {max_length} tokens, but {count} are needed. Lower the number of "
        "steps or pairs, or raise --max-length"
    )


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _row(pair: Any) -> dict[str, Any]:
    row = {"prompt": pair.prompt, "chosen": pair.responses[0], "rejected": pair.responses[-1]}
    if pair.tools:
        row["tools"] = pair.tools
    if pair.template_kwargs:
        row["chat_template_kwargs"] = pair.template_kwargs
    return row


def trl_trainer(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], tokens: Sequence[Any], **settings: Any
) -> Any:
    """TRL's DPOTrainer on the rows, with its own tokenisation, found equal to ours.

    Settings override what makes the two comparable: rows in order, no gradient checkpointing, nothing written.

    Raises:
        InputError: TRL makes other tokens of a row, so that the two would not compute the same.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    folder = settings.pop("output_dir")
    kind, peft_config = settings.pop("kind", DPOTrainer), settings.pop("peft_config", None)
    held_out = settings.pop("held_out", None)
    comparable: dict[str, Any] = {
        "train_sampling_strategy": "sequential",
        "activation_checkpointing": False,
        "bf16": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not _on_gpu(),
    }
    trainer = kind(
        model,
        args=DPOConfig(output_dir=folder, **comparable | settings),
        train_dataset=Dataset.from_list(list(rows)),
        eval_dataset=None if held_out is None else Dataset.from_list(list(held_out)),
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    for theirs, ours in zip(trainer.train_dataset, tokens, strict=True):
        for name, ids in (
            ("prompt_ids", ours.prompt_ids),
            ("chosen_ids", ours.responses[0].ids),
            ("rejected_ids", ours.responses[-1].ids),
        ):
            if theirs[name] != ids.tolist():
                raise InputError(
                    f"TRL makes other {name} of row {ours.row} than minordpo does, so the two would not compute the "
                    "same. Leave the row out"
                )
    return trainer


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows to a CSV, with the names of the columns where the file is new.

    Raises:
        InputError: the file has other columns, so the rows would land below the wrong names.
    """
    names = list(rows[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists() or not path.stat().st_size
    if not fresh:
        with path.open(encoding="utf-8", newline="") as file:
            found = next(csv.reader(file))
        if found != names:
            raise InputError(
                f"{path} has the columns {', '.join(found)}, but the rows have {', '.join(names)}. Name a new file"
            )
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)
