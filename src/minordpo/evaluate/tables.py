"""The results of an evaluation for a terminal and in Markdown; what a model wrote cannot break out of either."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any

import yaml

from minordpo.data.read.fields import shorten
from minordpo.evaluate.verified_tables import (
    ALONE,
    PASSES,
    Rows,
    how_found,
    share_text,
    verified_columns,
    verified_rows,
    verifier_in_words,
)
from minordpo.generate.text_measures import fenced, without_controls

MEASURES = {"strict_accuracy": "asked line", "flexible_accuracy": "last number"}
_READ_BY = MEASURES | {"passed": f"verifier: {PASSES}"}
_SHOWN = 600  # characters of an example
_REFERENCE = 80  # and of its right answer
_LEGENDS = yaml.safe_load(files(__package__).joinpath("legends.yaml").read_text(encoding="utf-8"))


def table(results: dict[str, Any]) -> str:
    """The table for a terminal, with the comparisons below it."""
    parts = [f"{_title(results)}\n", aligned(_main_rows(results["models"]))]
    parts += [f"\n{heading}\n{aligned(rows)}" for heading, rows in _further(results)]
    legends = [
        textwrap.fill(legend, 110) for legend in (_answer_legend(results), _sample_legend(results)) if legend
    ]
    return "\n".join(parts) + "\n\n" + "\n".join(legends)


def examples(results: dict[str, Any]) -> str:
    """An answer of each kind of every model, for a terminal."""
    parts = []
    for label, kind, example in _examples(results):
        lines = _readable(example["answer"], example["stopped"]).splitlines() or ["(empty)"]
        about = _about(example)
        parts.append(f"{label}, {kind} ({about[0].lower()}{about[1:]}):")
        parts += [f"    {line}" for line in lines]
        if example.get("note") and example["note"] != example["answer"]:
            parts.append(f"  note: {' '.join(_readable(example['note'], True).split())}")
    return "\n".join(parts)


def markdown(results: dict[str, Any]) -> str:
    """The whole of results.md."""
    settings = results["settings"]
    asked, prompt = _how_asked(results)
    way = "greedy" if settings["temperature"] == 0 else f"sampled at temperature {settings['temperature']:g}"
    if settings["samples"]:
        way += f" (samples: {settings['samples']} at temperature {settings['samples_temperature']:g})"
    parts = [
        f"# {_cell(_title(results))}",
        f"Asked {asked}, answers {way}, of at most {settings['max_new_tokens']} tokens, weights in "
        f"{settings['dtype']}, seed {settings['seed']}, minordpo {results['minordpo']}."
        + (" The prompt:" if prompt else ""),
        *prompt,
        _piped(_main_rows(results["models"])),
        _answer_legend(results),
    ]
    for heading, rows in _further(results):
        parts += [f"## {heading}", _piped(rows)]
    parts += [_sample_legend(results)] if settings["samples"] else []
    for label, kind, example in _examples(results):
        parts += [
            f"## {_cell(label)}, {_cell(kind)}",
            f"{_about(example)}:",
            fenced(_readable(example["question"], True), "text"),
            fenced(_readable(example["answer"], example["stopped"]), "text"),
        ]
        if example.get("note"):
            parts += ["The verifier's note:", fenced(_readable(example["note"], True), "text")]
    return "\n\n".join(parts) + "\n"


def _examples(results: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for label, model in results["models"].items():
        for kind, example in model["examples"].items():
            yield label, kind, example


def _how_asked(results: dict[str, Any]) -> tuple[str, list[str]]:
    """In what form the questions were asked, and the prompt they were asked by, where there is one."""
    settings = results["settings"]
    if "verifier" in results and settings["prompt"] == ALONE:
        return "as the prompts stand, messages and questions through each model's chat template", []
    asked = "in plain text" if settings["plain_text"] else "through each model's chat template"
    return asked, [fenced(settings["prompt"], "text")]


def _about(example: dict[str, Any]) -> str:
    """Which question it answers, its right answer if there is one, and its score if it has one."""
    parts = [f"Row {example['row']}"]
    if example["reference"] is not None:
        reference = " ".join(without_controls(example["reference"]).split())
        parts.append(f"reference {shorten(reference, _REFERENCE)}")
    if "score" in example:
        parts.append(f"score {example['score']:g}")
    return ", ".join(parts)


def _title(results: dict[str, Any]) -> str:
    count = next(iter(results["models"].values()))["stopped"]["of"]
    scored = f", scored by {verifier_in_words(results['verifier'])}" if "verifier" in results else ""
    return f"{count} questions: {results['settings']['questions']}{scored}"


def _further(results: dict[str, Any]) -> Iterator[tuple[str, Rows]]:
    """(heading, rows) of the tables that there is something for."""
    models, settings = results["models"], results["settings"]
    first, reference = next(iter(models)), settings["reference"]
    if compared := results.get("verified_comparisons"):
        heading = f"Against {first} on the same questions, with 95 % intervals; p of sign flips, {how_found(compared)}"
        yield heading, verified_rows(compared)
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
    if any(model["pass_at"] for model in samples.values()):
        yield f"{drawn}: right with k of them", _many_rows(samples)
    if compared := results.get("verified_sample_comparisons"):
        heading = f"Samples against {first} on the same questions, with 95 % intervals; p of sign flips, "
        yield heading + how_found(compared), verified_rows(compared)
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
    """A row a model: what a verifier says, what is read as numbers, and what the texts are like."""
    any_model = next(iter(models.values()))
    columns = list(verified_columns(models)) if "verified" in any_model else []
    if MEASURES.keys() <= any_model.keys():
        columns += [(f"right, {said}", _right(name)) for name, said in MEASURES.items()]
        columns.append(("format", lambda model: f"{model['asked_format']['share']:.0%}"))
    columns += [
        ("stops", lambda model: f"{model['stopped']['share']:.0%}"),
        ("loops", lambda model: f"{model['looping']['share']:.0%}"),
        ("repeated", lambda model: f"{model['repeated_4grams']:.0%}"),
        ("tokens", lambda model: f"{model['tokens']['mean']:.0f}"),
    ]
    head = ["model", *(name for name, _ in columns)]
    return [head, *([label, *(cell(model) for _, cell in columns)] for label, model in models.items())]


def _right(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda model: share_text(model[name])


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
    sizes = list(next(iter(next(each["pass_at"] for each in samples.values() if each["pass_at"]).values())))
    rows = [["model", "read by", "right", *(f"k = {k}" for k in sizes)]]
    for label, model in samples.items():
        for name in model["pass_at"]:
            measure = _READ_BY[name]
            ways = {"any (pass@k)": model["pass_at"][name]}
            if name in model["majority"]:
                ways["most votes"] = {sizes[-1]: model["majority"][name]}
            if name in (model.get("best_of") or {}):
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


def _answer_legend(results: dict[str, Any]) -> str:
    """What the table of models says."""
    if "verifier" not in results:
        return str(_LEGENDS["answers"])
    models = results["models"]
    parts = [_LEGENDS[head] for head, _ in verified_columns(models) if head in _LEGENDS]
    if results["verified_comparisons"]:
        parts.append(_LEGENDS["better"])
    numbers = MEASURES.keys() <= next(iter(models.values())).keys()
    return " ".join([*parts, _LEGENDS["answers" if numbers else "texts"]])


def _sample_legend(results: dict[str, Any]) -> str:
    """What the tables of samples say; nothing where there are none."""
    settings = results["settings"]
    if not settings["samples"]:
        return ""
    parts = [_LEGENDS["samples"], *([_LEGENDS["compared"]] if results["sample_comparisons"] else [])]
    samples = [model["samples"] for model in results["models"].values()]
    if not any(each["majority"] for each in samples):  # nothing was read as a number
        parts = [_LEGENDS["verified_samples"]]
        parts += [_LEGENDS["verified_any"]] if any(each["pass_at"] for each in samples) else []
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
