"""What calibration learned: how far kernels of a kind are from the roofline.

A Gaussian process a group of kernels (kind and library) over the logarithm of measured / modelled
time (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, eq. 2.25 and 2.26).
Far from what was measured it returns to the group's mean, and its interval widens. What is saved
is plain numbers: no code, no pickle.
"""

from __future__ import annotations

import json
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

MOST = 400
"""Kernels of a group that are kept; they are spread over its range."""


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
class _Group:
    """A fitted Gaussian process with a Matern kernel (nu = 5/2) and a length a feature."""

    points: np.ndarray
    lengths: np.ndarray
    variance: float
    noise: float
    mean: float
    weights: np.ndarray
    inverse: np.ndarray  # of the covariance matrix

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, (n,) each."""
        across = _matern(points / self.lengths, self.points / self.lengths, self.variance)
        mean = self.mean + across @ self.weights
        explained = np.einsum("ij,jk,ik->i", across, self.inverse, across)
        variance = np.maximum(self.variance + self.noise - explained, 1e-8)
        return mean, np.sqrt(variance)


def _matern(a: np.ndarray, b: np.ndarray, variance: float) -> np.ndarray:
    """Matern covariance with nu = 5/2 (Rasmussen and Williams, eq. 4.17)."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    distance = np.sqrt(5 * np.maximum(squares, 0))
    return np.asarray(variance * (1 + distance + distance**2 / 3) * np.exp(-distance))


class Corrections:
    """Factors on the roofline's time, with their uncertainty.

    Args:
        groups: fitted, by name; "" stands for kernels of a group that was not measured.
    """

    def __init__(self, groups: Mapping[str, _Group]) -> None:
        self._groups = dict(groups)

    def predict(self, group: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the logarithm of the factor.

        Args:
            group: of the kernels.
            points: their features, (n, len(NAMES)).
        """
        if group not in self._groups:
            kind = group.partition(" ")[0]
            group = next((g for g in self._groups if g.partition(" ")[0] == kind), "")
        return self._groups[group].predict(points)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        plain = {
            "features": NAMES,
            "groups": {
                name: {
                    "points": np.round(g.points, 5).tolist(),
                    "lengths": g.lengths.tolist(),
                    "variance": g.variance,
                    "noise": g.noise,
                    "mean": g.mean,
                    "targets": (_covariance(g) @ g.weights + g.mean).round(5).tolist(),
                }
                for name, g in self._groups.items()
            },
        }
        path.write_text(json.dumps(plain), "utf-8")

    @classmethod
    def load(cls, path: Path) -> Corrections:
        """Read what `save` wrote.

        Raises:
            UsageError: the file is missing or of another version.
        """
        try:
            plain: dict[str, Any] = json.loads(path.read_text("utf-8"))
            if tuple(plain["features"]) != NAMES:
                raise ValueError("other features")
            return cls(
                {
                    name: _make(
                        np.array(g["points"]), np.array(g["targets"]), np.array(g["lengths"]),
                        g["variance"], g["noise"], g["mean"],
                    )
                    for name, g in plain["groups"].items()
                }
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"the corrections {str(path)!r} cannot be read ({error}): calibrate again"
            ) from None


def _covariance(group: _Group) -> np.ndarray:
    scaled = group.points / group.lengths
    return _matern(scaled, scaled, group.variance) + group.noise * np.eye(len(scaled))


def _make(
    points: np.ndarray,
    targets: np.ndarray,
    lengths: np.ndarray,
    variance: float,
    noise: float,
    mean: float,
) -> _Group:
    scaled = points / lengths
    inverse = np.linalg.inv(_matern(scaled, scaled, variance) + noise * np.eye(len(points)))
    return _Group(
        points=points,
        lengths=lengths,
        variance=variance,
        noise=noise,
        mean=mean,
        weights=inverse @ (targets - mean),
        inverse=inverse,
    )


def fit(samples: Sequence[Sample], seed: int = 0) -> Corrections:
    """Learn the corrections of a device.

    Args:
        samples: measured kernels.
        seed: of the choice of kernels where a group has more than it keeps.
    """
    found: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        found[sample.group].append(sample)
        found[""].append(sample)
    return Corrections(
        {
            name: _fit_group(_spread(group, seed))
            for name, group in found.items()
            if len(group) >= LEAST or not name
        }
    )


def _spread(group: Sequence[Sample], seed: int) -> list[Sample]:
    if len(group) <= MOST:
        return list(group)
    chosen = np.random.default_rng(seed).choice(len(group), MOST, replace=False)
    return [group[i] for i in sorted(chosen)]


def _fit_group(group: Sequence[Sample]) -> _Group:
    """Hyperparameters by scikit-learn: the largest marginal likelihood."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    points = np.stack([s.features for s in group])
    targets = np.array([s.log_ratio for s in group])
    mean = float(np.median(targets))
    count = points.shape[1]
    kernel = ConstantKernel(0.3, (1e-3, 10)) * Matern(
        np.full(count, 6.0), (0.5, 200.0), nu=2.5
    ) + WhiteKernel(0.02, (1e-4, 1.0))
    process = GaussianProcessRegressor(kernel, alpha=1e-8, random_state=0)
    with warnings.catch_warnings():
        # A length at its bound says that the feature does not matter in this group.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(points, targets - mean)
    fitted = process.kernel_
    return _make(
        points,
        targets,
        np.broadcast_to(fitted.k1.k2.length_scale, (count,)).astype(float),
        float(fitted.k1.k1.constant_value),
        float(fitted.k2.noise_level),
        mean,
    )
