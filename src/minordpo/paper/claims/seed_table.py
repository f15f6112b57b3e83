"""Runs → one number a seed: seeds are the only replicates, so settings are averaged within each."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from minordpo.paper.claims.claim import ClaimRun, require
from minordpo.paper.claims.contrast import Contrast, Sign, Unit, amount
from minordpo.report.groups import rate_text

# What measures need, where runs lack them.
NEEDS: dict[str, str] = {
    name: each["needs"]
    for each in yaml.safe_load(Path(__file__).with_name("measures.yaml").read_text(encoding="utf-8"))
    for name in each["names"]
    if "needs" in each
}
FLOOR = 0.1  # accuracy of the untuned model below which it decides nothing
Dial = Literal["beta", "rate"]


class ClaimSetting(NamedTuple):
    """What a run is compared by; `others` are its other settings as text, where runs of several are compared."""

    beta: float | None
    rate: float
    others: str = "{}"


class Table(dict[ClaimSetting, dict[int, float]]):
    """Setting → seed → measure."""

    def magnitudes(self) -> Table:
        """Absolute values."""
        return Table({s: {seed: abs(value) for seed, value in seeds.items()} for s, seeds in self.items()})

    def at(self, rate: float) -> Table:
        """Those of one learning rate."""
        return Table({s: seeds for s, seeds in self.items() if s.rate == rate})

    def rates(self, *others: Table) -> list[float]:
        """The learning rates that all of the tables have, ascending."""
        return sorted({s.rate for s in self}.intersection(*({s.rate for s in each} for each in others)))

    def by_beta(self) -> list[dict[int, float]]:
        """The seeds of each setting that has a β, by ascending β."""
        return [self[s] for s in sorted(s for s in self if s.beta is not None)]

    def flat(self) -> list[float]:
        """The measure of every setting and seed."""
        return [value for seeds in self.values() for value in seeds.values()]

    def ordering(self, what: str, along: Dial, predicted: Sign, *, complete: bool = True) -> Contrast:
        """Of all pairs of settings that differ in β (or rate) alone: the share that rises less the share that falls.

        That is Kendall's tau within each rate (or β); no setting weighs more because its numbers are larger.
        `complete`: only seeds that have all settings; else each seed's own pairs.

        Raises:
            Undecidable: no two settings that differ in it alone.
        """
        pairs = [(a, b) for a, b in itertools.permutations(self, 2) if _just_above(a, b, along)]
        word = "β at one learning rate" if along == "beta" else "learning rates at one β"
        require(pairs, f"needs at least two {word}")
        used = [s for s in self if any(s in pair for pair in pairs)]
        if complete:
            _refuse_gaps(used, self)
        everyone = set().union(*(self[s] for s in used))
        found = {}
        for seed in common_seeds(*(self[s] for s in used)) if complete else sorted(everyone):
            own = [(self[a][seed], self[b][seed]) for a, b in pairs if seed in self[a].keys() & self[b]]
            if own:
                found[seed] = statistics.fmean(map(_order, own))
        require(found or complete, "no two settings that differ in it alone are left in any seed")
        require(found, f"no seed has all of the {len(used)} settings (β, learning rate)")
        return Contrast(what, found, predicted, "", tuple(sorted(everyone - set(found))))

    def listed(self, what: str, along: Dial, unit: Unit) -> str:
        """Means over seeds and all else: "margin by β: 0.02 → 31.2, 0.2 → 12.3 nats".

        Of the rates (or β) with most values along it only, so that all means are over the same ones.
        """
        other = "rate" if along == "beta" else "beta"
        reach = Counter(getattr(setting, other) for setting in self)
        groups: dict[float, list[float]] = {}
        for setting, seeds in self.items():
            key = getattr(setting, along)
            if key is not None and reach[getattr(setting, other)] == max(reach.values()):
                groups.setdefault(key, []).extend(seeds.values())
        means = [
            f"{rate_text(key) if along == 'rate' else f'{key:g}'} → "
            f"{amount(statistics.fmean(groups[key]), unit, sign=unit.startswith('nats'))}"
            for key in sorted(groups)
            if groups[key]
        ]
        return f"{what} by {'β' if along == 'beta' else 'rate'}: {', '.join(means)}"


def table(
    runs: Sequence[ClaimRun], objective: str, measure: str, *, apart_from: Collection[str] = ()
) -> Table:
    """The measure of an objective's runs; runs of one setting and seed are one replicate, whose mean counts.

    Runs whose other settings differ too are told apart by all of these but `apart_from`, where that names any.

    Raises:
        Undecidable: no such run, none that has the measure, or accuracy that is next to none.
    """
    own = [run for run in runs if run.objective == objective]
    require(own, f"no finished run with objective {objective}")
    values: dict[ClaimSetting, dict[int, list[float]]] = {}
    for run in own:
        others = {k: v for k, v in run.others.items() if k not in apart_from} if apart_from else {}
        setting = ClaimSetting(run.beta, run.rate, json.dumps(others, sort_keys=True, default=str))
        found = values.setdefault(setting, {})
        if measure in run.measures:
            found.setdefault(run.seed, []).append(run.measures[measure])
    need = NEEDS.get(measure, "runs that have it")
    require(any(values.values()), f"no run of {objective} has {measure.replace('_', ' ')}; it needs {need}")
    if measure == "accuracy":
        _refuse_next_to_none(runs)
    return Table(
        {s: {seed: statistics.fmean(each) for seed, each in found.items()} for s, found in values.items()}
    )


def tables(runs: Sequence[ClaimRun], measure: str, *objectives: str) -> list[Table]:
    """The same measure of several objectives."""
    return [table(runs, objective, measure) for objective in objectives]


def _refuse_next_to_none(runs: Sequence[ClaimRun]) -> None:
    """Of a model that can hardly do the task no loss can be seen, and what is won is another thing."""
    base = [run.measures["base_accuracy"] for run in runs if "base_accuracy" in run.measures]
    share = statistics.fmean(base) if base else max(run.measures.get("accuracy", 0.0) for run in runs)
    who = "the untuned model is" if base else "the best run is"
    require(
        share >= FLOOR,
        f"{who} right in {share:.1%} of the answers, and below {FLOOR:.0%} accuracy decides nothing",
    )


def common_seeds(*seeds: Mapping[int, float]) -> list[int]:
    """The seeds that all of them have, ascending."""
    return sorted(set(seeds[0]).intersection(*seeds[1:]))


def contrast(
    what: str,
    *tables: Table,
    predicted: Sign = 1,
    unit: Unit = "nats",
    value: Callable[..., float] = lambda first, second=0.0: first - second,
    bar: float = 0.0,
) -> Contrast:
    """The mean of `value` over the settings that all tables have, against a bar; a seed that lacks one is left out.

    Raises:
        Undecidable: no setting, or no seed that has all of them.
    """
    settings = [setting for setting in tables[0] if all(setting in each for each in tables)]
    require(settings, "no setting (β, learning rate) that the objectives compared have in common")
    _refuse_gaps(settings, *tables)
    every = [each[setting] for setting in settings for each in tables]
    complete = common_seeds(*every)
    require(
        complete, f"no seed has all of the {len(settings)} settings (β, learning rate) with the same measures"
    )
    means = {
        seed: statistics.fmean(value(*(each[setting][seed] for each in tables)) - bar for setting in settings)
        for seed in complete
    }
    return Contrast(what, means, predicted, unit, tuple(sorted(set().union(*every) - set(complete))), bar)


def _refuse_gaps(settings: Sequence[ClaimSetting], *tables: Table) -> None:
    for setting in settings:
        beta = "" if setting.beta is None else f"β {setting.beta:g}, "
        require(
            all(each[setting] for each in tables),
            f"the runs at {beta}rate {rate_text(setting.rate)} lack a measure that others have",
        )


def _just_above(a: ClaimSetting, b: ClaimSetting, along: Dial) -> bool:
    """Whether b differs from a in a larger β (or rate) alone; an objective without β can be tried at several rates."""
    lower, upper = getattr(a, along), getattr(b, along)
    return None not in (lower, upper) and lower < upper and a._replace(**{along: upper}) == b


def _order(pair: tuple[float, float]) -> int:
    """1 where it rises, −1 where it falls."""
    return (pair[1] > pair[0]) - (pair[1] < pair[0])


def tau(first: Sequence[float], second: Sequence[float]) -> float:
    """Kendall's: pairs of places that both order alike, less those they order otherwise, of all; ties count nothing."""
    places = itertools.combinations(zip(first, second, strict=True), 2)
    return statistics.fmean(_order((a, b)) * _order((c, d)) for (a, c), (b, d) in places)


def side_by_side(what: str, minor: Table, dpo: Table, unit: Unit = "nats") -> Iterator[str]:
    """Means at each learning rate, of the β and seeds that both have: "chosen at 1e-4: MinorDPO +1.1, DPO −1.8".

    A mean over rates says little where one rate moves everything further; these are told beside it.
    """
    for rate in minor.rates(dpo):
        both = [
            (minor[s][seed], dpo[s][seed])
            for s in minor.at(rate)
            if s in dpo
            for seed in minor[s].keys() & dpo[s].keys()
        ]
        if both:
            means = map(statistics.fmean, zip(*both, strict=True))
            ours, theirs = (amount(each, unit, sign=unit == "nats") for each in means)
            yield f"{what} at {rate_text(rate)}: MinorDPO {ours}, DPO {theirs}"
