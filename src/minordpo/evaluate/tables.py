"""The results of an evaluation for a terminal and in Markdown; what a model wrote cannot break out of either."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

MEASURES = {"strict_accuracy": "asked line", "flexible_accuracy": "last number"}
_SHOWN = 600  # characters of an example
# Everything but line breaks and tabs that a terminal might take for a command.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_LEGEND = (
    "Right, with 95 % intervals (Wilson) over these questions: by the line that the prompt asks for, read strictly, "
    "and by the last number anywhere. Format: the asked line holds a number. Stops: ended by itself. Loops: ends by "
    "repeating itself. Repeated: 4-grams of tokens that occurred before. Tokens: mean length."
)


def table(results: dict[str, Any]) -> str:
    """The table for a terminal, with the comparisons below it."""
    parts = [f"{_title(results)}\n", _aligned(_main_rows(results["models"]))]
    for heading, rows in _further(results):
        parts.append(f"\n{heading}\n{_aligned(rows)}")
    legends = [textwrap.fill(legend, 110) for legend in (_LEGEND, _sample_legend(results)) if legend]
    return "\n".join(parts) + "\n\n" + "\n".join(legends)


def examples(results: dict[str, Any]) -> str:
    """An answer of each kind of every model, for a terminal."""
    parts = []
    for label, model in results["models"].items():
        for kind, example in model["examples"].items():
            lines = _readable(example["answer"], example["stopped"]).splitlines() or ["(empty)"]
            parts.append(
                f"{label}, {kind} (row {example['row']}, reference {example['reference']}):\n"
                + "\n".join(f"    {line}" for line in lines)
            )
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
        _fenced(settings["prompt"]),
        _piped(_main_rows(results["models"])),
        _LEGEND,
    ]
    for heading, rows in _further(results):
        parts += [f"## {heading}", _piped(rows)]
    parts += [_sample_legend(results)] if settings["samples"] else []
    for label, model in results["models"].items():
        for kind, example in model["examples"].items():
            parts += [
                f"## {_cell(label)}, {kind}",
                f"Row {example['row']}, reference {example['reference']}:",
                _fenced(_readable(example["question"], True)),
                _fenced(_readable(example["answer"], example["stopped"])),
            ]
    return "\n\n".join(parts) + "\n"


def _title(results: dict[str, Any]) -> str:
    settings = results["settings"]
    count = next(iter(results["models"].values()))["stopped"]["of"]
    return f"{count} questions: {settings['questions']}"


def _main_rows(models: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    head = [
        "model",
        "right, asked line",
        "right, last number",
        "format",
        "stops",
        "loops",
        "repeated",
        "tokens",
    ]
    rows = [
        [
            label,
            *(_interval(model[name]) for name in MEASURES),
            *(f"{model[name]['share']:.0%}" for name in ("asked_format", "stopped", "looping")),
            f"{model['repeated_4grams']:.0%}",
            f"{model['tokens']['mean']:.0f}",
        ]
        for label, model in models.items()
    ]
    return [head, *rows]


def _further(results: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """(heading, rows) of the tables that there is something for."""
    further = []
    if results["comparisons"]:
        further.append((_against(results), _comparison_rows(results)))
    if any(model["by_steps"] for model in results["models"].values()):
        heading = "Right by computations in the reference solution: asked line / last number"
        further.append((heading, _step_rows(results)))
    if any("reference" in model for model in results["models"].values()):
        reference = results["settings"]["reference"]
        heading = f"Own answers against the reference {reference}: log π/π_ref and log π_ref, in nats"
        further.append((heading, _reference_rows(results)))
    return further + _sample_tables(results)


def _against(results: dict[str, Any]) -> str:
    first = next(iter(results["models"]))
    return f"Against {first} on the same questions, with 95 % intervals; p is McNemar's, exact"


def _comparison_rows(results: dict[str, Any]) -> list[list[str]]:
    head = ["model", "read by", "difference in points", "gained", "lost", "p", "p (Holm)"]
    return [
        head,
        *(
            [
                row["model"],
                MEASURES[row["measure"]],
                f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
                str(row["gained"]),
                str(row["lost"]),
                f"{row['p']:.2g}",
                f"{row['p_holm']:.2g}",
            ]
            for row in results["comparisons"]
        ),
    ]


def _step_rows(results: dict[str, Any]) -> list[list[str]]:
    groups = next(iter(results["models"].values()))["by_steps"]
    head = ["computations", "questions", *results["models"]]
    rows = []
    for group, accuracies in groups.items():
        shares = [
            " / ".join(f"{model['by_steps'][group][name]['share']:.0%}" for name in MEASURES)
            for model in results["models"].values()
        ]
        rows.append([group, str(accuracies["strict_accuracy"]["of"]), *shares])
    return [head, *rows]


def _reference_rows(results: dict[str, Any]) -> list[list[str]]:
    head = ["model", "log-ratio an answer", "log-ratio a token", "reference log-prob a token"]
    rows = [
        [label, *(f"{model['reference'][name]:+.{digits}f}" for name, digits in names)]
        for label, model in results["models"].items()
        for names in [(("logratio", 1), ("logratio_per_token", 3), ("ref_logp_per_token", 3))]
    ]
    return [head, *rows]


def _sample_tables(results: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    settings = results["settings"]
    if not settings["samples"]:
        return []
    samples = {label: model["samples"] for label, model in results["models"].items()}
    each, temperature = settings["samples"], f"temperature {settings['samples_temperature']:g}"
    plural = "sample" if each == 1 else "samples"
    tables = [
        (f"{each} {plural} a question at {temperature}: a single sample", _main_rows(samples)),
        (f"{each} {plural} a question at {temperature}: right with k of them", _many_rows(samples)),
    ]
    if results["sample_comparisons"]:
        first = next(iter(samples))
        heading = f"Samples against {first} on the same questions, with 95 % intervals; p of an exact sign-flip test"
        tables.append((heading, _sample_comparison_rows(results)))
    if any(model.get("kl") for model in samples.values()):
        heading = f"KL(π‖π_ref) of the samples, reference {settings['reference']}, in nats ± standard error"
        tables.append((heading, _kl_rows(samples)))
    return tables


def _many_rows(samples: Mapping[str, dict[str, Any]]) -> list[list[str]]:
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


def _sample_comparison_rows(results: dict[str, Any]) -> list[list[str]]:
    what = {"samples": "a sample", "any": f"any of {results['settings']['samples']}"}
    rows = [["model", "right", "read by", "difference in points", "better", "worse", "p", "p (Holm)"]]
    for row in results["sample_comparisons"]:
        rows.append(
            [
                row["model"],
                what[row["what"]],
                MEASURES[row["measure"]],
                f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
                str(row["better"]),
                str(row["worse"]),
                f"{row['p']:.2g}",
                f"{row['p_holm']:.2g}",
            ]
        )
    return rows


def _kl_rows(samples: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    rows = [["model", "a sequence", "a token", "cut by the limit"]]
    for label, model in samples.items():
        kl = model["kl"]
        errors = [
            f" ± {kl[f'{name}_error']:.{digits}f}" if kl[f"{name}_error"] is not None else ""
            for name, digits in (("per_sequence", 2), ("per_token", 4))
        ]
        rows.append(
            [
                label,
                f"{kl['per_sequence']:.2f}{errors[0]}",
                f"{kl['per_token']:.4f}{errors[1]}",
                f"{kl['cut']:.0%}",
            ]
        )
    return rows


def _sample_legend(results: dict[str, Any]) -> str:
    """What the tables of samples say; nothing where there are none."""
    settings = results["settings"]
    if not settings["samples"]:
        return ""
    parts = [
        "Samples: shares of all of them with 95 % intervals over questions, since those of one question are not "
        "independent. Any: the chance that at least one of k is right. Most votes: whether the number is that most "
        "samples give, of several the one given first."
    ]
    if results["sample_comparisons"]:
        parts.append(
            "Better and worse: questions with more, and with fewer, right samples than the first model has; p: were "
            "each question's difference as likely the other way round."
        )
    if settings["reference"] is not None:
        parts.append(
            "Highest log π/π_ref: of k the sample that the model prefers most over the reference; left out where the "
            "two do not differ, which ranks nothing."
        )
        if settings["samples_temperature"] == 1:
            parts.append(
                "KL: the mean log π/π_ref of the samples; of those cut by the limit, of what was generated."
            )
        else:
            parts.append(
                "KL(π‖π_ref) is left out: it needs samples at temperature 1, and these are at "
                f"{settings['samples_temperature']:g}."
            )
    return " ".join(parts)


def _interval(share: dict[str, Any]) -> str:
    return f"{share['share']:.1%} [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _piped(rows: Sequence[Sequence[str]]) -> str:
    head, *others = [[_cell(text) for text in row] for row in rows]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that Markdown and HTML in it leave as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))


def _readable(text: str, stopped: bool) -> str:
    text = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text.strip())
    if len(text) > _SHOWN:
        return text[:_SHOWN] + " …"
    return text if stopped else text + " … (ran into the limit)"


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
