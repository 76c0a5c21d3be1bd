"""A bundle: one candidate as a folder that can be deployed, and checked without the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from safetensors.numpy import load_file

from paretax.evaluators.accuracy import in_chunks
from paretax.results.manifest import (
    PROGRAM,
    WEIGHTS,
    BrokenBundleError,
    check_files,
    read_manifest,
)
from paretax.results.opening import check_opens
from paretax.results.releases import read_program
from paretax.spaces.storage import Layout, unpack


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle.

    Args:
        folder: where it lies.
        manifest: what it says of itself.
        arrays: what the program takes, unpacked.
        program: the exported program.
    """

    folder: Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    program: jax_export.Exported

    @cached_property
    def _call(self) -> Callable[..., Any]:
        return jax.jit(self.program.call)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Outputs (examples, ...) for inputs (examples, ...), any number of them."""
        return in_chunks(lambda chunk: self._call(dict(self.arrays), chunk), np.asarray(inputs))


def stored_size(folder: Path) -> int:
    """Bytes of a bundle's stored arrays, without the file's header."""
    return sum(array.nbytes for array in load_file(folder / WEIGHTS).values())


def load_bundle(folder: Path | str) -> Bundle:
    """A bundle, ready to be called; its files are checked first, and opened in a child process.

    Raises:
        UsageError: the folder is no bundle, or one of a JAX whose programs are not read here.
        BrokenBundleError: a file is missing or has changed, cannot be read, or the manifest does
            not fit the files.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    check_opens(folder, manifest.get("versions", {}))
    return read_bundle(folder)


def read_bundle(folder: Path) -> Bundle:
    """A bundle whose files were checked already. Raises as `load_bundle` does."""
    manifest = read_manifest(folder)
    content = (folder / PROGRAM).read_bytes()
    program = read_program(content, str(folder), manifest.get("versions", {}))
    try:
        arrays = _arrays(load_file(folder / WEIGHTS), manifest["weights"])
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise BrokenBundleError(f"the manifest does not fit the stored arrays: {error}") from error
    if _taken(program) != {name: (a.shape, a.dtype) for name, a in arrays.items()}:
        raise BrokenBundleError("the stored arrays are not what the program takes")
    return Bundle(folder=folder, manifest=manifest, arrays=arrays, program=program)


def _taken(program: jax_export.Exported) -> Any:
    """The shapes and dtypes of the arrays that a program takes before its inputs, by name."""
    avals = [(a.shape, a.dtype) for a in program.in_avals]
    arguments, _ = jax.tree.unflatten(program.in_tree, avals)
    return arguments[0] if len(arguments) == 2 else None


def _arrays(
    stored: Mapping[str, np.ndarray], weights: Mapping[str, Any]
) -> Mapping[str, np.ndarray]:
    layouts = {
        name: Layout(**{**plain, "shape": tuple(plain["shape"])})
        for name, plain in weights["layouts"].items()
    }
    return unpack(stored, layouts, weights["input_limits"])
