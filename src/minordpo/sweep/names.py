"""What a sweep's runs, worlds and keys are called: readable, from what was set, in whatever order it was set."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import xxhash

from minordpo.config import RunConfig
from minordpo.config.build import Origin, library_class
from minordpo.errors import InputError
from minordpo.objectives.resolve import RANGES
from minordpo.paper.worlds.world import World

LONGEST_VALUE, LONGEST_NAME = 40, 120  # beyond them a digest stands for the end
_SHORT = {
    "learning_rate": "lr",
    "per_device_train_batch_size": "batch",
    "num_train_epochs": "epochs",
    "max_steps": "steps",
}


def in_order(keys: Iterable[str]) -> list[str]:
    """Dotted keys as they stand in names and columns: objective, its hyper-parameters, the others, the seed."""
    return sorted(keys, key=lambda key: (_rank(key), key))


def _rank(key: str) -> int:
    ranks = {"objective.name": 0, "seed": 3}
    return ranks.get(key, 1 if key.startswith("objective.") else 2)


def cell_name(settings: Mapping[str, Any]) -> str:
    """A run's folder: "minordpo-beta0.1-lr1e-4-seed0"."""
    name = "-".join(_part(key, settings[key]) for key in in_order(settings)) or "base"
    return _shortened(name, LONGEST_NAME)


def world_name(world: World) -> str:
    """A world's folder: "chain-full-result-3840x2600-seed0" (pairs, and steps of its base).

    Another accuracy of its base than the default stands there too: "…x2600-right0.6to0.8-seed0", "…-anyright-seed0".
    """
    made = f"{world.family}-{world.distance}-{world.rejected}-{world.pairs}x{world.base_steps}"
    wanted = world.base_accuracy
    if wanted is None:
        made += "-anyright"
    elif wanted != World().base_accuracy:
        made += "-right" + "to".join(map(_number, wanted))
    return f"{made}-seed{world.seed}"


def model_name(path: str) -> str:
    """A folder for what is kept of a model, of its path or hub id."""
    return _slug(path)


def _part(key: str, value: Any) -> str:
    if key == "objective.name":
        return _slug(str(value).replace(" ", "").replace("*", "x"))
    section, _, last = key.rpartition(".")
    label = _SHORT.get(last, last) if section in ("objective", "training", "") else key
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{label}{_number(value)}"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return f"{label}_{_slug(text)}"


def _number(value: int | float) -> str:
    """As people write it: 0.02, 1e-4, 20."""
    if isinstance(value, int):
        return str(value)
    text = repr(value)
    if math.isfinite(value) and value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        mantissa, exponent = next(
            f"{value:.{digits}e}" for digits in range(17) if float(f"{value:.{digits}e}") == value
        ).split("e")
        return f"{mantissa}e{int(exponent)}"
    return text.removesuffix(".0")


def _slug(text: str) -> str:
    return _shortened(re.sub(r"[^\w.+-]+", "_", text).strip("_"), LONGEST_VALUE, of=text)


def _shortened(name: str, longest: int, *, of: str | None = None) -> str:
    """The name, or its beginning and a digest of the whole."""
    if len(name) <= longest:
        return name
    return f"{name[: longest - 7]}~{xxhash.xxh3_64_hexdigest((of or name).encode())[:6]}"


# ---- keys ----
def refuse_unknown_key(key: str, where: str, origin: Origin) -> None:
    """Nothing, for a key within a section, which is checked with the run configs, and for `seed`.

    Raises:
        InputError: a bare name, often of a key without its section, which is then named; or `output`.
    """
    section, dot, _ = key.partition(".")
    if key == "seed" or (dot and section in ("world", *RunConfig.__dataclass_fields__)):
        return
    if key == "output":
        raise InputError(
            f"{origin(where)}: {where} has output, but every run gets its own folder in the sweep's output. Leave it "
            "out."
        )
    if key in ("world", *RunConfig.__dataclass_fields__):
        raise InputError(
            f"{origin(where)}: {where} has {key}, which is a section. Write a key of it, as {key}.NAME, "
            "with a list of values."
        )
    known = _full_names()
    close = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    advice = f"Did you mean {known[close[0]]}?" if close else "Write it as section.key, as objective.beta."
    raise InputError(f"{origin(where)}: {where} has {key}, which is no key of a run config. {advice}")


def _full_names() -> dict[str, str]:
    """Last part → dotted key, of all that a run config and a world have."""
    names = {each.name: f"world.{each.name}" for each in dataclasses.fields(World)}
    names |= {name: f"objective.{name}" for name in (*RANGES, "name")}
    library = library_class("transformers.TrainingArguments")
    names |= {each.name: f"training.{each.name}" for each in dataclasses.fields(library)}
    hints = typing.get_type_hints(RunConfig)
    for section, hint in hints.items():
        if dataclasses.is_dataclass(hint) and section not in ("objective", "training"):
            names |= {each.name: f"{section}.{each.name}" for each in dataclasses.fields(hint)}
    return names | {"lr": "training.learning_rate", "seed": "seed"}
