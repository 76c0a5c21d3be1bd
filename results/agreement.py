"""How well modelled figures agreed with better ones of the same candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paretax.results.run import Run


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of predictions with what was found afterwards.

    Args:
        programs: different ones that carry both.
        median_error: median of |predicted / found - 1|.
        spearman: rank correlation; None below three programs, or where all are alike.
    """

    programs: int
    median_error: float
    spearman: float | None

    def describe(self, kind: str) -> str:
        """In words, for a caption."""
        rank = "" if self.spearman is None else f", rank correlation {self.spearman:.2f}"
        return (
            f"{kind} was off by {100 * self.median_error:.0f}% in the median of {self.programs} "
            f"programs{rank}."
        )


Pairs = list[tuple[float, float]]
"""Predicted and found, in us."""


def model_agreement(run: Run, target: str) -> Agreement | None:
    """Of the latency model with the measured latencies of a target; None where it has none."""
    return _agreement(model_pairs(run, target))


def parts_agreement(run: Run, target: str) -> Agreement | None:
    """Of prices from parts with whole programs, on the final front; None where there are none."""
    return _agreement(parts_pairs(run, target))


def model_pairs(run: Run, target: str) -> Pairs:
    """Modelled and measured latency of each program that carries both."""
    found = {
        str(m.detail["program"]): (float(m.detail["modelled"]), m.value)
        for t in run.trials
        for m in t.measurements
        if m.objective == "latency" and m.target == target and "modelled" in m.detail
    }
    return list(found.values())


def parts_pairs(run: Run, target: str) -> Pairs:
    """Latency from parts and of the whole program, of each trial on the final front."""
    pairs: Pairs = []
    for trial in run.trials:
        whole = [m for m in trial.whole if m.objective == "latency" and m.target == target]
        priced = [m for m in trial.measurements if m.objective == "latency" and m.target == target]
        pairs += [(p.value, w.value) for p, w in zip(priced, whole, strict=False)]
    return pairs


def _agreement(pairs: Sequence[tuple[float, float]]) -> Agreement | None:
    if not pairs:
        return None
    predicted, found = np.array(pairs).T
    rank = None
    if len(pairs) > 2 and len(set(predicted)) > 1 and len(set(found)) > 1:
        from scipy.stats import spearmanr

        rank = float(spearmanr(predicted, found).statistic)
    return Agreement(
        programs=len(pairs),
        median_error=float(np.median(np.abs(predicted / found - 1))),
        spearman=rank,
    )
