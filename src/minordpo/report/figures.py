"""The report's figures as files: what the page draws, for a paper or a talk."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from minordpo.evaluate.kl_plot import REWARDS, scale_kl
from minordpo.figures.canvas import COLORS, GREY, MARKERS, new_figure, write_figure
from minordpo.figures.training_curves import BANDS, PANELS
from minordpo.report.groups import rate_text

_LABELS = {"logratios": "log-ratio (nats per response)", "logps": "log-prob (nats per response)"}
_MOST_STRIPS = 80  # runs in the figure of health; more are no longer read
_NARROWEST = 1.6  # points, of lines that are drawn over each other
_PANELS_ACROSS = 3

Run = Mapping[str, Any]


def draw_figures(data: Mapping[str, Any], folder: Path) -> None:
    """Write what there is data for, each as PNG and SVG.

    coefficient: Figure 1 of the MinorDPO paper. rewards-OBJECTIVE-RATE: Figures 2 to 5; where no objective has several
    settings at a rate, rewards-RATE. scores: Figure 6, of the questions that most runs answered. kl: reward against KL.
    health: what the monitor called each run, by step.

    Raises:
        InputError: nothing can be written there.
    """
    if data["coefficients"]["curves"]:
        _save(_coefficient, data, folder / "coefficient")
    for name, runs in _reward_rows(data["runs"]).items():
        _save(functools.partial(_rewards, runs=runs), data, folder / name)
    if any(_score(data, place) for place in range(len(data["runs"]))):
        _save(_scores, data, folder / "scores")
    if any(_kl(run) is not None and _score(data, place) for place, run in enumerate(data["runs"])):
        _save(_against_kl, data, folder / "kl")
    if any(run["cells"]["health"] for run in data["runs"]):
        _save(_health, data, folder / "health")


def _save(draw: Any, data: Mapping[str, Any], path: Path) -> None:
    with new_figure() as figure:
        draw(figure, data)
        for suffix in (".png", ".svg"):
            write_figure(figure, path.with_suffix(suffix))


def _style(data: Mapping[str, Any], group: int) -> dict[str, Any]:
    look = data["groups"][group]
    dashes = tuple(float(each) / 2 for each in look["dash"].split())
    return {"color": look["light"], "linestyle": (0, dashes) if dashes else "-"}


def _legend(figure: Figure, data: Mapping[str, Any], groups: Sequence[int]) -> None:
    handles = [Line2D([], [], **_style(data, group)) for group in groups]
    _legend_of(figure, handles, [data["groups"][group]["label"] for group in groups])


def _legend_of(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str]) -> None:
    legend = figure.legend(
        handles, [" "] * len(labels), loc="outside lower left", ncols=min(len(labels), 4), fontsize=9
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)  # a "$" begins no formula
        text.set_text(label)


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=13, fontweight="bold", parse_math=False)


def _coefficient(figure: Figure, data: Mapping[str, Any]) -> None:
    figure.set_size_inches(6.5, 4.2)
    axis = figure.subplots()
    curves = data["coefficients"]["curves"]
    for place, curve in enumerate(curves):
        shade = str(0.65 * (1 - (place + 1) / len(curves)))  # a grey; colours are settings
        axis.plot(
            curve["x"],
            curve["y"],
            color=shade,
            linestyle=("-", "--")[place % 2],
            label=f"β {curve['beta']:g}",
        )
    axis.set_xlabel("margin (nats)")
    axis.set_ylabel("coefficient")
    axis.legend()
    _title(figure, "f(β, margin) = β σ(−β · margin)")


def _reward_rows(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs with curves by the name of their figure: of each objective and rate where that compares settings.

    Where no objective has several settings at a rate, objectives are compared, in a figure of each rate.
    """
    drawn = [run for run in runs if run["curves"]["train"]]
    settings = {(run["objective"], run["rate"], run["group"]) for run in drawn}
    apart = len(settings) > len({(objective, rate) for objective, rate, _ in settings})
    rows: dict[str, list[Run]] = {}
    for run in drawn:
        objective = re.sub(r"[^\w]+", "_", run["objective"]).strip("_")
        name = f"rewards{f'-{objective}' if apart else ''}-{rate_text(run['rate'])}".replace(".", "_")
        # Some may have had no reference; log-probs are another quantity.
        rows.setdefault(name + ("" if run["curves"]["kind"] == "logratios" else "-logps"), []).append(run)
    return rows


