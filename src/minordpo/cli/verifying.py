"""The options by which `minordpo data sample` and `minordpo evaluate` name a verifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from minordpo.cli.command import Argument, argument, flag
from minordpo.errors import InputError

if TYPE_CHECKING:
    from minordpo.verify.verifier import Verifier

_OPTIONS = {
    "judge_model": ("the judge's name at its endpoint", str),
    "judge_mode": (
        "score (each answer alone, 1 to 10) or pairwise (every two answers, both ways round)",
        str,
    ),
    "judge_concurrency": ("requests at a time (default 8)", int),
    "judge_retries": ("further tries of a request (default 5)", int),
    "judge_max_tokens": ("longest reply of a judge (default: as the endpoint has it)", int),
    "verify_timeout": ("seconds that a judge or a command may take for one answer (default 120)", float),
    "reward_batch_size": ("sequences that a reward model reads at a time (default 8)", int),
    "reward_dtype": ("type of a reward model's weights: float32 or bfloat16 (default float32)", str),
}
ALLOW_VERIFIER_CODE = flag("--allow-code", "run the module or command that --verify names")


def verify_argument(*, required: bool, otherwise: str = "") -> Argument:
    """--verify; `otherwise` says in --help what comes without it."""
    return argument(
        "--verify",
        "what scores an answer: number, number:asked, exact, regex:PATTERN, reward:PATH, judge:URL, and with "
        f"--allow-code module:function or command:…{otherwise}",
        required=required,
        metavar="V",
    )


def verifier_options() -> Iterator[Argument]:
    """The options of verifiers, each of which some verifiers have."""
    for name, (help, kind) in _OPTIONS.items():
        yield argument(f"--{name.replace('_', '-')}", help, type=kind, metavar=kind.__name__.upper())


def take_verifier(verify: str | None, allow_code: bool, options: dict[str, Any]) -> Verifier | None:
    """The verifier that was named, if one was; its options are taken out of `options`.

    Raises:
        InputError: what `load_verifier` refuses, or options of a verifier without one.
    """
    given = {name: value for name in _OPTIONS if (value := options.pop(name)) is not None}
    if verify is None:
        _refuse_alone(given)
        return None
    from minordpo.verify.verifier import load_verifier

    return load_verifier(verify, allow_code=allow_code, **given)


def _refuse_alone(given: Mapping[str, Any]) -> None:
    for name in given:
        raise InputError(
            f"--{name.replace('_', '-')} is of a verifier, but there is no --verify. Name one, or leave the option out"
        )
