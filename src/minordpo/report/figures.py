"""The report's figures as files: what the page draws, for a paper or a talk."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from minordpo.evaluate.kl_plot import REWARDS, scale_kl
from minordpo.figures import canvas
from minordpo.figures.canvas import COLORS, GREY, MARKERS
from minordpo.figures.training_curves import BANDS, PANELS, band_keys, bands_of
from minordpo.report.groups import rate_text
from minordpo.run_folder.records import LOGPS, LOGRATIOS

# What scores are drawn of, by its name in the report: the title, and whether it is a share.
_MEASURES = {
    "verified_passed": ("Passes the verifier", True),
    "verified_win_rate": ("Win rate against the first", True),
    "verified_score": ("Mean score", False),
    **{name: (title, True) for name, title in REWARDS.items()},
}
_LABELS = {LOGRATIOS: "log-ratio (nats per response)", LOGPS: "log-prob (nats per response)"}
_MOST_STRIPS = 80  # runs in the figure of health; more are no longer read
_NARROWEST = 1.6  # points, of lines that are drawn over each other
_PANELS_ACROSS = 3

Data = Mapping[str, Any]  # of the report, or of a run in it
_ScoredSetting = tuple[str, float, float | None]  # variant, learning rate and β


@dataclass(frozen=True)
class _ScoredRun:
    """A run that answered the questions which most runs answered."""

    run: Data
    variant: str  # of `_variants`
    scores: Mapping[str, Any]  # of each measure the share with its interval
    kl: float | None  # nats a sequence

    @property
    def setting(self) -> _ScoredSetting:
        """What seeds have in common."""
        return self.variant, self.run["rate"], self.run["beta"]


def draw_figures(data: Data, folder: Path) -> None:
    """Write what there is data for, each as PNG and SVG.

    coefficient: Figure 1 of the MinorDPO paper. rewards-OBJECTIVE-RATE: Figures 2 to 5; where no objective has several
    settings at a rate, rewards-RATE. scores: Figure 6, of the questions that most runs answered. kl: reward against KL.
    health: what the monitor called each run, by step.

    Raises:
        InputError: nothing can be written there.
    """
    scored = [each for each in _scored_runs(data) if _measured([each])]
    figures: list[tuple[str, Any, Sequence[Any]]] = [
        ("coefficient", _coefficient, data["coefficients"]["curves"]),
        *((name, _rewards, runs) for name, runs in _reward_rows(data["runs"]).items()),
        ("scores", _scores, scored),
        ("kl", _against_kl, [each for each in scored if each.kl is not None]),
        ("health", _health, [run for run in data["runs"] if run["cells"]["health"]]),
    ]
    for name, draw, shown in figures:
        if shown:
            with canvas.new_figure() as figure:
                draw(figure, data, shown)
                for suffix in (".png", ".svg"):
                    canvas.write_figure(figure, folder / f"{name}{suffix}")


def _scored_runs(data: Data) -> list[_ScoredRun]:
    answered = data["evaluations"][0]["runs"] if data["evaluations"] else {}
    runs = zip(data["runs"], _variants(data["runs"]), strict=True)
    return [
        _ScoredRun(run, variant, answered[str(place)], run["cells"].get("kl_per_sequence"))
        for place, (run, variant) in enumerate(runs)
        if str(place) in answered
    ]


def _measured(shown: Sequence[_ScoredRun]) -> dict[str, tuple[str, bool]]:
    """The measures of `_MEASURES` that some of the runs have."""
    return {name: said for name, said in _MEASURES.items() if any(each.scores.get(name) for each in shown)}


def _variants(runs: Sequence[Data]) -> list[str]:
    """Of each run its objective, with its settings but β where the report has several of them."""
    told = []
    for run in runs:
        settings = str(run["settings"] or run["objective"]).split(", ")
        told.append((run["objective"], ", ".join(each for each in settings if not each.startswith("beta "))))
    counts = Counter(objective for objective, _ in set(told))
    return [settings if counts[objective] > 1 else objective for objective, settings in told]


def _style(group: Data) -> dict[str, Any]:
    dashes = tuple(float(each) / 2 for each in group["dash"].split())
    return {"color": group["light"], "linestyle": (0, dashes) if dashes else "-"}


def _legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    columns = min(len(labels), 4)
    canvas.add_legend(figure, handles, labels, loc="outside lower left", ncols=columns, fontsize=9)


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, fontweight="bold", parse_math=False)


def _coefficient(figure: Figure, data: Data, curves: Sequence[Data]) -> None:
    figure.set_size_inches(6.5, 4.2)
    axis = figure.subplots()
    for place, curve in enumerate(curves):
        shade = str(0.65 * (1 - (place + 1) / len(curves)))  # a grey; colours are settings
        line, label = ("-", "--")[place % 2], f"β {curve['beta']:g}"
        axis.plot(curve["x"], curve["y"], color=shade, linestyle=line, label=label)
    axis.set_xlabel("margin (nats)")
    axis.set_ylabel("coefficient")
    axis.legend()
    _title(figure, "f(β, margin) = β σ(−β · margin)")


def _reward_rows(runs: Sequence[Data]) -> dict[str, list[Data]]:
    """The runs with curves by the name of their figure: of each objective and rate where that compares settings.

    Where no objective has several settings at a rate, objectives are compared, in a figure of each rate.
    """
    drawn = [run for run in runs if run["curves"]["train"]]
    settings = {(run["objective"], run["rate"], run["group"]) for run in drawn}
    apart = len(settings) > len({(objective, rate) for objective, rate, _ in settings})
    rows: dict[str, list[Data]] = {}
    for run in drawn:
        objective = re.sub(r"[^\w]+", "_", run["objective"]).strip("_")
        name = f"rewards{f'-{objective}' if apart else ''}-{rate_text(run['rate'])}".replace(".", "_")
        # Some may have had no reference; log-probs are another quantity.
        rows.setdefault(name + ("" if run["curves"]["kind"] == LOGRATIOS else "-logps"), []).append(run)
    return rows


def _rewards(figure: Figure, data: Data, runs: Sequence[Data]) -> None:
    kind = runs[0]["curves"]["kind"]
    panels = {n: text for n, text in PANELS.items() if any(n in run["curves"]["train"] for run in runs)}
    groups = sorted({run["group"] for run in runs})
    styles = [_style(data["groups"][group]) for group in groups]
    objectives = list(dict.fromkeys(run["objective"] for run in runs))
    figure.set_size_inches(11, 3.9 + 0.2 * math.ceil(len(groups) / 4))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=kind == LOGRATIOS, squeeze=False)[0]
    for axis, (name, heading) in zip(axes, panels.items(), strict=True):
        canvas.prepare_panel(axis, heading, zero=kind == LOGRATIOS)
        for place, (group, style) in enumerate(zip(groups, styles, strict=True)):
            own = [run["curves"] for run in runs if run["group"] == group]
            # One objective's settings often lie on each other: the later the narrower, so all are seen.
            width = {"linewidth": _NARROWEST + 0.6 * min(len(groups) - 1 - place, 4)}
            line = {**style, **(width if len(objectives) == 1 else {})}
            _draw_group(axis, [each["train"][name] for each in own if name in each["train"]], line)
            for held in (each["eval"].get(name, {"x": [], "y": []}) for each in own):
                axis.plot(held["x"], held["y"], markersize=5, color=style["color"], **canvas.HELD_OUT)
    axes[0].set_ylabel(_LABELS[kind])
    labels = [data["groups"][group]["label"] for group in groups]
    _legend(figure, [Line2D([], [], **style) for style in styles], labels)
    seeds = len({run["seed"] for run in runs})
    many = f", mean and range of {seeds} seeds" if seeds > 1 else ""
    whose = objectives[0] if len(objectives) == 1 else f"{len(objectives)} objectives"
    rate = rate_text(runs[0]["rate"])
    _title(figure, f"{whose}, learning rate {rate}: batches, held-out pairs as dots{many}")


def _draw_group(axis: Axes, curves: Sequence[Data], style: dict[str, Any]) -> None:
    """The mean of the curves over the steps that all have, and their range; one curve as it is."""
    points = [dict(zip(curve["x"], curve["y"], strict=True)) for curve in curves]
    if not points or not (common := sorted(set.intersection(*map(set, points)))):
        return
    table = np.array([[each[step] for step in common] for each in points])
    if len(curves) > 1:
        low, high = table.min(axis=0), table.max(axis=0)
        axis.fill_between(common, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axis.plot(common, table.mean(axis=0), marker="." if len(common) == 1 else "", **style)


def _mean_and_range(values: Sequence[list[float]]) -> list[float]:
    """Of one run the share with its interval, of several the mean and range of their shares."""
    shares = [value[0] for value in values]
    return values[0] if len(values) == 1 else [sum(shares) / len(shares), min(shares), max(shares)]


def _bars(values: Sequence[float]) -> list[list[float]]:
    mean, low, high = values
    return [[max(0.0, mean - low)], [max(0.0, high - mean)]]


def _styles(names: Iterable[str], shown: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Of each variant that is shown; every variant of the report has a colour of its own.

    Where β is an axis, its shades would say the same twice. A colour that comes again is hollow.
    """
    styles, there = {}, set(shown)
    for place, name in enumerate(sorted(set(names))):
        again, color = divmod(place, len(COLORS))
        if name in there:
            face = "white" if again % 2 else COLORS[color]
            line = ("-", "--", ":")[again % 3]
            styles[name] = {"color": COLORS[color], "linestyle": line, "markerfacecolor": face}
    return styles