def _rewards(figure: Figure, data: Mapping[str, Any], runs: Sequence[Run]) -> None:
    kind = runs[0]["curves"]["kind"]
    panels = {n: text for n, text in PANELS.items() if any(n in run["curves"]["train"] for run in runs)}
    groups = sorted({run["group"] for run in runs})
    objectives = list(dict.fromkeys(run["objective"] for run in runs))
    figure.set_size_inches(11, 3.9 + 0.2 * math.ceil(len(groups) / 4))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=kind == "logratios", squeeze=False)[0]
    for axis, (name, heading) in zip(axes, panels.items(), strict=True):
        axis.set_title(heading, loc="left")
        axis.set_xlabel("optimizer step")
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))
        if kind == "logratios":
            axis.axhline(0, color=GREY, linewidth=1.0, zorder=1.5)
        for place, group in enumerate(groups):
            own = [run["curves"] for run in runs if run["group"] == group]
            look = _style(data, group)
            # One objective's settings often lie on each other: the later the narrower, so all are seen.
            if len(objectives) == 1:
                look["linewidth"] = _NARROWEST + 0.6 * min(len(groups) - 1 - place, 4)
            _draw_group(axis, [each["train"][name] for each in own if name in each["train"]], look)
            for each in own:
                held = each["eval"].get(name, {"x": [], "y": []})
                axis.plot(
                    held["x"],
                    held["y"],
                    linestyle="",
                    marker="o",
                    markersize=5,
                    markeredgecolor="white",
                    color=_style(data, group)["color"],
                )
    axes[0].set_ylabel(_LABELS[kind])
    _legend(figure, data, groups)
    seeds = len({run["seed"] for run in runs})
    many = f", mean and range of {seeds} seeds" if seeds > 1 else ""
    whose = objectives[0] if len(objectives) == 1 else f"{len(objectives)} objectives"
    _title(
        figure, f"{whose}, learning rate {rate_text(runs[0]['rate'])}: batches, held-out pairs as dots{many}"
    )


def _draw_group(axis: Axes, curves: Sequence[Mapping[str, Any]], style: dict[str, Any]) -> None:
    """The mean of the curves over the steps that all have, and their range; one curve as it is."""
    if not curves:
        return
    common = sorted(set.intersection(*(set(curve["x"]) for curve in curves)))
    table = np.array([[dict(zip(c["x"], c["y"], strict=True))[step] for step in common] for c in curves])
    if not common:
        return
    if len(curves) > 1:
        axis.fill_between(
            common, table.min(axis=0), table.max(axis=0), color=style["color"], alpha=0.15, linewidth=0
        )
    axis.plot(common, table.mean(axis=0), marker="." if len(common) == 1 else "", **style)


def _score(data: Mapping[str, Any], place: int, measure: str = "flexible_accuracy") -> list[float] | None:
    """Accuracy with its interval, on the questions that most runs answered."""
    for each in data["evaluations"][:1]:
        if str(place) in each["runs"]:
            return list(each["runs"][str(place)][measure])
    return None


def _base(data: Mapping[str, Any], measure: str) -> list[float] | None:
    bases = [each["base"][measure] for each in data["evaluations"][:1] if each["base"]]
    return list(bases[0]) if bases else None


def _bars(values: Sequence[float]) -> list[list[float]]:
    mean, low, high = values
    return [[max(0.0, mean - low)], [max(0.0, high - mean)]]


def _variants(data: Mapping[str, Any]) -> list[str]:
    """Of each run its objective, with its settings but β where the report has several of them."""

    def told(run: Run) -> str:
        settings = str(run["settings"] or run["objective"]).split(", ")
        return ", ".join(each for each in settings if not each.startswith("beta "))

    several: dict[str, set[str]] = {}
    for run in data["runs"]:
        several.setdefault(run["objective"], set()).add(told(run))
    return [told(run) if len(several[run["objective"]]) > 1 else run["objective"] for run in data["runs"]]


