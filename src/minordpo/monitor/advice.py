"""What a health means for the user, and what to try against it with the objective in use."""

from __future__ import annotations

from typing import Any

from minordpo.monitor.health import Health
from minordpo.objectives import Objective

MEANS: dict[Health, str] = {
    "healthy": "Nothing needs to be done",
    "displaced": "This is normal in many DPO runs and no alarm by itself; the answers in probes.jsonl decide",
    "inaccurate": "The model is losing what it could do",
    "collapsing": "The text is likely to break if this goes on",
    "collapsed": "The model's text is broken",
}
_MINORDPO = "which stops pushing a rejected answer down once it is less likely than under the reference"


def advise(objective: Objective, *, rate: float, pairs: bool) -> str:
    """What to try in the next run of ours, most to the point first; `pairs`: the data are preference pairs."""
    tries = []
    held = [term for term in objective.terms if term.spec.reference and "beta" in term.hyper]
    if held:
        tries.append(f"a higher objective.beta (now {held[0].hyper['beta']:g})")
    if "dpop_lambda" in objective.hyper:
        tries.append(f"a higher objective.dpop_lambda (now {objective.hyper['dpop_lambda']:g})")
    tries.append(f"a lower training.learning_rate (now {rate:g})")
    names = {term.name for term in objective.terms}
    if pairs and "minordpo" not in names and any(term.spec.undesirable for term in objective.terms):
        tries.append(f"objective.name=minordpo, {_MINORDPO}")
    return _listed(tries)


def advise_peer(args: Any) -> str:
    """The same for a trainer that is not ours, from its arguments."""
    beta = getattr(args, "beta", None)
    tries = [f"a higher beta (now {beta:g})"] if beta is not None else []
    tries.append(f"a lower learning_rate (now {args.learning_rate:g})")
    tries.append(f'minordpo.PreferenceTrainer(objective="minordpo"), {_MINORDPO}')
    return _listed(tries)


def _listed(tries: list[str]) -> str:
    return f"Try {', '.join(tries[:-1])} or {tries[-1]}" if len(tries) > 1 else f"Try {tries[0]}"
