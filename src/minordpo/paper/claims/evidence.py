"""Runs → one number a seed: seeds are the only replicates, so settings are averaged within each."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from minordpo.paper.claims.contrast import Contrast, Unit, amount
from minordpo.report.groups import rate_text

# What a measure needs, where runs lack it.
NEEDS = {
    "chosen": "log-ratios of pairs (metrics.reference=true)",
    "accuracy": "answers to questions (`evaluate:` of a sweep, or `minordpo evaluate`)",
    "base_accuracy": "the untuned model's answers to the same questions (`minordpo sweep` asks them; else "
    "`minordpo evaluate BASE RUN…`)",
    "validation_accuracy": "two evaluations, one of them on questions named validation and one on others",
    "broken": "the text: looks of the monitor, or answers of both the run and the untuned model",
    "broken_at_half": "looks of the monitor at step 0, up to half of the run, and at its end",
    "ranked": "held-out pairs (data.eval)",
    "kl": "samples against the reference (evaluate.samples of a sweep, or `minordpo evaluate --samples`)",
    "retention": "answers to other tasks, which a sweep on a micro world asks",
    "early_margin": "at least ten logged steps with log-ratios",
}
_SAME = {
    "rejected": "chosen",
    "margin": "chosen",
    "late_margin": "early_margin",
    "broken_at_end": "broken_at_half",
    "repeated": "broken",
    "strict_accuracy": "accuracy",
    "base_strict_accuracy": "base_accuracy",
}


FLOOR = 0.1  # accuracy of the untuned model below which it decides nothing


class Undecidable(Exception):
    """What is missing for a claim, in words."""


class Setting(NamedTuple):
    """What a run is compared by; `place` tells situations apart where several are looked at."""

    beta: float | None
    rate: float
    place: str = ""


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run as claims see it."""

    label: str
    objective: str  # its name, with those of its hyper-parameters beside β that are not the defaults
    beta: float | None
    rate: float
    seed: int
    situation: Mapping[str, Any] = field(default_factory=dict)  # all else that matters, by dotted key
    measures: Mapping[str, float] = field(default_factory=dict)
    source: tuple[str, str] = ("", "")  # model and pairs
    trained: Any = None  # `study.enough.Trained`, where it has what that needs


Table = dict[Setting, dict[int, float]]


def table(
    runs: Sequence[Run], objective: str, measure: str, place: Callable[[Run], str] | None = None
) -> Table:
    """Setting → seed → the measure.

    Raises:
        Undecidable: no such run, none that has the measure, or accuracy that is next to none.
    """
    own = [run for run in runs if run.objective == objective]
    if not own:
        raise Undecidable(f"no finished run with objective {objective}")
    values: dict[Setting, dict[int, list[float]]] = {}
    for run in own:
        setting = Setting(run.beta, run.rate, "" if place is None else place(run))
        found = values.setdefault(setting, {})
        if measure in run.measures:
            found.setdefault(run.seed, []).append(run.measures[measure])
    if not any(values.values()):
        need = NEEDS[_SAME.get(measure, measure)]
        raise Undecidable(f"no run of {objective} has {measure.replace('_', ' ')}; it needs {need}")
    if measure == "accuracy":
        _refuse_next_to_none(runs)
    # A copy of a run is no replicate.
    return {s: {seed: statistics.fmean(each) for seed, each in found.items()} for s, found in values.items()}


def _refuse_next_to_none(runs: Sequence[Run]) -> None:
    """Of a model that can hardly do the task no loss can be seen, and what is won is another thing."""
    base = [run.measures["base_accuracy"] for run in runs if "base_accuracy" in run.measures]
    share = statistics.fmean(base) if base else max(run.measures.get("accuracy", 0.0) for run in runs)
    if share < FLOOR:
        who = "the untuned model is" if base else "the best run is"
        raise Undecidable(
            f"{who} right in {share:.1%} of the answers, and below {FLOOR:.0%} accuracy decides nothing"
        )


def magnitudes(values: Table) -> Table:
    """Absolute values."""
    return {s: {seed: abs(value) for seed, value in seeds.items()} for s, seeds in values.items()}


def at(values: Table, *, rate: float | None = None, beta: float | None = None) -> Table:
    """Those of one learning rate, or one β."""
    return {
        s: seeds
        for s, seeds in values.items()
        if (rate is None or s.rate == rate) and (beta is None or s.beta == beta)
    }


def rates(*tables: Table) -> list[float]:
    """The learning rates that all of them have, ascending."""
    return sorted(set.intersection(*({s.rate for s in each} for each in tables)))


def betas(values: Table) -> list[float]:
    """Ascending."""
    return sorted({s.beta for s in values if s.beta is not None})


def seed_means(
    settings: Sequence[Setting], tables: Sequence[Table], value: Callable[..., float]
) -> tuple[dict[int, float], tuple[int, ...]]:
    """For each seed that every setting has in every table the mean of `value`; and the seeds that lack one.

    Raises:
        Undecidable: no setting, or no seed that has all of them.
    """
    if not settings:
        raise Undecidable("no setting (β, learning rate) that the objectives compared have in common")
    _refuse_gaps(settings, tables)
    sets = [set(each[setting]) for setting in settings for each in tables]
    complete = set.intersection(*sets)
    if not complete:
        raise Undecidable(
            f"no seed has all of the {len(settings)} settings (β, learning rate) with the same measures"
        )
    means = {
        seed: statistics.fmean(value(*(each[setting][seed] for each in tables)) for setting in settings)
        for seed in sorted(complete)
    }
    return means, tuple(sorted(set.union(*sets) - complete))


