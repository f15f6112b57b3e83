"""What to optimise: log-probs of responses in, one unreduced loss a prompt out; torch only.

pairwise   formulas on pairs            responses  formulas on single, labelled, ranked, token-wise responses
logps      what formulas see            resolve    a name and hyper-parameters → an objective; its coefficients
"""

from minordpo.objectives.logps import PairLogps, ResponseLogps, TokenLogps
from minordpo.objectives.resolve import (
    OBJECTIVES,
    Gradient,
    Objective,
    gradient,
    hyperparameter_defaults,
    refuse_data,
    resolve,
)

__all__ = [
    "OBJECTIVES",
    "Gradient",
    "Objective",
    "PairLogps",
    "ResponseLogps",
    "TokenLogps",
    "gradient",
    "hyperparameter_defaults",
    "refuse_data",
    "resolve",
]