def _scores(figure: Figure, data: Data, shown: Sequence[_ScoredRun]) -> None:
    """The paper's Fig. 6: a line an objective over β, the untuned model at 0; a panel a rate, by either parser."""
    rates = sorted({each.run["rate"] for each in shown})
    betas = sorted({each.run["beta"] for each in shown}, key=lambda beta: math.inf if beta is None else beta)
    ticks = ["0", *("none" if beta is None else f"{beta:g}" for beta in betas)]
    styles = _styles(_variants(data["runs"]), [each.variant for each in shown])
    across = min(len(rates), _PANELS_ACROSS)
    down = math.ceil(len(rates) / across)
    measures = _measured(shown)
    height = 3.2 * down * len(measures) + 0.3 * math.ceil(len(styles) / 4)
    figure.set_size_inches(max(6.5, 4.5 * across), height)
    shared: Literal["all", "row"] = "all" if all(is_share for _, is_share in measures.values()) else "row"
    grid = figure.subplots(down * len(measures), across, sharey=shared, squeeze=False)
    for row, (measure, (title, is_share)) in enumerate(measures.items()):
        axes = grid[row * down : (row + 1) * down].ravel()
        for axis in axes[len(rates) :]:
            axis.set_axis_off()
        for axis, rate in zip(axes, rates, strict=False):
            axis.set_title(f"{title}, learning rate {rate_text(rate)}", loc="left")
            for number, (name, style) in enumerate(styles.items()):
                aside = 0.24 * (number / max(1, len(styles) - 1) - 0.5)  # so that none hides another
                means = {}
                for place, beta in enumerate(betas, start=1):
                    setting = (name, rate, beta)
                    own = [
                        each.scores[measure]
                        for each in shown
                        if each.setting == setting and each.scores.get(measure)
                    ]
                    if own:
                        values = _mean_and_range(own)
                        color = style["color"]
                        axis.errorbar([place + aside], values[:1], yerr=_bars(values), capsize=2, color=color)
                        means[place + aside] = values[0]
                axis.plot(list(means), list(means.values()), linewidth=1.2, marker="o", **style)
            _draw_untuned(axis, data, measure)
            axis.set_xticks(range(len(ticks)), ticks)
            if is_share:
                axis.yaxis.set_major_formatter(PercentFormatter(1))
    for axis in grid[-1]:
        axis.set_xlabel("β (0: the untuned model)")
    handles = [Line2D([], [], marker="o", **style) for style in styles.values()]
    _legend(figure, handles, _names_with_seeds(shown, styles))
    _title(figure, f"Scores by β: {_whiskers(shown)}")


