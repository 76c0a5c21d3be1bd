"""Which candidates can share compiled programs: all that differ in numbers alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from paretax.spaces import quantization
from paretax.spaces.candidate import Candidate
from paretax.spaces.dimensions import Setting, is_number
from paretax.spaces.operators import complete
from paretax.spaces.parameters import Value
from paretax.spaces.rules import setting_of
from paretax.spaces.schedule import trains_quantized
from paretax.spaces.space import Space


def signature(candidate: Mapping[str, Any], settings: Mapping[str, Setting]) -> str:
    """What the programs that train a candidate depend on, as canonical JSON.

    Candidates of equal signature are best trained by one worker, which then compiles once. It is
    read off the candidate alone, so that a driver needs to trace no model: the programs themselves
    are kept by what they are made from, and a signature that says too little or too much costs
    time, and nothing else.

    Args:
        candidate: parameter names to values.
        settings: those that paretax understands, by name; other parameters are the model's, of
            which numbers with a fraction (dropout) are taken for numbers in its program as well.
    """
    found = graph_choices(candidate, settings)
    return json.dumps(found, sort_keys=True, separators=(",", ":"))


def with_signature(
    space: Space,
    candidate: Mapping[str, Value],
    model: Mapping[str, Value],
    settings: Mapping[str, Setting],
    rng: np.random.Generator,
) -> Candidate | None:
    """A candidate with the signature of `model`, and the numbers of `candidate` where it has them.

    Args:
        space: of both.
        candidate: whose numbers are taken.
        model: whose signature is taken.
        settings: as of `signature`.
        rng: for numbers that neither has.

    Returns:
        None where that combination is forbidden.
    """
    fixed = graph_choices(model, settings)
    off = graph_choices(candidate, settings)
    numbers = {n: v for n, v in candidate.items() if n not in off and n not in fixed}
    held = {n: model[n] for n in fixed if n in model}
    return complete(space, {**model, **numbers, **held}, rng)


def graph_choices(candidate: Mapping[str, Any], settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The parameters that change a graph or a shape; of numbers, those that are 0, and so off."""
    found: dict[str, Any] = {}
    trained = trains_quantized(candidate)
    for name, value in candidate.items():
        setting = settings.get(setting_of(name))
        if setting in quantization.SETTINGS and not trained:
            continue  # the grid comes after the training
        if name == "pruning" and value != "lottery_ticket":
            continue  # what is pruned when are numbers
        only_number = setting.number if setting is not None else isinstance(value, float)
        if not only_number:
            found[name] = value
        elif setting is not None and is_number(value) and float(value) == 0:
            found[name] = 0
    return {**found, "on the grid": trained}
