"""Pareto dominance and hypervolume, by moocore; every objective is a loss here."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np


def nondominated(losses: np.ndarray) -> np.ndarray:
    """Which points no other point dominates; of equal points, the first.

    Args:
        losses: array (points, objectives), finite.

    Returns:
        Booleans (points,).
    """
    losses = np.asarray(losses, dtype=np.float64)
    if losses.size == 0:
        return np.zeros(len(losses), bool)
    return np.asarray(moocore.is_nondominated(losses), bool)


def ranks(losses: np.ndarray) -> np.ndarray:
    """The non-dominated front each point is in, from 0 (Deb et al., 2002, section III-A)."""
    losses = np.asarray(losses, dtype=np.float64)
    return np.asarray(moocore.pareto_rank(losses), int)


def reference(losses: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A reference point for hypervolumes, and the best point beside it.

    Args:
        losses: array (points, objectives) of a first sample.

    Returns:
        The worst value of each objective, a tenth of the range worse; and the best value.
    """
    losses = np.asarray(losses, dtype=np.float64)
    best, worst = losses.min(axis=0), losses.max(axis=0)
    span = np.where(worst > best, worst - best, np.maximum(np.abs(worst), 1.0))
    return tuple((worst + 0.1 * span).tolist()), tuple(best.tolist())


def relative_hypervolume(
    losses: np.ndarray, worst: Sequence[float], best: Sequence[float]
) -> float:
    """The volume that the points dominate within the reference point (Zitzler and Thiele, 1998).

    In units of the box from `best` to `worst`, so that scales and units of the objectives do not
    matter; better points than `best` bring it above 1.

    Args:
        losses: array (points, objectives).
        worst: the reference point.
        best: the other corner of the unit box.
    """
    if len(losses) == 0:
        return 0.0
    low, high = np.asarray(best), np.asarray(worst)
    scaled = (np.asarray(losses) - low) / (high - low)
    return float(moocore.hypervolume(scaled, ref=np.ones(len(low))))


def nearest_to_ideal(losses: np.ndarray) -> int:
    """The knee: the point nearest to the best of every objective, each scaled to its range."""
    losses = np.asarray(losses, dtype=np.float64)
    low, high = losses.min(axis=0), losses.max(axis=0)
    scaled = (losses - low) / np.where(high > low, high - low, 1.0)
    return int(np.argmin((scaled**2).sum(axis=1)))
