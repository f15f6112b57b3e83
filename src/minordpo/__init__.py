"""Preference tuning that does not break the model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from minordpo import moved as _moved
from minordpo.version import __version__

__all__ = ["InputError", "MonitorCallback", "PreferenceTrainer", "__version__"]

if TYPE_CHECKING:
    from minordpo.errors import InputError
    from minordpo.monitor.callback import MonitorCallback
    from minordpo.train.trainer import PreferenceTrainer

_HOMES = {"InputError": "errors", "MonitorCallback": "monitor.callback", "PreferenceTrainer": "train.trainer"}
_moved.install()


def __getattr__(name: str) -> Any:
    # On first use: transformers takes seconds, which `minordpo --help` should not.
    if name in _HOMES:
        return getattr(import_module(f"minordpo.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
