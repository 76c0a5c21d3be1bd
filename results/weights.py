"""The trained weights that a run keeps, a file a trial."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save

from paretax.errors import UsageError
from paretax.results.manifest import checksum
from paretax.results.trial import Trial


def weights_file(folder: Path, number: int) -> Path:
    """Where a run keeps a trial's trained weights."""
    return folder / "weights" / f"{number}.safetensors"


def save_weights(folder: Path, number: int, weights: Mapping[str, np.ndarray]) -> str:
    """Keep trained weights; written beside and moved, so that a file is whole or not there.

    Returns:
        The SHA-256 of the file.
    """
    path = weights_file(folder, number)
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".part")
    content = save({n: np.asarray(a, order="C") for n, a in weights.items()})
    draft.write_bytes(content)
    draft.replace(path)
    return hashlib.sha256(content).hexdigest()


def load_weights(folder: Path, trial: Trial) -> dict[str, np.ndarray] | None:
    """A trial's kept weights; None where there are none.

    Raises:
        UsageError: the file is not the one that was written.
    """
    path = weights_file(folder, trial.number)
    if not path.is_file():
        return None
    if weights_state(folder, trial) == "changed":
        raise UsageError(
            f"{str(path)!r} was changed since it was written: its SHA-256 is not the one in the "
            "journal; bring it back, or delete it, and the trial is trained again where need be"
        )
    return dict(load_file(path))  # `load` knows no bfloat16


def weights_state(folder: Path, trial: Trial) -> str:
    """Of a trial's file of weights: "none", "whole", "changed", or "unchecked".

    The last is of journals of earlier versions, which hold no checksum.
    """
    path = weights_file(folder, trial.number)
    if not path.is_file():
        return "none"
    if trial.weights is None:
        return "unchecked"
    return "whole" if checksum(path) == trial.weights else "changed"
