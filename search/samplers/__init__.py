"""Samplers: what proposes candidates. All of them follow one protocol."""

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

from paretax.errors import unknown
from paretax.search.samplers.grid import GridSampler
from paretax.search.samplers.nsga2 import NSGA2Sampler
from paretax.search.samplers.protocol import Observation, Sampler
from paretax.search.samplers.random import RandomSampler
from paretax.search.samplers.tpe import TPESampler

SAMPLERS: Mapping[str, Callable[..., Sampler]] = {
    "grid": GridSampler,
    "nsga2": NSGA2Sampler,
    "random": RandomSampler,
    "tpe": TPESampler,
}


def make_sampler(name: str, options: Mapping[str, Any]) -> Sampler:
    """A sampler by its name.

    Raises:
        UsageError: the sampler or one of its options does not exist, or it refuses a value.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    valid = signature(SAMPLERS[name]).parameters
    for option in options:
        if option not in valid:
            raise unknown("option", option, valid, f"sampler {name!r}")
    return SAMPLERS[name](**options)


__all__ = [
    "SAMPLERS",
    "GridSampler",
    "NSGA2Sampler",
    "Observation",
    "RandomSampler",
    "Sampler",
    "TPESampler",
    "make_sampler",
]
