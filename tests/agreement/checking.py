"""What a candidate scores, what is exported, and a naive reading of it in float64: all the same.

Models and techniques are drawn at random. Each draw is equal in all three, within the tolerances
below, or is refused by name. `python -m tests.agreement nnx 50 100 --techniques 4 --numbers 9`
draws more than CI does, and goes on after a failure.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from tests.agreement.drawing import Drawn, draw
from tests.agreement.readings import Readings, naive_outputs
from tests.agreement.reference import Array

from paretax.errors import UsageError
from paretax.evaluators.size import count_bytes

MODELS, BLOCK, NUMBERS = 60, 5, 12
"""In CI: models of each system, models in one test, sets of numbers for those of the first test."""

FIRSTS = range(0, MODELS, BLOCK)
"""The first model of each test."""

_EXACT = 2e-5
"""Of the largest output: sums in another order."""

_LOW = {"bfloat16": 0.05, "bfloat16 weights": 0.05, "float16": 0.01}
"""Of the largest output: a few roundings of the model's own arithmetic."""


def check_pruning(drawn: Drawn, sites: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
    """As many zeros as were asked for, in the right places."""
    chosen = drawn.candidate
    if "pruning_pattern" in chosen:
        n, m = map(int, chosen["pruning_pattern"].split(":"))
        for name, site in sites.items():
            groups = np.moveaxis(weights[name], site.inner_axis, -1).reshape(-1, m)
            assert ((groups == 0).sum(axis=1) >= m - n).all(), name
    elif chosen.get("sparsity", 0) and chosen["pruning_scope"] == "layer":
        for name, site in sites.items():
            least = min(site.size - 1, round(site.size * chosen["sparsity"]))
            assert (weights[name] == 0).sum() >= least, name


def agree(drawn: Drawn, readings: Readings) -> str:
    """Hold one draw's three readings against each other.

    Returns:
        What came of it: "equal", "equal where float64 tells" (on less than half of the examples),
        "equal without float64" (scored and exported alone), or "refused: WHY".
    """
    try:
        weights = readings.trained(drawn)
    except UsageError as error:
        return f"refused: {error}"
    sites = readings.bench.deployed(drawn.candidate).sites
    assert set(drawn.weights) <= set(sites), "a weight that no technique reaches"
    check_pruning(drawn, sites, weights)
    return compare(drawn, readings, weights)


def compare(drawn: Drawn, readings: Readings, weights: Mapping[str, Array]) -> str:
    """Hold the three readings of trained weights against each other; see `agree`."""
    bench = readings.bench
    model = bench.deployed(drawn.candidate)
    scored = readings.scored(drawn, weights)
    exported, size = readings.exported(drawn, weights)
    pruned = {n: int((~mask).sum()) for n, mask in readings.kept(model, weights).items()}
    everywhere = drawn.candidate.get("pruning_scope") == "global"
    size_said = count_bytes(bench, drawn.candidate, pruned if everywhere else None).value
    assert size == size_said, f"{size} bytes stored, {size_said} counted"
    assert np.isfinite(scored).all(), "scored outputs are not finite"
    tallest = float(np.abs(scored).max()) + 1e-9
    plain, *moved = naive_outputs(drawn, weights, bench.data.test.inputs)
    assert all(np.isfinite(found).all() for found in (plain, *moved)), "the naive reading"
    share = _LOW.get(drawn.dtypes, _EXACT)
    steady = np.ones(len(scored), bool)
    for other in moved:
        steady &= np.abs(other - plain).max(axis=1) <= share * tallest / 2

    def hold(name: str, found: Array, which: Array, room: float) -> None:
        worst = np.abs(found - scored)[which].max(initial=0.0) / tallest
        assert worst <= room, f"{name} differs from scored by {worst:.2g}"

    whole, *halves = exported
    every = np.ones(len(scored), bool)
    hold("exported", whole, every, _EXACT)
    for found in halves:
        # Of another batch size the compiler makes another program, whose sums may round otherwise.
        hold("exported in halves", found, every if drawn.dtypes != "float32" else steady, share)
    if drawn.dtypes != "float32" and (model.recipe.rounds or drawn.rounds):
        return "equal without float64"  # there a value on an edge is the rule
    hold("naive", plain, steady, share)
    if not steady.any():
        return "equal without float64"
    return "equal" if steady.mean() >= 0.5 else "equal where float64 tells"


def outcomes(
    system: str, models: range, techniques: int, numbers: int
) -> Iterator[tuple[Drawn, str | Exception]]:
    """What comes of each draw: what `agree` says, or what it raises.

    A set of techniques that is refused is not drawn with other numbers.

    Args:
        system: of the models.
        models: their numbers.
        techniques: sets of techniques a model.
        numbers: sets of numbers a set of techniques.
    """
    for number in models:
        readings = Readings(draw(system, number).task)
        refused: set[int] = set()
        for chosen, share in itertools.product(range(techniques), range(numbers)):
            if chosen in refused:
                continue
            drawn = draw(system, number, chosen, share)
            found: str | Exception
            try:
                found = agree(drawn, readings)
            except Exception as error:  # noqa: BLE001  whoever asked lists or raises it
                found = error
            if str(found).startswith("refused"):
                refused.add(chosen)
            yield drawn, found


def check(system: str, first: int) -> None:
    """Hold the draws of one test; of too many that are refused, the test says nothing."""
    counted: Counter[str] = Counter()
    numbers = NUMBERS if first == 0 else 1
    for drawn, found in outcomes(system, range(first, first + BLOCK), 1, numbers):
        if isinstance(found, Exception):
            message = f"{drawn.words}: {type(found).__name__}: {found}"
            raise AssertionError(message) from found
        counted[found.partition(":")[0]] += 1
    jax.clear_caches()
    equal = sum(count for kind, count in counted.items() if kind.startswith("equal"))
    assert equal >= BLOCK * numbers // 3, counted
