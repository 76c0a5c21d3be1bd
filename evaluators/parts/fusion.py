"""What the fusion of kernels across parts saves, learned from whole programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from paretax.evaluators.kernels import Kernel

Joint = tuple[str, str]
"""Where two parts meet: the kernels of the first from its last product on, and those of the other
up to its first product, by kind and library. Compilers fuse alike what looks alike."""


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """How much of its parts' time a whole program takes on a target.

    Args:
        products: share of the kernels with products that is left.
        others: share of the other kernels: some only carry values from part to part.
        cut: seconds that each cut between two parts adds, and the whole saves.
        joints: seconds that the whole takes more, or saves if negative, where two parts of
            such kernels meet, beyond that.
        checked: whole programs that say so.
    """

    products: float = 1.0
    others: float = 1.0
    cut: float = 0.0
    joints: Mapping[Joint, float] = field(default_factory=dict)
    checked: int = 0

    def seconds(self, products: float, others: float, joints: Sequence[Joint]) -> float:
        """Of the kernels of a whole program, at least a tenth of those of its parts."""
        whole = self.products * products + self.others * others - self.cut * len(joints)
        whole += sum(self.joints.get(joint, 0.0) for joint in joints)
        return max(whole, 0.1 * (products + others))


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A whole program beside its parts, in seconds of a call, without the calling.

    Args:
        products: of the parts' kernels with products.
        others: of their other kernels.
        joints: where parts meet.
        whole: of the whole program.
    """

    products: float
    others: float
    joints: tuple[Joint, ...]
    whole: float


def fitted(rows: Sequence[Checked]) -> Fusion:
    """Least squares of the relative errors, no share negative; then what is left, by joint.

    Few programs must not teach more than they know: each coefficient is drawn to what it is
    without any, as if one more program said so.
    """
    from scipy.optimize import nnls

    table = np.array([(r.products, r.others, len(r.joints)) for r in rows])
    weights = 1 / np.maximum([r.whole for r in rows], 1e-12)
    scaled = table * weights[:, None]
    mean = scaled.mean(axis=0)
    columns = np.concatenate([scaled * [1, 1, -1], np.diag(mean)])
    wanted = np.concatenate([np.ones(len(rows)), mean * [1, 1, 0]])
    (products, others, cut), _ = nnls(columns, wanted)
    left = 1 - columns[: len(rows)] @ [products, others, cut]
    return Fusion(
        products=float(products),
        others=float(others),
        cut=float(cut),
        joints=_joints(rows, weights, left),
        checked=len(rows),
    )


def _joints(rows: Sequence[Checked], weights: np.ndarray, left: np.ndarray) -> dict[Joint, float]:
    """Ridge regression of what is left of whole programs on the joints that they have."""
    known = list(dict.fromkeys(joint for row in rows for joint in row.joints))
    if not known:
        return {}
    counts = np.array([[row.joints.count(joint) for joint in known] for row in rows])
    # In the unit of a typical program, so that the ridge is as strong on a fast device as a slow.
    unit = 1 / weights.mean()
    columns = counts * weights[:, None] * unit
    ridge = columns.T @ columns + np.eye(len(known))
    found = np.linalg.solve(ridge, columns.T @ left) * unit
    return dict(zip(known, found.tolist(), strict=True))


def ends(kernels: Sequence[Kernel]) -> tuple[str, str]:
    """The kernels up to the first product, and those from the last one on, by kind and library."""
    names = [f"{k.kind} {k.library}" for k in kernels]
    products = [i for i, k in enumerate(kernels) if k.products] or [0]
    return ", ".join(names[: products[0] + 1]), ", ".join(names[products[-1] :])