def _by_setting(shown: Sequence[_ScoredRun]) -> dict[_ScoredSetting, list[_ScoredRun]]:
    return {
        key: [each for each in shown if each.setting == key]
        for key in dict.fromkeys(e.setting for e in shown)
    }


def _seeds(shown: Sequence[_ScoredRun]) -> dict[_ScoredSetting, int]:
    """How many seeds each setting has."""
    return {key: len({each.run["seed"] for each in own}) for key, own in _by_setting(shown).items()}


def _whiskers(shown: Sequence[_ScoredRun]) -> str:
    """What the bars of scores are, in words."""
    counts = set(_seeds(shown).values())
    if counts == {1}:
        return "95 % intervals, or the range over runs"
    if len(counts) == 1:
        return f"mean and range over {counts.pop()} seeds"
    single = " (of one: 95 %)" if 1 in counts else ""
    return f"mean and range over up to {max(counts)} seeds{single}"


def _names_with_seeds(shown: Sequence[_ScoredRun], names: Iterable[str]) -> list[str]:
    """Names for a legend, with how many seeds each has where some have more than others."""
    seeds = _seeds(shown).items()
    most = {name: max(count for (variant, *_), count in seeds if variant == name) for name in names}
    if len(set(most.values())) < 2:
        return list(names)
    return [f"{name} ({most[name]} seed{'s' * (most[name] != 1)})" for name in names]


