"""Preference tuning that does not break the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minordpo.version import __version__

__all__ = ["InputError", "MonitorCallback", "PreferenceTrainer", "__version__"]

if TYPE_CHECKING:
    from minordpo.errors import InputError
    from minordpo.monitor.callback import MonitorCallback
    from minordpo.train.trainer import PreferenceTrainer


def __getattr__(name: str) -> Any:
    # On first use: transformers takes seconds, which `minordpo --help` should not.
    if name == "PreferenceTrainer":
        from minordpo.train.trainer import PreferenceTrainer

        return PreferenceTrainer
    if name == "MonitorCallback":
        from minordpo.monitor.callback import MonitorCallback

        return MonitorCallback
    if name == "InputError":
        from minordpo.errors import InputError

        return InputError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
