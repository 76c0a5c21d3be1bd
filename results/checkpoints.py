"""Trained weights that a user brings: a Flax checkpoint, as flat arrays by path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.serialization
import jax
import numpy as np
from safetensors.numpy import load_file

from paretax.errors import UsageError

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def load_checkpoint(path: Path, expected: Shapes) -> dict[str, np.ndarray]:
    """The arrays of a model, from an Orbax folder, a msgpack or a safetensors file.

    Args:
        path: a folder that Orbax wrote (of an nnx state, or of linen variables), a `.msgpack` of
            `flax.serialization`, or a `.safetensors` with flat names.
        expected: shapes by name ("layers/0/kernel").

    Raises:
        UsageError: nothing is there, it is no checkpoint, or it lacks an array of that shape.
    """
    if not path.exists():
        raise UsageError(f"there is no checkpoint {str(path)!r}: check the path")
    try:
        found = _flat(_read(path))
    except Exception as error:
        raise UsageError(
            f"{str(path)!r} is no checkpoint that can be read ({type(error).__name__}: {error}): "
            "give an Orbax folder, a .msgpack of flax.serialization or a .safetensors"
        ) from error
    for name, shape in expected.items():
        have = _named(found, name)
        if have is None or have.shape != shape.shape:
            there = ", ".join(f"{n} {a.shape}" for n, a in found.items())
            got = "nothing" if have is None else have.shape
            raise UsageError(
                f"the checkpoint {str(path)!r} needs {name!r} of shape {shape.shape}, got {got}; "
                f"it holds {there or 'no array'}: is `candidate` the model that it was saved from?"
            )
    return {name: _named(found, name).astype(s.dtype) for name, s in expected.items()}


def _named(found: Mapping[str, np.ndarray], name: str) -> Any:
    """An array; parameters of whole numbers stand under `params/` among a model's state."""
    return found.get(name, found.get(name.removeprefix("params/")))


def _read(path: Path) -> Any:
    if path.is_dir():
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as reader:
            return reader.restore(path.resolve())
    if path.suffix == ".safetensors":
        return load_file(path)
    return flax.serialization.msgpack_restore(path.read_bytes())


def _flat(tree: Any) -> dict[str, np.ndarray]:
    """Paths as `tasks.models` names them: no "params" in front, no "value" at the end."""
    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts = [str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", "")))) for k in path]
        if parts[0] == "params":
            parts = parts[1:]
        if parts[-1] == "value":
            parts = parts[:-1]
        found["/".join(parts)] = np.asarray(leaf)
    return found
