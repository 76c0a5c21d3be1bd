"""What calibration learned: how far kernels of a kind are from the roofline.

A forest of extremely randomised trees (Geurts, Ernst, Wehenkel: Extremely randomized trees, Machine
Learning 63, 2006) a group of kernels (kind and library) over the logarithm of measured / modelled
time. Its predictions never leave the range of what was measured, however far a kernel is from it.
What is saved is arrays of plain numbers: no code, no pickle.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paretax.errors import UsageError
from paretax.evaluators.latency_model.features import NAMES

LEAST = 12
"""Kernels below which a group is not fitted on its own."""

TREES = 100
_EVERY = ""  # the group of all kernels

CALL = "call"
"""The group of whole calls: what they take beyond their kernels."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A measured kernel.

    Args:
        group: its kind and library.
        features: see `features`.
        log_ratio: natural logarithm of measured / modelled seconds.
    """

    group: str
    features: np.ndarray
    log_ratio: float


@dataclass(frozen=True, kw_only=True)
class _Forest:
    """Trees, whose nodes stand one after another.

    Args:
        roots: first node of each tree, (trees,).
        feature: that a node asks for; -1: it is a leaf.
        threshold: up to which a kernel goes left.
        left: node to go on with.
        right: likewise.
        value: mean of the node's kernels.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over the trees, (n,) each; all trees are walked at once."""
        points = points.astype(np.float32)
        rows = np.arange(len(points))[:, None]
        node = np.broadcast_to(self.roots, (len(points), len(self.roots)))
        while True:
            asked = self.feature[node]
            inner = asked >= 0
            if not inner.any():
                break
            left = points[rows, asked] <= self.threshold[node]
            node = np.where(inner, np.where(left, self.left[node], self.right[node]), node)
        values = self.value[node]
        return values.mean(1), values.std(1)


_ARRAYS = ("roots", "feature", "threshold", "left", "right", "value")


class Corrections:
    """Factors on the roofline's time, with their uncertainty.

    Args:
        forests: fitted, by group; "" stands for kernels of a group that was not measured.
    """

    def __init__(self, forests: Mapping[str, _Forest]) -> None:
        self._forests = dict(forests)

    def predict(self, group: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the logarithm of the factor.

        Args:
            group: of the kernels.
            points: their features, (n, len(NAMES)).
        """
        if group not in self._forests:
            kind = group.partition(" ")[0]
            group = next((g for g in self._forests if g.partition(" ")[0] == kind), _EVERY)
        return self._forests[group].predict(points)

    def knows(self, group: str) -> bool:
        """Whether a group was measured."""
        return group in self._forests

    def save(self, path: Path) -> None:
        """Write as arrays (NumPy's .npz)."""
        arrays: dict[str, Any] = {"features": np.array(NAMES), "groups": np.array([*self._forests])}
        for index, forest in enumerate(self._forests.values()):
            arrays |= {f"{index}.{name}": getattr(forest, name) for name in _ARRAYS}
        np.savez_compressed(path, **arrays)  # of numbers and text: nothing is pickled

    @classmethod
    def load(cls, path: Path) -> Corrections:
        """Read what `save` wrote.

        Raises:
            UsageError: the file is missing, damaged, or of another version.
        """
        try:
            with np.load(path, allow_pickle=False) as found:
                if tuple(found["features"].tolist()) != NAMES:
                    raise ValueError("it is of another version of paretax")
                return cls(
                    {
                        group: _Forest(**{name: found[f"{index}.{name}"] for name in _ARRAYS})
                        for index, group in enumerate(found["groups"].tolist())
                    }
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(
                f"the corrections {str(path)!r} cannot be read ({error}): calibrate again"
            ) from None


def fit(samples: Sequence[Sample], seed: int = 0) -> Corrections:
    """Learn the corrections of a device.

    Args:
        samples: measured kernels; at least one.
        seed: of the trees.
    """
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.group].append(sample)
        if sample.group != CALL:
            found[_EVERY].append(sample)
    return Corrections(
        {
            name: _fit_group(group, seed)
            for name, group in found.items()
            if len(group) >= LEAST or name == _EVERY
        }
    )


def _fit_group(group: Sequence[Sample], seed: int) -> _Forest:
    from sklearn.ensemble import ExtraTreesRegressor

    points = np.stack([s.features for s in group])
    targets = np.array([s.log_ratio for s in group])
    fitted = ExtraTreesRegressor(TREES, random_state=seed)
    trees = [e.tree_ for e in fitted.fit(points, targets).estimators_]
    roots = np.cumsum([0, *(t.node_count for t in trees[:-1])])
    return _Forest(
        roots=roots.astype(np.int32),
        feature=np.concatenate([np.maximum(t.feature, -1) for t in trees]).astype(np.int16),
        threshold=np.concatenate([t.threshold for t in trees]).astype(np.float32),
        left=_joined([t.children_left for t in trees], roots),
        right=_joined([t.children_right for t in trees], roots),
        value=np.concatenate([t.value[:, 0, 0] for t in trees]).astype(np.float32),
    )


def _joined(children: Sequence[np.ndarray], roots: np.ndarray) -> np.ndarray:
    return np.concatenate([c + r for c, r in zip(children, roots, strict=True)]).astype(np.int32)