def _refuse_gaps(settings: Iterable[Setting], tables: Sequence[Table]) -> None:
    for setting in settings:
        if not all(each[setting] for each in tables):
            beta = "" if setting.beta is None else f"β {setting.beta:g}, "
            raise Undecidable(
                f"the runs at {beta}rate {rate_text(setting.rate)} lack a measure that others have"
            )


def level(
    what: str, values: Table, predicted: Literal[1, -1], unit: Unit = "nats", *, bar: float = 0.0
) -> Contrast:
    """The mean over settings, against a bar."""
    means, left_out = seed_means(list(values), [values], lambda value: value - bar)
    return Contrast(what, means, predicted, unit, left_out, bar)


def against(
    what: str,
    *tables: Table,
    predicted: Literal[1, -1] = 1,
    unit: Unit = "nats",
    value: Callable[..., float] = lambda first, second: first - second,
    bar: float = 0.0,
) -> Contrast:
    """The mean of `value` over the settings that all tables have, against a bar."""
    settings = [setting for setting in tables[0] if all(setting in each for each in tables)]
    means, left_out = seed_means(settings, tables, lambda *values: value(*values) - bar)
    return Contrast(what, means, predicted, unit, left_out, bar)


def ordering(
    what: str,
    values: Table,
    along: Literal["beta", "rate"],
    predicted: Literal[1, -1],
    *,
    complete: bool = True,
) -> Contrast:
    """Of all pairs of settings that differ in β (or rate) alone: the share that rises less the share that falls.

    That is Kendall's tau within each rate (or β); no setting weighs more than another because its numbers are larger.
    `complete`: only seeds that have all settings; else each seed's own pairs.

    Raises:
        Undecidable: no two settings that differ in it alone.
    """
    pairs = [(a, b) for a, b in itertools.permutations(values, 2) if _just_above(a, b, along)]
    if not pairs:
        word = "β at one learning rate" if along == "beta" else "learning rates at one β"
        raise Undecidable(f"needs at least two {word}")
    used = [s for s in values if any(s in pair for pair in pairs)]
    if complete:
        _refuse_gaps(used, [values])
    everyone = set.union(*(set(values[s]) for s in used))
    seeds = set.intersection(*(set(values[s]) for s in used)) if complete else everyone
    found = {}
    for seed in sorted(seeds):
        steps = [
            values[b][seed] - values[a][seed] for a, b in pairs if seed in values[a] and seed in values[b]
        ]
        if steps:
            found[seed] = statistics.fmean((step > 0) - (step < 0) for step in steps)
    if not found and not complete:
        raise Undecidable("no two settings that differ in it alone are left in any seed")
    if not found:
        raise Undecidable(f"no seed has all of the {len(used)} settings (β, learning rate)")
    return Contrast(what, found, predicted, "", tuple(sorted(everyone - set(found))))


def _just_above(a: Setting, b: Setting, along: Literal["beta", "rate"]) -> bool:
    if a.place != b.place or a.beta is None or b.beta is None:
        # An objective without β can still be tried at several rates.
        return along == "rate" and a.place == b.place and a.beta == b.beta and a.rate < b.rate
    if along == "beta":
        return a.rate == b.rate and a.beta < b.beta
    return a.beta == b.beta and a.rate < b.rate


def tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's: pairs of places that both order alike, less those they order otherwise, of all; ties count nothing."""
    signs = [
        _sign(b - a) * _sign(d - c)
        for (a, c), (b, d) in itertools.combinations(zip(first, second, strict=True), 2)
    ]
    return statistics.fmean(signs)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def side_by_side(what: str, first: tuple[str, Table], second: tuple[str, Table], unit: Unit) -> list[str]:
    """Means of two at each learning rate, of the β and seeds that both have: "chosen at 1e-4: MinorDPO +1.1, DPO −1.8".

    A mean over rates says little where one rate moves everything further; these are told beside it.
    """
    said = []
    for rate in rates(first[1], second[1]):
        both = [
            (first[1][s][seed], second[1][s][seed])
            for s in first[1]
            if s.rate == rate and s in second[1]
            for seed in first[1][s].keys() & second[1][s].keys()
        ]
        if both:
            means = map(statistics.fmean, zip(*both, strict=True))
            ours, theirs = (amount(each, unit, sign=unit == "nats") for each in means)
            said.append(f"{what} at {rate_text(rate)}: {first[0]} {ours}, {second[0]} {theirs}")
    return said


def listed(what: str, values: Table, along: Literal["beta", "rate"], unit: Unit) -> str:
    """Means over seeds and all else: "margin by β: 0.02 → 31.2, 0.2 → 12.3 nats".

    Of the rates (or β) with most values along it only, so that all means are over the same ones.
    """
    other = "rate" if along == "beta" else "beta"
    reach: dict[Any, set[Any]] = {}
    for setting in values:
        reach.setdefault(getattr(setting, other), set()).add(getattr(setting, along))
    widest = max(map(len, reach.values()))
    groups: dict[float, list[float]] = {}
    for setting, seeds in values.items():
        key = getattr(setting, along)
        if key is not None and len(reach[getattr(setting, other)]) == widest:
            groups.setdefault(key, []).extend(seeds.values())
    named = {key: rate_text(key) if along == "rate" else f"{key:g}" for key in sorted(groups)}
    means = [
        f"{name} → {amount(statistics.fmean(groups[key]), unit, sign=unit.startswith('nats'))}"
        for key, name in named.items()
        if groups[key]
    ]
    return f"{what} by {'β' if along == 'beta' else 'rate'}: {', '.join(means)}"
