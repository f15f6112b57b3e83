"""`minordpo report`: what run folders hold, as one page that opens anywhere, and the figures of it. Read this first."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from minordpo.errors import InputError
from minordpo.report.find import Found, find
from minordpo.report.gather import gather
from minordpo.run_folder import names
from minordpo.run_folder.files import written_folder
from minordpo.run_folder.ownership import refuse_unwritable

INDEX, FIGURES = "index.html", names.FIGURES
# In this order, within one function: nothing of it is visible outside.
_SCRIPTS = ("state.js", "chart.js", "curves.js", "results.js", "reading.js", "main.js")
_OURS = '<meta name="generator" content="minordpo report">'


def report(
    folders: Sequence[Path],
    *,
    out: Path | None = None,
    pairs: int | None = None,
    sections: Sequence[Callable[[Found], str]] = (),
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write index.html and figures/ for the runs in the folders, whole or not at all, and return where.

    A folder is a run, a folder of runs, a sweep's output, or that of an evaluation. `out` is by default `report` in the
    first of them. `pairs`: also compute that many held-out pairs token by token under each finished run and its
    reference, kept as pair_tokens.jsonl in the run folder. `sections` each make HTML of the finished runs, which ends
    the page. `say` gets a line of each such file.

    Raises:
        InputError: no run, a file that cannot be read, or `out` is something else than a report.
    """
    found = find(folders)
    out = folders[0] / "report" if out is None else out
    refuse_foreign(out)
    if pairs is not None:
        # Models are loaded for this only.
        from minordpo.report.pair_tokens import add_pair_tokens

        add_pair_tokens(found.runs, pairs, say=say)
    data = gather(found)
    from minordpo.report.figures import draw_figures

    any_finished = any(run["status"] == "finished" for run in data["runs"])
    more = "".join(section(found) for section in sections) if any_finished else ""
    with written_folder(out) as aside:
        (aside / FIGURES).mkdir()
        draw_figures(data, aside / FIGURES)
        (aside / INDEX).write_text(render(data, more), encoding="utf-8")
    return out


def refuse_foreign(out: Path) -> None:
    """Raise InputError if `out` cannot be written, or is neither new, empty, nor a report that nothing was added to."""
    refuse_unwritable(out)
    if not out.exists() or not (inside := {each.name for each in out.iterdir()}):
        return
    index = out / INDEX
    if not index.is_file() or _OURS not in index.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise InputError(f"{out} exists and holds no report. Name another folder with --out")
    figures = list((out / FIGURES).iterdir()) if (out / FIGURES).is_dir() else []
    added = [f"{FIGURES}/{each.name}" for each in figures if each.suffix not in (".png", ".svg")]
    if others := [*sorted(inside - {INDEX, FIGURES}), *added]:
        raise InputError(
            f"{out} holds {others[0]}, which is no part of a report and would be lost. Move it, or name another folder "
            "with --out"
        )


def render(data: Mapping[str, Any], more: str = "") -> str:
    """The page, ended by `more` sections in HTML. Its policy lets nothing run but its script, nothing be fetched."""
    files = resources.files("minordpo.report")
    page, style, *scripts = (
        (files / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", *_SCRIPTS)
    )
    script = '(() => {\n"use strict";\n' + "\n".join(scripts) + "})();"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return Template(page).substitute(
        title=html.escape(f"{data['title']}, minordpo report"),
        heading=html.escape(data["title"]),
        policy=policy,
        style=style,
        data=embedded(data),
        script=script,
        more=more,
    )


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that may stand in a <script>: no text in it can end the element, or open a comment there."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for mark in "<>&":
        text = text.replace(mark, f"\\u{ord(mark):04x}")
    return text
