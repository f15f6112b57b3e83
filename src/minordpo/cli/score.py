"""`minordpo score`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from minordpo.cli.command import DTYPE, argument, command, flag
from minordpo.errors import InputError


@command(
    "log-probs of preference pairs under a model",
    argument("model", "run folder, model folder, adapter folder or hub id", metavar="MODEL"),
    argument("--pairs", "pairs in any layout that train reads", required=True, metavar="FILE"),
    argument("--split", "split of --pairs where that is a hub set", default="train"),
    argument("--reference", "reference model, likewise", metavar="REF"),
    flag("--tokens", "add the values of each scored token"),
    DTYPE,
    argument("--out", "write here instead of printing", type=Path, metavar="F"),
    flag("--overwrite", "replace --out if it exists"),
)
def score(model: str, pairs: str, out: Path | None, overwrite: bool, **options: Any) -> None:
    """Print a JSON line a pair: index, row, chosen_logp, rejected_logp (sums over scored tokens, nats),
    chosen_tokens, rejected_tokens and, with a reference, chosen_logratio and rejected_logratio. index counts
    the rows from 0; row counts from 1 as error messages and a run's responses.jsonl do (of a .jsonl file it
    is the line). Rows that cannot be scored are left out and reported on the error output.
    """
    from minordpo.run_folder.files import refuse_existing, write_jsonl

    if out is not None:
        refuse_existing(out, overwrite=overwrite)
        source = Path(pairs).expanduser()
        if out.exists() and source.exists() and out.samefile(source):
            raise InputError(f"--out {out} is the file of pairs itself. Name another file to write")
    from minordpo.evaluate.scoring import score_pairs

    rows = score_pairs(model, pairs, say=lambda text: print(text, file=sys.stderr), **options)
    if out is not None:
        print(f"{out}: {write_jsonl(out, rows)} pairs", file=sys.stderr)
        return
    for row in rows:
        print(json.dumps(row))
