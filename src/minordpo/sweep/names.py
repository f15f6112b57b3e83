"""What a sweep's runs and keys are called: readable, from what was set, in whatever order it was set."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import typing
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import xxhash

from minordpo.config import RunConfig
from minordpo.config.build import Origin, library_class
from minordpo.errors import InputError
from minordpo.objectives.resolve import RANGES
from minordpo.sweep.foundation import Extension

LONGEST_VALUE, LONGEST_NAME = 40, 120  # beyond them a digest stands for the end
_SHORT = {
    "learning_rate": "lr",
    "per_device_train_batch_size": "batch",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
}


def in_order(keys: Iterable[str]) -> list[str]:
    """Dotted keys as they stand in names and columns: objective, its hyper-parameters, the others, the seed."""
    ends = {"objective.name": 0, "seed": 3}
    return sorted(keys, key=lambda key: (ends.get(key, 1 if key.startswith("objective.") else 2), key))


def run_name(settings: Mapping[str, Any]) -> str:
    """A run's folder: "minordpo-beta0.1-lr1e-4-seed0"."""
    name = "-".join(_part(key, settings[key]) for key in in_order(settings)) or "base"
    return _shortened(name, LONGEST_NAME)


def _part(key: str, value: Any) -> str:
    if key == "objective.name":
        return slug(str(value).replace(" ", "").replace("*", "x"))
    section, _, last = key.rpartition(".")
    label = _SHORT.get(last, last) if section in ("objective", "training", "") else key
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{label}{shortest(value)}"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return f"{label}_{slug(text)}"


def shortest(value: int | float) -> str:
    """As people write it: 0.02, 1e-4, 20."""
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value) and value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{Decimal(repr(value)).normalize():e}".replace("e+", "e")
    return repr(value).removesuffix(".0")


def slug(text: str) -> str:
    """A text that is no longer than a value may be and can stand in a folder's name."""
    return _shortened(re.sub(r"[^\w.+-]+", "_", text).strip("_"), LONGEST_VALUE, of=text)


def _shortened(name: str, longest: int, *, of: str | None = None) -> str:
    """The name, or its beginning and a digest of the whole."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - 7]}~{xxhash.xxh3_64_hexdigest((of or name).encode())[:6]}"


# ---- keys ----
def refuse_unknown_key(key: str, where: str, origin: Origin, extension: Extension) -> None:
    """Raise InputError if the key is neither `seed` nor within a section; what it may mean is named.

    Whether a section has such a key is checked with the run configs.
    """
    sections = {*RunConfig.__dataclass_fields__, *([] if extension is None else [extension.section])}
    if key == "seed" or ("." in key and key.partition(".")[0] in sections):
        return
    if key == "output":
        said = "output, but every run gets its own folder in the sweep's output. Leave it out."
    elif key in sections:
        said = f"{key}, which is a section. Write a key of it, as {key}.NAME, with a list of values."
    else:
        known = _full_names(extension)
        close = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
        advice = (
            f"Did you mean {known[close[0]]}?" if close else "Write it as section.key, as objective.beta."
        )
        said = f"{key}, which is no key of a run config. {advice}"
    raise InputError(f"{origin(where)}: {where} has {said}")


def _full_names(extension: Extension) -> dict[str, str]:
    """Last part → dotted key, of all that a run config and the extension's section have."""
    hints = typing.get_type_hints(RunConfig)
    free = ("objective", "training")  # their keys are those of the objectives and of a library
    sections: dict[str, Any] = {} if extension is None else {extension.section: extension.keys}
    sections["training"] = library_class("transformers.TrainingArguments")
    sections |= {
        name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint) and name not in free
    }
    names = {
        each.name: f"{name}.{each.name}" for name, cls in sections.items() for each in dataclasses.fields(cls)
    }
    own = {name: f"objective.{name}" for name in (*RANGES, "name")}
    return own | names | {"lr": "training.learning_rate", "seed": "seed"}
