"""Claims that need runs whose other settings differ: other closeness of the pairs, other batch sizes."""

from __future__ import annotations

from collections.abc import Sequence

from minordpo.paper.claims.claim import ClaimFinding, ClaimRun, claim, require
from minordpo.paper.claims.seed_table import Table, common_seeds, contrast, table
from minordpo.report.groups import rate_text

CLOSENESS = ("result", "quarter", "independent")  # world.rejected, from the closest
BATCH = ("training.per_device_train_batch_size", "training.gradient_accumulation_steps")
_STEPS = "training.max_steps"  # of as many pairs a larger batch makes fewer


@claim("C10", "§4", ("dpo",), across=True)
def closeness_is_the_cause(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """The closeness of the pairs is the cause.

    With the closest pairs against the furthest, all else equal: DPO loses more accuracy to the untuned model, and its
    chosen log-ratio ends lower.
    Needs: DPO runs on micro worlds of two world.rejected or more, answers of them and of the untuned models.
    """
    kinds = {run.others.get("world.rejected") for run in runs}
    ends = [kind for kind in CLOSENESS if kind in kinds]
    require(ends, "needs runs on a micro world, whose dial world.rejected says how close the pairs are")
    require(len(ends) > 1, f"needs pairs of another closeness: world.rejected does not vary ({ends[0]})")
    near, far = (
        [run for run in runs if run.others.get("world.rejected") == kind] for kind in (ends[0], ends[-1])
    )
    tables = [
        table(own, "dpo", name, apart_from=["world.rejected"])
        for name in ("base_accuracy", "accuracy", "chosen")
        for own in (near, far)
    ]
    loss = contrast(
        f"what DPO loses to the base, {ends[0]} less {ends[-1]}",
        *tables[:4],
        unit="points",
        value=lambda base_near, base_far, at_near, at_far: (base_near - at_near) - (base_far - at_far),
    )
    chosen = contrast(f"DPO's chosen, {ends[0]} less {ends[-1]}", *tables[4:], predicted=-1)
    return ClaimFinding(loss, chosen)


@claim("C13", "§3.4", ("minordpo",), across=True)
def a_high_rate_needs_a_batch(runs: Sequence[ClaimRun]) -> ClaimFinding:
    """A higher learning rate needs a bigger batch to stay stable.

    MinorDPO: what the largest batch gains in accuracy over the smallest is more at the highest rate than at the lowest.
    Needs: MinorDPO runs of two batch sizes, each at two rates, answers.
    """
    own = [run for run in runs if run.objective == "minordpo"]
    require(own, "no finished run with objective minordpo")
    sizes = sorted(set(map(batch, own)))
    require(len(sizes) > 1, f"needs another batch size: all MinorDPO runs have {sizes[0]} pairs a step")
    small, large = (
        table([run for run in own if batch(run) == size], "minordpo", "accuracy", apart_from=[*BATCH, _STEPS])
        for size in (sizes[0], sizes[-1])
    )
    known = small.rates(large)
    require(len(known) > 1, "needs both batch sizes at two learning rates")
    high, low = (contrast("", large.at(rate), small.at(rate)).by_seed for rate in (known[-1], known[0]))
    both = common_seeds(high, low)
    require(both, "no seed has both batch sizes at both learning rates")
    what = f"what {sizes[-1]} pairs a step gain over {sizes[0]}, at rate {rate_text(known[-1])} less at "
    gains = Table({next(iter(large)): {seed: high[seed] - low[seed] for seed in both}})
    return ClaimFinding(contrast(what + rate_text(known[0]), gains, unit="points"))


def batch(run: ClaimRun) -> int:
    """Pairs of a step, as far as the config tells (of one process)."""
    size, times = (run.others.get(name, default) for name, default in zip(BATCH, (8, 1), strict=True))
    return int(size) * int(times)
