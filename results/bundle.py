"""A bundle: one candidate as a folder that can be deployed, and checked without the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export as jax_export
from safetensors.numpy import load_file

from paretax.errors import UsageError
from paretax.evaluators.accuracy import in_chunks
from paretax.results.releases import read_program
from paretax.spaces.storage import Layout, unpack

FORMAT = 2
MANIFEST, WEIGHTS, PROGRAM = "manifest.json", "weights.safetensors", "program.stablehlo"
CONFIG, CARD = "config.yaml", "model_card.md"

_NEEDED = {  # what is read from a manifest
    "task": (),
    "test": ("objective", "value", "examples"),
    "program": ("inputs",),
    "weights": ("bytes", "layouts", "input_limits"),
    "checksums": (),
}


class BrokenBundleError(RuntimeError):
    """A bundle that is not what its manifest says."""


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


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stored_size(folder: Path) -> int:
    """Bytes of a bundle's stored arrays, without the file's header."""
    return sum(array.nbytes for array in load_file(folder / WEIGHTS).values())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        UsageError: the folder is no bundle, or one of another version.
        BrokenBundleError: something is missing in it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{str(folder)!r} is no bundle: it has no {MANIFEST}; check the path")
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UsageError(f"{str(path)!r} is not JSON ({error}): export the bundle again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise UsageError(
            f"{str(path)!r} has bundle format {found!r}, and this version of paretax reads "
            f"format {FORMAT}: use the paretax that wrote it"
        )
    for key, inner in _NEEDED.items():
        part = manifest.get(key)
        lacking = [k for k in inner if not isinstance(part, dict) or k not in part]
        if part is None or lacking:
            raise BrokenBundleError(f"the manifest lacks {'.'.join([key, *lacking[:1]])}")
    return manifest


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file with its checksum.

    Raises:
        BrokenBundleError: one is missing, has changed, or is not in the manifest.
    """
    listed: Mapping[str, str] = manifest["checksums"]
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    for name, expected in listed.items():
        if name not in present:
            raise BrokenBundleError(f"the file {name} is missing")
        if checksum(folder / name) != expected:
            raise BrokenBundleError(f"the file {name} has changed: its checksum is off")
    for name in sorted(present - set(listed) - {MANIFEST}):
        raise BrokenBundleError(f"the file {name} is not in the manifest")


def load_bundle(folder: Path) -> Bundle:
    """A bundle, ready to be called; its files are checked first.

    Raises:
        UsageError: the folder is no bundle, or one of a JAX whose programs are not read here.
        BrokenBundleError: a file is missing or has changed, or the manifest does not fit the files.
    """
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    content = (folder / PROGRAM).read_bytes()
    program = read_program(content, str(folder), manifest.get("versions", {}))
    try:
        arrays = _arrays(load_file(folder / WEIGHTS), manifest["weights"])
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise BrokenBundleError(f"the manifest does not fit the stored arrays: {error}") from error
    taken = [(a.shape, a.dtype) for a in program.in_avals[:-1]]
    if taken != [(arrays[name].shape, arrays[name].dtype) for name in sorted(arrays)]:
        raise BrokenBundleError("the stored arrays are not what the program takes")
    return Bundle(folder=folder, manifest=manifest, arrays=arrays, program=program)


def _arrays(
    stored: Mapping[str, np.ndarray], weights: Mapping[str, Any]
) -> Mapping[str, np.ndarray]:
    layouts = {
        name: Layout(**{**plain, "shape": tuple(plain["shape"])})
        for name, plain in weights["layouts"].items()
    }
    return unpack(stored, layouts, weights["input_limits"])
