"""What an objective sees: log-probs of responses, of policy and reference, in nats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from minordpo.objectives.late import Float, Int, Tensor, torch


@dataclass(frozen=True, eq=False)
class PairLogps:
    """Log-probs of a batch of pairs, summed over each response's scored tokens, in nats."""

    chosen_logps: Float[Tensor, "pairs"]
    rejected_logps: Float[Tensor, "pairs"]
    ref_chosen_logps: Float[Tensor, "pairs"] | None
    ref_rejected_logps: Float[Tensor, "pairs"] | None
    chosen_tokens: Int[Tensor, "pairs"]
    rejected_tokens: Int[Tensor, "pairs"]

    @property
    def chosen_logratios(self) -> Float[Tensor, "pairs"]:
        """log π/π_ref of the chosen responses, in nats."""
        return self.chosen_logps - _needed(self.ref_chosen_logps)

    @property
    def rejected_logratios(self) -> Float[Tensor, "pairs"]:
        """log π/π_ref of the rejected responses, in nats."""
        return self.rejected_logps - _needed(self.ref_rejected_logps)

    @property
    def chosen_mean_logps(self) -> Float[Tensor, "pairs"]:
        """log π of the chosen responses, in nats a scored token."""
        return self.chosen_logps / self.chosen_tokens

    @property
    def rejected_mean_logps(self) -> Float[Tensor, "pairs"]:
        """log π of the rejected responses, in nats a scored token."""
        return self.rejected_logps / self.rejected_tokens


@dataclass(frozen=True, eq=False)
class TokenLogps:
    """Log-probs of each response's scored tokens, response by response, in text order, in nats."""

    logps: Float[Tensor, "members"]
    sequences: Int[Tensor, "members"]  # the response that the token belongs to
    # At the places that `Objective.alternatives` asks for: another token than the response's, drawn from the policy.
    alternative_logps: Float[Tensor, "alternatives"]
    alternative_members: Int[Tensor, "alternatives"]


@dataclass(frozen=True, eq=False)
class ResponseLogps:
    """Log-probs of responses to prompts, summed over scored tokens, in nats; prompt by prompt, best first."""

    logps: Float[Tensor, "sequences"]
    ref_logps: Float[Tensor, "sequences"] | None
    tokens: Int[Tensor, "sequences"]  # scored tokens
    groups: Int[Tensor, "sequences"]  # the response's prompt, from 0, ascending
    grades: Float[Tensor, "sequences"]  # higher is better; 1 chosen or desirable, 0 rejected or undesirable
    mismatched_logratio: Float[Tensor, ""] | None = None  # mean over responses to other prompts of the step
    by_token: TokenLogps | None = None
    count: int | None = (
        None  # of prompts; who makes this on a GPU knows it, and reading it there makes the host wait
    )

    @property
    def prompts(self) -> int:
        """How many prompts there are."""
        return int(self.groups[-1]) + 1 if self.count is None else self.count

    @property
    def logratios(self) -> Float[Tensor, "sequences"]:
        """log π/π_ref, in nats."""
        return self.logps - _needed(self.ref_logps)

    @property
    def mean_logps(self) -> Float[Tensor, "sequences"]:
        """log π, in nats a scored token."""
        return self.logps / self.tokens

    @cached_property
    def best(self) -> Int[Tensor, "prompts"]:
        """The first response of each prompt: the chosen, desirable or highest one."""
        return torch.searchsorted(self.groups, torch.arange(self.prompts, device=self.groups.device))

    @cached_property
    def worst(self) -> Int[Tensor, "prompts"]:
        """The last response of each prompt."""
        following = torch.arange(1, self.prompts + 1, device=self.groups.device)
        return torch.searchsorted(self.groups, following) - 1

    @cached_property
    def are_single(self) -> bool:
        """Whether every prompt has one response only, with a label."""
        return self.prompts == len(self.groups)

    def pairs(self) -> PairLogps:
        """The best and the worst response of each prompt."""
        ref = self.ref_logps
        return PairLogps(
            self.logps[self.best],
            self.logps[self.worst],
            None if ref is None else ref[self.best],
            None if ref is None else ref[self.worst],
            self.tokens[self.best],
            self.tokens[self.worst],
        )

    def per_prompt(self, values: Float[Tensor, "sequences"]) -> Float[Tensor, "prompts"]:
        """Sums of values over each prompt's responses."""
        return values.new_zeros(self.prompts).index_add(0, self.groups, values)


def alternating(
    logps: Float[Tensor, "sequences"],
    ref_logps: Float[Tensor, "sequences"] | None,
    tokens: Int[Tensor, "sequences"],
    *,
    by_token: bool = False,
) -> ResponseLogps:
    """Pairs as chosen, rejected, chosen, …; `by_token` adds tokens alike, each rejected one as likely as another."""
    sequences = torch.arange(len(logps)).repeat_interleave(tokens)
    each, rejected = (logps / tokens)[sequences], torch.nonzero(sequences % 2 == 1)[:, 0]
    return ResponseLogps(
        logps,
        ref_logps,
        tokens,
        groups=torch.arange(len(logps)) // 2,
        grades=torch.tensor([1.0, 0.0], dtype=logps.dtype).repeat(len(logps) // 2),
        by_token=TokenLogps(each, sequences, each[rejected], rejected) if by_token else None,
    )


def _needed(ref_logps: Tensor | None) -> Tensor:
    if ref_logps is None:
        raise ValueError("a log-ratio needs reference log-probs, and there are none")
    return ref_logps