def _of_objectives(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A colour for each; where β is an axis, its shades would say the same twice. One that comes again is hollow."""
    dashes = ("-", "--", ":")
    styles = {}
    for place, name in enumerate(sorted(set(names))):
        color, again = COLORS[place % len(COLORS)], place // len(COLORS)
        styles[name] = {
            "color": color,
            "linestyle": dashes[again % len(dashes)],
            "markerfacecolor": "white" if again % 2 else color,
        }
    return styles


def _scores(figure: Figure, data: Mapping[str, Any]) -> None:
    """The paper's Fig. 6: a line an objective over β, the untuned model at 0; a panel a rate, by either parser."""
    runs = data["runs"]
    scored = [place for place in range(len(runs)) if _score(data, place)]
    rates = sorted({runs[place]["rate"] for place in scored})
    betas = sorted(
        {runs[place]["beta"] for place in scored}, key=lambda beta: math.inf if beta is None else beta
    )
    variants = _variants(data)
    there = {variants[place] for place in scored}
    styles = {name: each for name, each in _of_objectives(variants).items() if name in there}
    across = min(len(rates), _PANELS_ACROSS)
    down = math.ceil(len(rates) / across)
    figure.set_size_inches(
        max(6.5, 4.5 * across), 3.2 * down * len(REWARDS) + 0.3 * math.ceil(len(styles) / 4)
    )
    grid = figure.subplots(down * len(REWARDS), across, sharey=True, squeeze=False)
    for row, (measure, title) in enumerate(REWARDS.items()):
        axes = grid[row * down : (row + 1) * down].ravel()
        for axis in axes[len(rates) :]:
            axis.set_axis_off()
        for axis, rate in zip(axes, rates, strict=False):
            axis.set_title(f"{title}, learning rate {rate_text(rate)}", loc="left")
            for number, (name, style) in enumerate(styles.items()):
                aside = 0.24 * (number / max(1, len(styles) - 1) - 0.5)  # so that none hides another
                own = [p for p in scored if (variants[p], runs[p]["rate"]) == (name, rate)]
                points = [(betas.index(runs[p]["beta"]) + 1 + aside, _score(data, p, measure)) for p in own]
                _line_of_scores(axis, [(at, score) for at, score in points if score], style)
            _draw_base(axis, _base(data, measure))
            axis.set_xticks(
                range(len(betas) + 1), ["0", *("none" if beta is None else f"{beta:g}" for beta in betas)]
            )
            axis.yaxis.set_major_formatter(PercentFormatter(1))
    for axis in grid[-1]:
        axis.set_xlabel("β (0: the untuned model)")
    handles = [Line2D([], [], marker="o", **style) for style in styles.values()]
    _legend_of(figure, handles, _names_with_seeds(data, scored, styles))
    _title(figure, f"Scores by β: {_whiskers(data, scored)}")


def _line_of_scores(axis: Axes, points: Sequence[tuple[float, list[float]]], style: dict[str, Any]) -> None:
    """Of one run its interval, of several their mean and range."""
    means = []
    for at in sorted({at for at, _ in points}):
        here = [score for each, score in points if each == at]
        shares = [score[0] for score in here]
        values = here[0] if len(here) == 1 else [sum(shares) / len(shares), min(shares), max(shares)]
        axis.errorbar([at], values[:1], yerr=_bars(values), capsize=2, color=style["color"])
        means.append((at, values[0]))
    axis.plot([at for at, _ in means], [mean for _, mean in means], linewidth=1.2, marker="o", **style)


def _whiskers(data: Mapping[str, Any], places: Sequence[int]) -> str:
    """What the bars of scores are, in words."""
    counts = {len(seeds) for seeds in _seeds_of_settings(data, places).values()}
    if counts == {1}:
        return "95 % intervals, or the range over runs"
    if len(counts) == 1:
        return f"mean and range over {counts.pop()} seeds"
    single = " (of one: 95 %)" if 1 in counts else ""
    return f"mean and range over up to {max(counts)} seeds{single}"


def _seeds_of_settings(data: Mapping[str, Any], places: Sequence[int]) -> dict[tuple[Any, ...], set[int]]:
    """The seeds of each objective as it is drawn, rate and β."""
    found: dict[tuple[Any, ...], set[int]] = {}
    variants = _variants(data)
    for place in places:
        run = data["runs"][place]
        found.setdefault((variants[place], run["rate"], run["beta"]), set()).add(run["seed"])
    return found


def _names_with_seeds(data: Mapping[str, Any], places: Sequence[int], names: Iterable[str]) -> list[str]:
    """Names for a legend, with how many seeds each has where some have more than others."""
    most: dict[str, int] = {}
    for (name, *_), seeds in _seeds_of_settings(data, places).items():
        most[name] = max(most.get(name, 0), len(seeds))
    if len(set(most.values())) < 2:
        return list(names)
    return [f"{name} ({most[name]} seed{'s' * (most[name] != 1)})" for name in names]


def _draw_base(axis: Axes, base: Sequence[float] | None) -> None:
    if base:
        axis.errorbar(
            [0], base[:1], yerr=_bars(base), marker="o", capsize=2, color=GREY, markerfacecolor="white"
        )


def _kl(run: Run) -> float | None:
    return run["cells"].get("kl_per_sequence")


def _against_kl(figure: Figure, data: Mapping[str, Any]) -> None:
    figure.set_size_inches(10, 5)
    axes = figure.subplots(1, len(REWARDS), sharex=True, sharey=True)
    runs, variants = data["runs"], _variants(data)
    shown = [p for p, run in enumerate(runs) if _kl(run) is not None and _score(data, p) is not None]
    together: dict[tuple[Any, ...], list[int]] = {}
    for place in shown:
        run = runs[place]
        together.setdefault((variants[place], run["rate"], run["beta"]), []).append(place)
    rates = sorted({runs[place]["rate"] for place in shown})
    markers = {rate: MARKERS[place % len(MARKERS)] for place, rate in enumerate(rates)}
    styles = {
        name: each
        for name, each in _of_objectives(variants).items()
        if any(variants[place] == name for place in shown)
    }
    for axis, (measure, title) in zip(axes, REWARDS.items(), strict=True):
        axis.set_title(title, loc="left")
        for (name, rate, _), places in together.items():
            _draw_against(axis, data, places, measure, {"marker": markers[rate], **styles[name]})
        _draw_base(axis, _base(data, measure))
        axis.yaxis.set_major_formatter(PercentFormatter(1))
        scale_kl(axis)
    handles = [Line2D([], [], marker="o", **style | {"linestyle": ""}) for style in styles.values()]
    handles += [Line2D([], [], linestyle="", marker=each, color=GREY) for each in markers.values()]
    names = _names_with_seeds(data, shown, styles)
    _legend_of(figure, handles, [*names, *(f"learning rate {rate_text(rate)}" for rate in rates)])
    what = "a point a run" if len(together) == len(shown) else "a point a setting"
    _title(figure, f"Reward against KL: {what}, {_whiskers(data, shown)}")


def _draw_against(
    axis: Axes, data: Mapping[str, Any], places: Sequence[int], measure: str, style: dict[str, Any]
) -> None:
    """Of one run its interval and standard error, of several means and ranges, of reward and of KL."""
    kls = [data["runs"][place]["cells"]["kl_per_sequence"] for place in places]
    scores = [score for place in places if (score := _score(data, place, measure)) is not None]
    shares = [score[0] for score in scores]
    score, kl = scores[0], sum(kls) / len(kls)
    error: Any = data["runs"][places[0]]["cells"].get("kl_per_sequence_error")
    if len(places) > 1:
        score = [sum(shares) / len(shares), min(shares), max(shares)]
        error = _bars([kl, min(kls), max(kls)])
    axis.errorbar(
        [kl], score[:1], yerr=_bars(score), xerr=error, linestyle="", color=style["color"], alpha=0.35
    )
    edge = "white" if style["markerfacecolor"] == style["color"] else style["color"]
    axis.plot([kl], score[:1], **style | {"linestyle": "", "markeredgecolor": edge})


def _health(figure: Figure, data: Mapping[str, Any]) -> None:
    watched = [run for run in data["runs"] if run["cells"]["health"]]
    shown = watched[:_MOST_STRIPS]
    figure.set_size_inches(9, 1.4 + 0.24 * len(shown))
    axis = figure.subplots()
    for place, run in enumerate(shown):
        last = run["curves"]["last_step"]
        axis.barh(place, last, color="#e8f2ee", height=0.75)
        changes = run["curves"]["health"]
        ends = [*(step for step, _ in changes[1:]), last]
        for (step, name), end in zip(changes, ends, strict=False):  # of no changes there is an end too many
            if name in BANDS:
                axis.barh(place, max(end - step, 0.5), left=step, color=BANDS[name], height=0.75)
    names = [run["label"] for run in shown]
    axis.set_yticks(range(len(shown)), names, fontsize=8, parse_math=False)  # a "$" begins no formula
    axis.set_ylim(len(shown) - 0.4, -0.6)  # the first run on top
    axis.grid(False)
    axis.set_xlabel("optimizer step")
    colors = {"healthy": "#e8f2ee", **BANDS}
    figure.legend(
        [Line2D([], [], linestyle="", marker="s", markersize=9, color=color) for color in colors.values()],
        list(colors),
        loc="outside lower left",
        ncols=5,
    )
    more = f" (the first {len(shown)} of {len(watched)})" if len(watched) > len(shown) else ""
    _title(figure, f"What the monitor called each run{more}")
