"""Runs → groups that differ by nothing but their seed, each with a label and one colour for the whole report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minordpo.config.build import flatten
from minordpo.figures.canvas import COLORS
from minordpo.report.find import FoundRun

# As COLORS, for a dark page: lighter, and what is black there is white.
DARK = ("#4aa8e8", "#ff8c4a", "#2fc79a", "#e6a0c8", "#8fd0f5", "#ffc04d", "#f2f2f2")
DASHES = ("", "6 3", "2 3", "8 3 2 3")
_TOLD = {"objective.name", "objective.beta", "training.learning_rate", "sweep"}  # in another way, in a label
MOST_NAMED = 4  # settings in a label; beyond, the run's own name says it better


@dataclass(frozen=True)
class Group:
    """Runs of the same settings and other seeds."""

    label: str
    light: str
    dark: str
    dash: int = 0  # of DASHES


@dataclass(frozen=True)
class RunSetting:
    """What colours are chosen by."""

    objective: str
    beta: float | None
    rate: float | None


def group_runs(runs: Sequence[FoundRun], settings: Sequence[RunSetting]) -> tuple[list[Group], list[int]]:
    """The groups, and of each run the number of its own."""
    flats = [_flat(run) for run in runs]
    keys = [json.dumps(flat, sort_keys=True, default=str) for flat in flats]
    order = list(dict.fromkeys(keys))
    first = [keys.index(key) for key in order]
    told = varied([flats[place] for place in first])
    names = [_name(runs[place], settings[place], flats[place], told) for place in first]
    labels = [
        name if names.count(name) == 1 else f"{name} ({runs[place].label})"
        for name, place in zip(names, first, strict=True)
    ]
    return paint(labels, [settings[place] for place in first]), [order.index(key) for key in keys]


def _flat(run: FoundRun) -> dict[str, Any]:
    """What the run was told, by dotted key, without seeds and what they redraw."""
    if run.settings is not None:
        flat = {"sweep": str(run.folder.resolve().parent), **run.settings}
    elif run.config:
        flat = flatten(run.config)
    else:
        flat = {"run": str(run.folder.resolve())}
    seeds = ("seed", "data_seed")
    return {k: v for k, v in flat.items() if k != "output" and k.rpartition(".")[2] not in seeds}


def varied(flats: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all of them."""
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if len({json.dumps(flat.get(key), default=str) for flat in flats}) > 1]


def _name(run: FoundRun, setting: RunSetting, flat: Mapping[str, Any], told: Sequence[str]) -> str:
    if not setting.objective:
        return run.label
    parts = [setting.objective]
    if setting.beta is not None:
        parts.append(f"β {setting.beta:g}")
    if setting.rate is not None:
        parts.append(f"rate {rate_text(setting.rate)}")
    others = [key for key in told if key not in _TOLD and flat.get(key) is not None]
    if len(others) <= MOST_NAMED:
        parts += [f"{key.rpartition('.')[2]} {short_text(flat[key])}" for key in others]
    return ", ".join(parts)


def rate_text(rate: float) -> str:
    """A learning rate as people write it: 1e-4, 0.01."""
    if rate >= 0.01 or rate == 0:
        return f"{rate:g}"
    mantissa, _, exponent = f"{rate:e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def short_text(value: Any) -> str:
    """A value as labels show it: of a path its end, of long text its beginning."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = text.rstrip("/").rpartition("/")[2]
    return text if len(text) <= 24 else text[:23] + "…"


def paint(labels: Sequence[str], settings: Sequence[RunSetting]) -> list[Group]:
    """Groups of colours: one each while there are colours; then a hue per objective and a shade per β.

    With a single objective the hue stands for β. The dash stands for the learning rate, where it is not told by hue.
    """
    if len(labels) <= len(COLORS):
        return [Group(*each) for each in zip(labels, COLORS, DARK, strict=False)]
    objectives = sorted({each.objective for each in settings})
    betas = _ordered(each.beta for each in settings)
    rates = _ordered(each.rate for each in settings)
    groups = []
    for label, setting in zip(labels, settings, strict=True):
        by_beta = len(objectives) == 1
        hue = betas.index(setting.beta) if by_beta else objectives.index(setting.objective)
        own = sorted({e.beta or 0.0 for e in settings if e.objective == setting.objective})
        depth = 0.5 if by_beta or len(own) < 2 else own.index(setting.beta or 0.0) / (len(own) - 1)
        light, dark = (_shade(colors[hue % len(colors)], depth) for colors in (COLORS, DARK))
        dash = (rates.index(setting.rate) + hue // len(COLORS)) % len(DASHES)
        groups.append(Group(label, light, dark, dash))
    return groups


def _ordered(values: Iterable[float | None]) -> list[float | None]:
    return sorted(set(values), key=lambda value: -1.0 if value is None else value)


def _shade(color: str, depth: float) -> str:
    """From 0, light, over the colour itself at ½ to 1, dark."""
    mixed, share = (255, 1.1 * (0.5 - depth)) if depth < 0.5 else (0, 0.9 * (depth - 0.5))
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round((1 - share) * part + share * mixed):02x}" for part in parts)
