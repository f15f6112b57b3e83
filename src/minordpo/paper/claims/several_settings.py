"""Claims that need runs of several situations: other closeness of the pairs, other batch sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minordpo.paper.claims.evidence import Run, Undecidable, against, at, level, rates, table
from minordpo.paper.claims.verdict import Finding
from minordpo.report.groups import rate_text

CLOSENESS = ("result", "quarter", "independent")  # world.rejected, from the closest
BATCH = ("training.per_device_train_batch_size", "training.gradient_accumulation_steps")
_STEPS = ("training.max_steps",)  # of as many pairs a larger batch makes fewer


def closeness_is_the_cause(runs: Sequence[Run]) -> Finding:
    """C10."""
    known = [run for run in runs if run.situation.get("world.rejected") in CLOSENESS]
    if not known:
        raise Undecidable(
            "needs runs on a micro world, whose dial world.rejected says how close the pairs are"
        )
    kinds = {str(run.situation["world.rejected"]) for run in known}
    if len(kinds) < 2:
        raise Undecidable(f"needs pairs of another closeness: world.rejected does not vary ({kinds.pop()})")
    ends = sorted(kinds, key=CLOSENESS.index)
    near, far = (
        [run for run in known if run.situation["world.rejected"] == kind] for kind in (ends[0], ends[-1])
    )
    place = _without("world.rejected")
    tables = [
        table(own, "dpo", name, place)
        for name in ("base_accuracy", "accuracy", "chosen")
        for own in (near, far)
    ]
    loss = against(
        f"what DPO loses to the base, {ends[0]} less {ends[-1]}",
        *tables[:4],
        unit="points",
        value=lambda base_near, base_far, at_near, at_far: (base_near - at_near) - (base_far - at_far),
    )
    chosen = against(f"DPO's chosen, {ends[0]} less {ends[-1]}", *tables[4:], predicted=-1)
    return Finding((loss, chosen))


def a_high_rate_needs_a_batch(runs: Sequence[Run]) -> Finding:
    """C13."""
    own = [run for run in runs if run.objective == "minordpo"]
    sizes = sorted({batch(run) for run in own})
    if not own:
        raise Undecidable("no finished run with objective minordpo")
    if len(sizes) < 2:
        raise Undecidable(f"needs another batch size: all MinorDPO runs have {sizes[0]} pairs a step")
    place = _without(*BATCH, *_STEPS)
    small, large = (
        table([run for run in own if batch(run) == size], "minordpo", "accuracy", place)
        for size in (sizes[0], sizes[-1])
    )
    known = rates(small, large)
    if len(known) < 2:
        raise Undecidable("needs both batch sizes at two learning rates")
    gains = [
        against("", at(large, rate=rate), at(small, rate=rate), unit="points")
        for rate in (known[-1], known[0])
    ]
    both = sorted(set(gains[0].by_seed) & set(gains[1].by_seed))
    if not both:
        raise Undecidable("no seed has both batch sizes at both learning rates")
    found = level(
        f"what {sizes[-1]} pairs a step gain over {sizes[0]}, at rate {rate_text(known[-1])} less at "
        f"{rate_text(known[0])}",
        {next(iter(large)): {seed: gains[0].by_seed[seed] - gains[1].by_seed[seed] for seed in both}},
        1,
        "points",
    )
    return Finding((found,))


def batch(run: Run) -> int:
    """Pairs of a step, as far as the config tells (of one process)."""
    size, times = (run.situation.get(name, default) for name, default in zip(BATCH, (8, 1), strict=True))
    return int(size) * int(times)


def _without(*dials: str) -> Callable[[Run], str]:
    """What else a run was told, as text."""

    def place(run: Run) -> str:
        rest: Mapping[str, Any] = {k: v for k, v in run.situation.items() if k not in dials}
        return json.dumps(rest, sort_keys=True, default=str)

    return place
