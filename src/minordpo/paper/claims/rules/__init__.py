"""The paper's claims, each with the rule that decides it, written before any run was made for that.

Every rule asks for a direction in every seed's own mean over the settings (β, learning rate) that all seeds have; a
claim of several parts is held only if each part is. Tests are exact paired sign-flip tests over seeds, two-sided, at
0.05. Accuracy is by the last number of an answer; by the asked line it is told beside; where the
untuned model is right in less than a tenth of its answers, it decides nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
import string

from minordpo.paper.claims.claim import CLAIMS, Claim

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")


def all_claims() -> list[Claim]:
    """The claims of every module in this folder, and of others that were imported, in the paper's order."""
    # C5b after C5a, C10 after C9.
    return sorted(
        CLAIMS.values(), key=lambda each: (len(each.name.rstrip(string.ascii_lowercase)), each.name)
    )
