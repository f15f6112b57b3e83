"""The results of an evaluation for a terminal and in Markdown; what a model wrote cannot break out of either."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any

import yaml

from minordpo.generate.text_measures import fenced, without_controls

MEASURES = {"strict_accuracy": "asked line", "flexible_accuracy": "last number"}
_SHOWN = 600  # characters of an example
_LEGENDS = yaml.safe_load(files(__package__).joinpath("legends.yaml").read_text(encoding="utf-8"))

Rows = list[list[str]]  # of a table, its head first


def table(results: dict[str, Any]) -> str:
    """The table for a terminal, with the comparisons below it."""
    parts = [f"{_title(results)}\n", aligned(_main_rows(results["models"]))]
    parts += [f"\n{heading}\n{aligned(rows)}" for heading, rows in _further(results)]
    legends = [
        textwrap.fill(legend, 110) for legend in (_LEGENDS["answers"], _sample_legend(results)) if legend
    ]
    return "\n".join(parts) + "\n\n" + "\n".join(legends)


def examples(results: dict[str, Any]) -> str:
    """An answer of each kind of every model, for a terminal."""
    parts = []
    for label, kind, example in _examples(results):
        lines = _readable(example["answer"], example["stopped"]).splitlines() or ["(empty)"]
        parts.append(f"{label}, {kind} (row {example['row']}, reference {example['reference']}):")
        parts += [f"    {line}" for line in lines]
    return "\n".join(parts)


def markdown(results: dict[str, Any]) -> str:
    """The whole of results.md."""
    settings = results["settings"]
    asked = "in plain text" if settings["plain_text"] else "through each model's chat template"
    way = "greedy" if settings["temperature"] == 0 else f"sampled at temperature {settings['temperature']:g}"
    if settings["samples"]:
        way += f" (samples: {settings['samples']} at temperature {settings['samples_temperature']:g})"
    parts = [
        f"# {_cell(_title(results))}",
        f"Asked {asked}, answers {way}, of at most {settings['max_new_tokens']} tokens, weights in "
        f"{settings['dtype']}, seed {settings['seed']}, minordpo {results['minordpo']}. The prompt:",
        fenced(settings["prompt"], "text"),
        _piped(_main_rows(results["models"])),
        _LEGENDS["answers"],
    ]
    for heading, rows in _further(results):
        parts += [f"## {heading}", _piped(rows)]
    parts += [_sample_legend(results)] if settings["samples"] else []
    for label, kind, example in _examples(results):
        parts += [
            f"## {_cell(label)}, {kind}",
            f"Row {example['row']}, reference {example['reference']}:",
            fenced(_readable(example["question"], True), "text"),
            fenced(_readable(example["answer"], example["stopped"]), "text"),
        ]
    return "\n\n".join(parts) + "\n"


def _examples(results: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for label, model in results["models"].items():
        for kind, example in model["examples"].items():
            yield label, kind, example


def _title(results: dict[str, Any]) -> str:
    count = next(iter(results["models"].values()))["stopped"]["of"]
    return f"{count} questions: {results['settings']['questions']}"


def _further(results: dict[str, Any]) -> Iterator[tuple[str, Rows]]:
    """(heading, rows) of the tables that there is something for."""
    models, settings = results["models"], results["settings"]
    first, reference = next(iter(models)), settings["reference"]
    if results["comparisons"]:
        heading = f"Against {first} on the same questions, with 95 % intervals; p is McNemar's, exact"
        yield heading, _comparison_rows(results["comparisons"], "gained", "lost")
    if any(model["by_steps"] for model in models.values()):
        heading = "Right by computations in the reference solution: asked line / last number"
        yield heading, _step_rows(models)
    if any("reference" in model for model in models.values()):
        heading = f"Own answers against the reference {reference}: log π/π_ref and log π_ref, in nats"
        yield heading, _reference_rows(models)
    if not settings["samples"]:
        return
    samples = {label: model["samples"] for label, model in models.items()}
    each, plural = settings["samples"], "sample" if settings["samples"] == 1 else "samples"
    drawn = f"{each} {plural} a question at temperature {settings['samples_temperature']:g}"
    yield f"{drawn}: a single sample", _main_rows(samples)
    yield f"{drawn}: right with k of them", _many_rows(samples)
    if results["sample_comparisons"]:
        heading = f"Samples against {first} on the same questions, with 95 % intervals; p of an exact sign-flip test"
        right = {"samples": "a sample", "any": f"any of {each}"}
        yield heading, _comparison_rows(results["sample_comparisons"], "better", "worse", right=right)
    if any(model.get("kl") for model in samples.values()):
        heading = f"KL(π‖π_ref) of the samples, reference {reference}, in nats ± standard error"
        yield heading, _kl_rows(samples)


def _rows(head: str, models: Mapping[str, Any], columns: Callable[[Any], list[str]]) -> Rows:
    """A row a model: its label and its columns."""
    return [head.split(" | "), *([label, *columns(model)] for label, model in models.items())]


def _main_rows(models: Mapping[str, dict[str, Any]]) -> Rows:
    def columns(model: dict[str, Any]) -> list[str]:
        right = [
            f"{share['share']:.1%} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
            for share in (model[name] for name in MEASURES)
        ]
        shares = [model[name]["share"] for name in ("asked_format", "stopped", "looping")]
        others = [f"{share:.0%}" for share in (*shares, model["repeated_4grams"])]
        return [*right, *others, f"{model['tokens']['mean']:.0f}"]

    head = "model | right, asked line | right, last number | format | stops | loops | repeated | tokens"
    return _rows(head, models, columns)


def _comparison_rows(
    compared: list[dict[str, Any]], more: str, fewer: str, *, right: Mapping[str, str] | None = None
) -> Rows:
    """A row a comparison; `right` says in words what each counts as right, where that differs."""
    head = f"model {'| right ' if right else ''}| read by | difference in points | {more} | {fewer} | p | p (Holm)"
    rows = [head.split(" | ")]
    for row in compared:
        what = [right[row["what"]]] if right else []
        difference, low, high = (f"{100 * row[name]:+.1f}" for name in ("difference", "low", "high"))
        numbers = [f"{difference} [{low}, {high}]", str(row[more]), str(row[fewer])]
        chances = [f"{row[name]:.2g}" for name in ("p", "p_holm")]
        rows.append([row["model"], *what, MEASURES[row["measure"]], *numbers, *chances])
    return rows


def _step_rows(models: Mapping[str, dict[str, Any]]) -> Rows:
    rows = [["computations", "questions", *models]]
    for group, accuracies in next(iter(models.values()))["by_steps"].items():
        steps = [model["by_steps"][group] for model in models.values()]
        shares = [" / ".join(f"{each[name]['share']:.0%}" for name in MEASURES) for each in steps]
        rows.append([group, str(accuracies["strict_accuracy"]["of"]), *shares])
    return rows


def _reference_rows(models: Mapping[str, dict[str, Any]]) -> Rows:
    digits = {"logratio": 1, "logratio_per_token": 3, "ref_logp_per_token": 3}
    head = "model | log-ratio an answer | log-ratio a token | reference log-prob a token"
    return _rows(head, models, lambda model: [f"{model['reference'][n]:+.{d}f}" for n, d in digits.items()])


def _many_rows(samples: Mapping[str, dict[str, Any]]) -> Rows:
    sizes = list(next(iter(next(iter(samples.values()))["pass_at"].values())))
    rows = [["model", "read by", "right", *(f"k = {k}" for k in sizes)]]
    for label, model in samples.items():
        for name, measure in MEASURES.items():
            ways = {
                "any (pass@k)": model["pass_at"][name],
                "most votes": {sizes[-1]: model["majority"][name]},
            }
            if model.get("best_of"):
                ways["highest log π/π_ref"] = model["best_of"][name]
            for way, found in ways.items():
                shares = [f"{found[k]['share']:.1%}" if k in found else "" for k in sizes]
                rows.append([label, measure, way, *shares])
    return rows


def _kl_rows(samples: Mapping[str, dict[str, Any]]) -> Rows:
    def columns(model: dict[str, Any]) -> list[str]:
        kl, texts = model["kl"], []
        for name, digits in (("per_sequence", 2), ("per_token", 4)):
            error = kl[f"{name}_error"]
            texts.append(f"{kl[name]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}"))
        return [*texts, f"{kl['cut']:.0%}"]

    return _rows("model | a sequence | a token | cut by the limit", samples, columns)


def _sample_legend(results: dict[str, Any]) -> str:
    """What the tables of samples say; nothing where there are none."""
    settings = results["settings"]
    if not settings["samples"]:
        return ""
    parts = [_LEGENDS["samples"], *([_LEGENDS["compared"]] if results["sample_comparisons"] else [])]
    if settings["reference"] is not None:
        temperature = settings["samples_temperature"]
        kl = _LEGENDS["kl"] if temperature == 1 else _LEGENDS["no_kl"].format(temperature)
        parts += [_LEGENDS["best"], kl]
    return " ".join(parts)


def aligned(rows: Rows) -> str:
    """A table for a terminal: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *map(str.rjust, others, widths[1:])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _piped(rows: Rows) -> str:
    head, *others = [[_cell(text) for text in row] for row in rows]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that Markdown and HTML in it leave as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _readable(text: str, stopped: bool) -> str:
    text = without_controls(text.strip())
    if len(text) > _SHOWN:
        return text[:_SHOWN] + " …"
    return text if stopped else text + " … (ran into the limit)"
