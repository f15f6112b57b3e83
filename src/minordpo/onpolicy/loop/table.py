"""The table of a loop (loop.csv): each row has one round's cost and results."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minordpo.run_folder.files import write_text

COLUMNS = (
    *("round", "model", "health", "prompts", "pass_rate", "with_contrast", "pairs", "given_pairs"),
    *("tokens", "all_tokens", "sampling_s", "scoring_s", "training_s", "evaluating_s"),
    *("strict", "strict_low", "strict_high", "flexible", "flexible_low", "flexible_high"),
    *("pass_at_1", "pass_at_all", "samples", "kl", "kl_error", "answer_tokens", "answer_stopped"),
)


_SPENT_ON = ("sampling", "scoring", "training", "evaluating")


def table_rows(record: Mapping[str, Any], results: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A row for the first model and one for each round that trained, from loop.json and results.json."""
    rows: list[dict[str, Any]] = [{"round": 0, "model": record["model"], "all_tokens": 0}]
    total = 0
    for each in record["rounds"]:
        if "sampling" not in each:
            continue
        sampling = each["sampling"]
        total += sampling["tokens"]
        names = ("prompts", "pass_rate", "with_contrast", "pairs", "tokens")
        row = {name: sampling[name] for name in names}
        row |= {
            "round": each["round"],
            "model": each["run"],
            "all_tokens": total,
            "health": each.get("health"),
        }
        row |= {"given_pairs": each.get("given_pairs"), "sampling_s": sampling["sampling_s"]}
        row |= {"scoring_s": sampling["scoring_s"], "training_s": each.get("training_s")}
        row |= {"evaluating_s": each.get("evaluating_s")}
        if each.get("training_s") is not None:
            rows.append(row)
    asked = {} if results is None else {entry["path"]: entry for entry in results["models"].values()}
    for row in rows:
        entry = asked.get(row["model"]) or next(
            (entry for path, entry in asked.items() if Path(path).is_relative_to(row["model"])), None
        )
        row |= {} if entry is None else _measured(entry)
    return rows


def _measured(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a model's answers."""
    found: dict[str, Any] = {
        "answer_tokens": entry["tokens"]["mean"],
        "answer_stopped": entry["stopped"]["share"],
    }
    for name in ("strict", "flexible"):
        share = entry[f"{name}_accuracy"]
        found |= {name: share["share"], f"{name}_low": share["low"], f"{name}_high": share["high"]}
    samples = entry.get("samples")
    if samples:
        at = samples["pass_at"]["flexible_accuracy"]
        most = max(at, key=int)
        found |= {"pass_at_1": at["1"]["share"], "pass_at_all": at[most]["share"], "samples": int(most)}
        if samples.get("kl"):
            found |= {"kl": samples["kl"]["per_sequence"], "kl_error": samples["kl"]["per_sequence_error"]}
    return found


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows as CSV.

    Raises:
        InputError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows({name: _short(row.get(name)) for name in COLUMNS} for row in rows)
    write_text(path, text.getvalue())


def _short(value: Any) -> Any:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


HEADINGS = (
    "round",
    "pairs",
    "tokens drawn",
    "right (last number)",
    "pass@k",
    "KL, nats",
    "answer tokens",
    "health",
)


def shown_rows(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The rows in words, a cell for each of `HEADINGS`."""
    shown: list[tuple[str, ...]] = []
    for row in rows:
        right = _share(row.get("flexible"), row.get("flexible_low"), row.get("flexible_high"))
        at = "" if row.get("pass_at_all") is None else f"{row['pass_at_all']:.1%} @{row['samples']}"
        kl = "" if row.get("kl") is None else f"{row['kl']:.2f}"
        tokens = "" if row.get("answer_tokens") is None else f"{row['answer_tokens']:.0f}"
        pairs = "" if row.get("pairs") is None else f"{row['pairs']:,}"
        cells = (
            str(row["round"]),
            pairs,
            f"{row['all_tokens']:,}",
            right,
            at,
            kl,
            tokens,
            row.get("health") or "",
        )
        shown.append(cells)
    return shown


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for a screen."""
    lines = [HEADINGS, *shown_rows(rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _share(share: float | None, low: float | None, high: float | None) -> str:
    return "" if share is None else f"{share:.1%} [{low:.0%}, {high:.0%}]"


def time_shares(rows: Sequence[Mapping[str, Any]]) -> str:
    """The seconds of all rounds by what they were spent on, in words; empty where no round has trained.

    What a round does not tell apart, such as the sampling inside another trainer, counts where it was measured.
    """
    spent = {kind: sum(row.get(f"{kind}_s") or 0.0 for row in rows) for kind in _SPENT_ON}
    whole = sum(spent.values())
    if not whole:
        return ""
    parts = ", ".join(f"{kind} {seconds / whole:.0%}" for kind, seconds in spent.items())
    return f"{whole:,.0f} s of rounds: {parts}"
