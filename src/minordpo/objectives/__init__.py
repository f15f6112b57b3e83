"""What to optimise: log-probs of responses in, one unreduced loss a prompt out; torch only.

spec       what an objective is besides its formula: data, needs, hyper-parameters, words
pairwise   formulas on pairs            responses  formulas on single, labelled, ranked, token-wise responses
own        a function of the user's     resolve    a name and hyper-parameters → an objective; its coefficients
logps      what formulas see            describe   the objectives in words
late       torch, once a loss is computed
"""

from minordpo.objectives.logps import PairLogps, ResponseLogps, TokenLogps
from minordpo.objectives.resolve import (
    OBJECTIVES,
    Given,
    Gradient,
    Objective,
    gradient,
    parse,
    recorded,
    refuse_data,
    resolve,
)
from minordpo.objectives.spec import Spec

__all__ = [
    "OBJECTIVES",
    "Given",
    "Gradient",
    "Objective",
    "PairLogps",
    "ResponseLogps",
    "Spec",
    "TokenLogps",
    "gradient",
    "parse",
    "recorded",
    "refuse_data",
    "resolve",
]
