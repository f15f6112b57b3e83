"""What formulas take from torch and jaxtyping, imported with the first loss that is computed.

`--help` shows formulas and computes none, so it does not wait for torch. Where torch is imported already, these are its
own names.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or "torch" in sys.modules:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor
    from torch.nn.functional import logsigmoid, relu
else:

    class _Late:
        """Stands for a module or for what one holds, until it is used."""

        def __init__(self, module: str, name: str | None = None) -> None:
            self._module, self._name = module, name

        def _found(self) -> Any:
            module = import_module(self._module)
            return module if self._name is None else getattr(module, self._name)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._found(), name)

        def __call__(self, *args: Any, **options: Any) -> Any:
            return self._found()(*args, **options)

        def __instancecheck__(self, value: Any) -> bool:
            return isinstance(value, self._found())

    torch, Tensor = _Late("torch"), _Late("torch", "Tensor")
    Float, Int = _Late("jaxtyping", "Float"), _Late("jaxtyping", "Int")
    logsigmoid, relu = (_Late("torch.nn.functional", name) for name in ("logsigmoid", "relu"))

__all__ = ["Float", "Int", "Tensor", "logsigmoid", "relu", "torch"]
