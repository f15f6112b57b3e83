"""`minordpo export`."""

from __future__ import annotations

from pathlib import Path

from minordpo.cli.command import argument, command


@command(
    "make a plain model folder of a run",
    argument("source", "run folder, model folder or adapter folder", metavar="RUN"),
    argument("out", "folder to write; must not exist", type=Path, metavar="OUT"),
)
def export(source: str, out: Path) -> None:
    """Write a model folder that any tool loads, in float32; adapters are merged into their base."""
    from minordpo.engine.export import export_model

    export_model(source, out)
    print(f"{out}: written")
