"""The options of verifiers: which there are, which verifier has which, and what they may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from minordpo.errors import InputError, did_you_mean

JUDGE_MODES = ("score", "pairwise")
REWARD_DTYPES = ("float32", "bfloat16")
# Every verifier that has options, by its name before the colon.
OPTIONS_OF: dict[str, tuple[str, ...]] = {
    "judge": (
        "judge_model",
        "judge_mode",
        "judge_concurrency",
        "judge_retries",
        "judge_max_tokens",
        "verify_timeout",
    ),
    "command": ("verify_timeout",),
    "reward": ("reward_batch_size", "reward_dtype"),
}


@dataclass(frozen=True, kw_only=True)
class VerifierOptions:
    """How verifiers work; only `judge_model`, `judge_mode`, `judge_max_tokens` and `reward_dtype` change scores.

    Raises:
        InputError: a value that the option cannot have.
    """

    judge_model: str | None = None  # the model's name at the endpoint
    judge_mode: str = "score"  # or "pairwise"
    judge_concurrency: int = 8  # requests at a time
    judge_retries: int = 5  # requests after the first one, where that may help
    judge_max_tokens: int | None = None  # of a reply; None: as many as the endpoint allows
    verify_timeout: float | int = 120.0  # seconds: a judge's reply, a command's line
    reward_batch_size: int = 8  # sequences at a time
    reward_dtype: str = "float32"  # of the reward model's weights

    def __post_init__(self) -> None:
        for each in ("judge_concurrency", "reward_batch_size"):
            self._refuse_number(each, whole=True, least=1)
        if self.judge_max_tokens is not None:
            self._refuse_number("judge_max_tokens", whole=True, least=1)
        self._refuse_number("judge_retries", whole=True, least=0)
        self._refuse_number("verify_timeout", whole=False, least=0.01)
        for name, known in (("judge_mode", JUDGE_MODES), ("reward_dtype", REWARD_DTYPES)):
            value = getattr(self, name)
            if value not in known:
                near = did_you_mean(str(value), known)
                raise InputError(
                    f"{flag(name)} is {value!r}{near}, but {' or '.join(known)} is needed. Correct it"
                )
        if self.judge_model is not None and not (
            isinstance(self.judge_model, str) and self.judge_model.strip()
        ):
            raise InputError(
                f"{flag('judge_model')} is {self.judge_model!r}, but the name of a model at the judge's endpoint is "
                "needed. Correct it"
            )

    def _refuse_number(self, name: str, *, whole: bool, least: float | int) -> None:
        value = getattr(self, name)
        kinds = (int,) if whole else (int, float)
        most = 86_400  # of a day: longer waits overflow in some systems' calls
        if type(value) not in kinds or not least <= value <= most:
            what = "a whole number" if whole else "a number"
            raise InputError(
                f"{flag(name)} is {value!r}, but {what} from {least} to {most:,} is needed. Correct it"
            )


def flag(name: str) -> str:
    """An option as the command line spells it: judge_model → --judge-model."""
    return f"--{name.replace('_', '-')}"


def read_options(kind: str, given: Mapping[str, Any]) -> VerifierOptions:
    """The options that were given to a verifier of this kind.

    Raises:
        InputError: an option that no verifier has, that this one does not have, or a value that it cannot have.
    """
    known = [each.name for each in fields(VerifierOptions)]
    for name in given:
        if name not in known:
            raise InputError(
                f"{flag(name)} is no option of a verifier{did_you_mean(name, known)}. There are {', '.join(known)}"
            )
        if name not in OPTIONS_OF.get(kind, ()):
            owners = " and ".join(f"{each}:" for each, names in OPTIONS_OF.items() if name in names)
            raise InputError(
                f"{flag(name)} is of --verify {owners}, but --verify is {kind}. Leave the option out"
            )
    return VerifierOptions(**given)
