"""The command: objectives, and maybe a run → one picture of where each pushes a pair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minordpo.config.yaml import parse_yaml
from minordpo.errors import InputError, did_you_mean
from minordpo.figures.canvas import refuse_format
from minordpo.lens.drawing import draw
from minordpo.lens.gradients import plane_of, push_over, variants
from minordpo.lens.planes import View
from minordpo.lens.run_pairs import read_run_objective, read_run_responses
from minordpo.objectives import Given, Objective, parse, resolve

MOST = 6  # objectives; more make a picture that no screen shows
MOST_BETAS = 7


def lens(
    out: Path,
    *,
    objectives: Sequence[Given] = (),
    betas: Sequence[str] = (),
    settings: Sequence[str] = (),
    length: int = 100,
    run: Path | None = None,
    allow_code: bool = False,
) -> None:
    """Draw where each objective pushes a pair, and with `run` the run's own pairs over it; a PNG or an SVG.

    Of each objective: the plane of chosen and rejected with the push of the loss in it, and below it the two
    coefficients of the gradient, d loss / d log π, against the margin for several values of beta (as Figure 1 of
    the MinorDPO paper). The plane is drawn with the first of `betas`. `settings` are key=value.

    Raises:
        InputError: an unknown objective or hyper-parameter, a value out of its range, too many of them, a name of
            `out` that is neither .png nor .svg, a run that cannot be read, or `out` cannot be written.
    """
    refuse_format(out, ("png", "svg"))
    own = read_run_objective(run) if run is not None and not objectives else None
    names: list[Given] = [own[0]] if own else list(dict.fromkeys(objectives))
    if not 1 <= len(names) <= MOST:
        raise InputError(
            f"there are {len(names)} objectives, but a picture holds 1 to {MOST}. Name them with --objective, or "
            "draw several pictures."
        )
    values = [_value(text) for text in betas]
    if len(values) > MOST_BETAS:
        raise InputError(
            f"--beta has {len(values)} values, but 1 to {MOST_BETAS} can be told apart. Give fewer."
        )
    given = _given(settings, values)
    resolved = []
    for name in names:
        known = parse(name, allow_code=allow_code).hyper
        meant = {key: value for key, value in given.items() if key in known}
        resolved.append(resolve(name, (own[1] if own else {}) | meant, allow_code=allow_code))
    _refuse_unused(resolved, given)
    responses = read_run_responses(run) if run is not None else None
    views = []
    for objective in resolved:
        plane, moves = plane_of(objective, length), None
        if responses is not None:
            moves = responses.moves(plane.kind)
            low, high = moves.limits(plane.kind, plane.low, plane.high)
            plane = replace(plane, low=low, high=high)
        views.append(View(plane, push_over(objective, plane), variants(objective, values), moves))
    draw(views, out, run=None if run is None else run.resolve().name)


def _given(settings: Iterable[str], betas: Sequence[Any]) -> dict[str, Any]:
    """Hyper-parameters by name, of `--set` and the first `--beta`."""
    given: dict[str, Any] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--set has {text!r}, but key=value is needed, as in label_smoothing=0.2.")
        if key.strip() in given:
            raise InputError(f"--set gives {key.strip()} twice. Give it once.")
        given[key.strip()] = _value(value)
    if betas and "beta" in given:
        raise InputError("--beta and --set beta=… are both given, but mean the same. Leave one out.")
    return given | ({"beta": betas[0]} if betas else {})


def _value(text: str) -> Any:
    return parse_yaml(text, f"the value {text!r}")


def _refuse_unused(objectives: Sequence[Objective], given: Iterable[str]) -> None:
    """Refuse a hyper-parameter that no objective of the picture has."""
    known = list(dict.fromkeys(key for each in objectives for key in each.hyper))
    for key in given:
        if key not in known:
            names = ", ".join(each.name for each in objectives)
            raise InputError(
                f"no objective of {names} has a hyper-parameter {key!r}{did_you_mean(key, known)}. There is: "
                f"{', '.join(known) or 'none'}. Leave it out."
            )
