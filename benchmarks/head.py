"""Our output head beside torch's chunked linear_cross_entropy: seconds and memory of forward and backward.

    python benchmarks/head.py                 # float32
    python benchmarks/head.py --dtype bfloat16 --vocabulary 262144

Both compute the log-probs of given tokens and the gradients of a weighted sum of them, in a process of their own each,
in turn. The CSV has the medians, the peak memory beyond what the inputs take, and the largest difference between them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common import append_rows, machine

WHO = ("minordpo", "torch chunked", "torch plain")


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments)))
        return 0
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in WHO}
    for _ in range(arguments.rounds):
        for who in WHO:
            command = [sys.executable, __file__, *sys.argv[1:], "--measure", who]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"head.py: measuring {who} failed:\n{done.stderr}")
            found[who].append(json.loads(done.stdout.splitlines()[-1]))
    rows = []
    for who, runs in found.items():
        rows.append(
            {
                **machine(),
                **{
                    name: getattr(arguments, name)
                    for name in ("dtype", "tokens", "hidden", "vocabulary", "rounds")
                },
                "who": who,
                "seconds_median": f"{statistics.median(run['seconds'] for run in runs):.3f}",
                "memory_mb": f"{statistics.median(run['memory_mb'] for run in runs):.0f}",
                "first_logp": f"{runs[0]['first_logp']:.5f}",
                "grad_norm": f"{runs[0]['grad_norm']:.5f}",
            }
        )
        print(
            "  ".join(
                f"{key} {rows[-1][key]}"
                for key in ("who", "seconds_median", "memory_mb", "first_logp", "grad_norm")
            )
        )
    append_rows(arguments.out, rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "head.csv")
    parser.add_argument("--measure", choices=WHO, help=argparse.SUPPRESS)
    return parser


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of five passes, and the peak memory that they add."""
    import torch
    from torch.nn import functional

    from minordpo.engine.head import LogitTransform, head_logps

    numbers = torch.Generator().manual_seed(0)
    tokens, hidden, vocabulary = arguments.tokens, arguments.hidden, arguments.vocabulary
    states = torch.randn(tokens, hidden, generator=numbers).requires_grad_()
    head = torch.nn.Linear(hidden, vocabulary, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.randn(vocabulary, hidden, generator=numbers) / hidden**0.5)
    targets = torch.randint(vocabulary, (tokens,), generator=numbers)
    coefficients = torch.randn(tokens, generator=numbers)

    def logps() -> torch.Tensor:
        if arguments.measure == "minordpo":
            return head_logps(states, head, targets, LogitTransform())
        dtype = getattr(torch, arguments.dtype)  # autocast does not know linear_cross_entropy
        with torch.autocast("cpu", enabled=False):
            chunked = arguments.measure == "torch chunked"
            options: dict[str, Any] = {"options": torch.nn.LinearCrossEntropyOptions()} if chunked else {}
            given = states.to(dtype), head.weight.to(dtype)
            return -functional.linear_cross_entropy(*given, targets, reduction="none", **options).float()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(5):
        states.grad = head.weight.grad = None
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            found = logps()
        (found * coefficients).sum().backward()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": statistics.median(seconds),
        "memory_mb": (peak - before) / 1024,
        "first_logp": found[0].item(),
        "grad_norm": float(head.weight.grad.norm()) if head.weight.grad is not None else float("nan"),
    }


if __name__ == "__main__":
    sys.exit(main())
