"""`minordpo data sample`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from minordpo.cli.command import DTYPE, argument, command, flag
from minordpo.cli.verifying import ALLOW_VERIFIER_CODE, take_verifier, verifier_options, verify_argument

# Options by what they are called in PairingOptions.
_PAIRING = {
    "pairs": "kind",
    "most_pairs": "most",
    "like": "like",
    "least_gap": "least_gap",
    "unfinished": "unfinished",
    "format": "format",
    "threshold": "threshold",
}
_SAMPLING = (
    *("prompts", "split", "limit", "prompt", "plain_text", "samples", "temperature", "seed"),
    *("max_new_tokens", "dtype", "backend"),
)


def _both(text: str) -> tuple[str, str]:
    first, colon, second = text.partition(":")
    if not (first and colon and second):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form CHOSEN:REJECTED")
    return first, second


@command(
    "pairs of a model's own answers, scored by a verifier",
    argument("models", "run folder, model folder, adapter folder or hub id", nargs="+", metavar="MODEL"),
    argument(
        "--prompts",
        "a .jsonl, .json, .parquet or .csv file or a hub set: prompt, messages or question, and the right answer",
        required=True,
        metavar="FILE",
    ),
    verify_argument(required=True),
    argument("--out", "rows to train on (.jsonl)", type=Path, required=True, metavar="OUT.jsonl"),
    argument("--split", "split of a hub set (default train)", default="train"),
    argument("--limit", "ask only the first N prompts", type=int, metavar="N"),
    argument("--samples", "answers to each prompt (default 8)", default=8, metavar="N"),
    argument(
        "--temperature", "of the answers (default 1: the model's own distribution)", default=1.0, metavar="T"
    ),
    argument("--seed", "other random numbers, other answers (default 0)", default=0),
    argument("--max-new-tokens", "longest answer (default 512)", default=512, metavar="N"),
    argument("--batch-size", "answers at a time, at most (default 32, on a GPU 128)", type=int, metavar="N"),
    argument(
        "--prompt",
        "what is asked of a question, with {question} in it (default: the question alone)",
        default="{question}",
        metavar="TEXT",
    ),
    flag("--plain-text", "ask questions without a chat template"),
    argument(
        "--pairs",
        "best-worst, closest (alike in words, unlike in score) or all (default best-worst)",
        default="best-worst",
        choices=("best-worst", "closest", "all"),
    ),
    argument(
        "--most-pairs",
        "pairs of a prompt, at most (default 1; of --pairs all no limit)",
        type=int,
        metavar="K",
    ),
    argument(
        "--like", "of equally good pairs prefer those of like length or style", choices=("length", "style")
    ),
    argument("--least-gap", "least difference of a pair's scores (default: any)", default=0.0, metavar="D"),
    argument(
        "--pair-from",
        "chosen answers of one model, rejected ones of another, as MODEL names them",
        type=_both,
        metavar="CHOSEN:REJECTED",
    ),
    flag("--unfinished", "take answers that ran into the length limit as rejected ones too"),
    argument(
        "--format",
        "pairs; ranked responses, for rrhf; labelled ones, for kto (default pairs)",
        default="pairs",
        choices=("pairs", "ranked", "labelled"),
    ),
    argument("--threshold", "of labelled answers: desirable from this score on", type=float, metavar="X"),
    *verifier_options(),
    DTYPE,
    argument(
        "--backend",
        "what makes the answers: transformers, or vllm, whose program stands on PATH or in MINORDPO_VLLM (default "
        "transformers)",
        default="transformers",
        choices=("transformers", "vllm"),
    ),
    ALLOW_VERIFIER_CODE,
    goes_on=lambda options: "the same command goes on",
)
def sample(models: list[str], out: Path, verify: str, allow_code: bool, **options: Any) -> None:
    """Draw answers to each prompt from MODEL, score them, and pair a better one with a worse one: pairs of a model's
    own answers. Several models answer the same prompts; their answers are paired with one another.

    Beside OUT.jsonl stand OUT.answers.jsonl (every answer with its score), OUT.sampling.json (of what settings) and
    OUT.report.json. The same command goes on where it was stopped. Where the answers are there already, another
    --verify scores them anew and other pairing options pair them anew, without a model.

    Each answer has random numbers of its own: neither the batch size nor a stop changes it.

    Examples:
      minordpo data sample runs/sft --prompts train.jsonl --verify number --out pairs.jsonl
      minordpo data sample strong weak --prompts p.jsonl --verify judge:http://localhost:8000 \\
          --judge-model NAME --pair-from strong:weak --out pairs.jsonl
    """
    from minordpo.onpolicy.pairing import PairingOptions
    from minordpo.onpolicy.sampling import SamplingConfig
    from minordpo.onpolicy.sampling import sample as draw

    verifier = take_verifier(verify, allow_code, options)
    assert verifier is not None
    pairing = PairingOptions(
        **{known: options[name] for name, known in _PAIRING.items()},
        pair_from=options["pair_from"],
        seed=options["seed"],
    )
    config = SamplingConfig(**{name: options[name] for name in _SAMPLING})
    summary = draw(models, config, verifier, pairing, out, batch_size=options["batch_size"])
    print(f"{summary}\n{out}: {summary.facts['rows']} rows")