def _draw_untuned(axis: Axes, data: Data, measure: str) -> None:
    base = data["evaluations"][0]["base"]
    if base and base.get(measure):
        bars: dict[str, Any] = {"yerr": _bars(base[measure]), "capsize": 2}
        axis.errorbar([0], base[measure][:1], marker="o", color=GREY, markerfacecolor="white", **bars)


def _against_kl(figure: Figure, data: Data, shown: Sequence[_ScoredRun]) -> None:
    measures = _measured(shown)
    figure.set_size_inches(max(6, 5 * len(measures)), 5)
    shared = all(is_share for _, is_share in measures.values())
    axes = figure.subplots(1, len(measures), sharex=True, sharey=shared, squeeze=False)[0]
    together = _by_setting(shown)
    rates = sorted({each.run["rate"] for each in shown})
    markers = {rate: MARKERS[place % len(MARKERS)] for place, rate in enumerate(rates)}
    styles = _styles(_variants(data["runs"]), [each.variant for each in shown])
    for axis, (measure, (title, is_share)) in zip(axes, measures.items(), strict=True):
        axis.set_title(title, loc="left")
        for (name, rate, _), runs in together.items():
            if own := [each for each in runs if each.scores.get(measure)]:
                _draw_against(axis, own, measure, {"marker": markers[rate], **styles[name]})
        _draw_untuned(axis, data, measure)
        if is_share:
            axis.yaxis.set_major_formatter(PercentFormatter(1))
        scale_kl(axis)
    handles = [Line2D([], [], marker="o", **style | {"linestyle": ""}) for style in styles.values()]
    handles += [Line2D([], [], linestyle="", marker=each, color=GREY) for each in markers.values()]
    names = _names_with_seeds(shown, styles)
    _legend(figure, handles, [*names, *(f"learning rate {rate_text(rate)}" for rate in rates)])
    what = "a point a run" if len(together) == len(shown) else "a point a setting"
    _title(figure, f"Reward against KL: {what}, {_whiskers(shown)}")


def _draw_against(axis: Axes, runs: Sequence[_ScoredRun], measure: str, style: dict[str, Any]) -> None:
    """Of one run its interval and standard error, of several means and ranges, of reward and of KL."""
    kl = _mean_and_range([[each.kl] for each in runs if each.kl is not None])
    score = _mean_and_range([each.scores[measure] for each in runs])
    error: Any = runs[0].run["cells"].get("kl_per_sequence_error") if len(runs) == 1 else _bars(kl)
    color, bars = style["color"], _bars(score)
    axis.errorbar(kl[:1], score[:1], yerr=bars, xerr=error, linestyle="", color=color, alpha=0.35)
    edge = "white" if style["markerfacecolor"] == color else color
    axis.plot(kl[:1], score[:1], **style | {"linestyle": "", "markeredgecolor": edge})


def _health(figure: Figure, data: Data, watched: Sequence[Data]) -> None:
    shown = watched[:_MOST_STRIPS]
    colors = {"healthy": "#e8f2ee", **BANDS}
    figure.set_size_inches(9, 1.4 + 0.24 * len(shown))
    axis = figure.subplots()
    for place, run in enumerate(shown):
        last = run["curves"]["last_step"]
        axis.barh(place, last, color=colors["healthy"], height=0.75)
        for start, end, name in bands_of(run["curves"]["health"], last):
            axis.barh(place, max(end - start, 0.5), left=start, color=BANDS[name], height=0.75)
    names = [run["label"] for run in shown]
    axis.set_yticks(range(len(shown)), names, fontsize=8, parse_math=False)  # a "$" begins no formula
    axis.set_ylim(len(shown) - 0.4, -0.6)  # the first run on top
    axis.grid(False)
    axis.set_xlabel("optimizer step")
    labels, handles = zip(*band_keys(colors, colors), strict=True)
    figure.legend(handles, labels, loc="outside lower left", ncols=5)
    more = f" (the first {len(shown)} of {len(watched)})" if len(watched) > len(shown) else ""
    _title(figure, f"What the monitor called each run{more}")
