"""`minordpo lens`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from minordpo.cli.command import ALLOW_CODE, argument, command


@command(
    "see where each objective pushes a pair",
    argument(
        "--objective",
        '1 to 6 objectives, or sums such as "minordpo + 0.1*sft" (default: that of --run)',
        nargs="+",
        default=[],
        metavar="NAME",
        dest="objectives",
    ),
    argument(
        "--beta",
        "values of beta: the plane is drawn with the first, the panels with all (default: the objective's "
        "own, and a fifth, half, twice and five times it)",
        nargs="+",
        default=[],
        metavar="B",
        dest="betas",
    ),
    argument(
        "--set",
        "other hyper-parameters, as label_smoothing=0.2",
        nargs="+",
        default=[],
        metavar="key=value",
        dest="settings",
    ),
    argument(
        "--length", "tokens of each response, where that matters (default 100)", default=100, metavar="N"
    ),
    argument("--run", "run folder to draw the pairs of", type=Path, metavar="DIR"),
    argument("--out", ".png or .svg file to write", type=Path, required=True, metavar="FILE"),
    ALLOW_CODE,
)
def lens(out: Path, **options: Any) -> None:
    """Draw where the loss of an objective pushes a pair of responses: what it will do to a model.

    The plane: across, the chosen response; up, the rejected one. An objective with a reference has log-ratios
    log π/π_ref as axes, in nats; training starts at (0, 0), and the aim is right and down. One without has
    mean log-probs in nats a token, or sums where the loss is made of sums. Arrows show where gradient descent
    moves the pair, colour how hard. The panels below it: the push on each response, d loss / d log π, against
    the margin chosen − rejected along the plane's dotted line, for several values of beta (as Figure 1 of the
    MinorDPO paper).

    --run draws a run's own pairs over the plane: training pairs as dots where a step met them, held-out pairs
    as paths from the start.

    Examples:
      minordpo lens --objective dpo minordpo --beta 0.1 0.02 0.5 --out push.png
      minordpo lens --run runs/first --out moved.png
    """
    from minordpo.lens.lens import lens

    lens(out, **options)
    print(f"{out}: written")
