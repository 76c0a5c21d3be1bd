"""Joint, hardware-aware, multi-objective search for efficient JAX/Flax models.

What a user's task and script need is here; it is imported when it is first used, so that the
command line starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paretax.errors import UsageError
    from paretax.results import Run, export_bundle, leaderboard, load_bundle, verify_bundle
    from paretax.search import SearchConfig, load_config, parse_config, plan, run_search
    from paretax.spaces import Candidate, Categorical, Float, Integer, Ordinal, Space
    from paretax.tasks import (
        Config,
        Data,
        Metric,
        Split,
        Task,
        accuracy,
        classification,
        cross_entropy,
        load_task,
        split,
    )

__version__ = _version("paretax")

_HOME = {
    "paretax.errors": ("UsageError",),
    "paretax.results": ("Run", "export_bundle", "leaderboard", "load_bundle", "verify_bundle"),
    "paretax.search": ("SearchConfig", "load_config", "parse_config", "plan", "run_search"),
    "paretax.spaces": ("Candidate", "Categorical", "Float", "Integer", "Ordinal", "Space"),
    "paretax.tasks": (
        "Config",
        "Data",
        "Metric",
        "Split",
        "Task",
        "accuracy",
        "classification",
        "cross_entropy",
        "load_task",
        "split",
    ),
}
_PLACES = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Candidate",
    "Categorical",
    "Config",
    "Data",
    "Float",
    "Integer",
    "Metric",
    "Ordinal",
    "Run",
    "SearchConfig",
    "Space",
    "Split",
    "Task",
    "UsageError",
    "__version__",
    "accuracy",
    "classification",
    "cross_entropy",
    "export_bundle",
    "leaderboard",
    "load_bundle",
    "load_config",
    "load_task",
    "parse_config",
    "plan",
    "run_search",
    "split",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'paretax' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)
