"""A bundle's manifest and files, checked before anything in them is opened by a parser.

A bundle may come from anybody, and whoever changes one can make its checksums again. So each value
that is read has a type, each file is a plain one of a known name, and none is larger than is said.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paretax.errors import UsageError, shortened, shown

FORMAT = 2
MANIFEST, WEIGHTS, PROGRAM = "manifest.json", "weights.safetensors", "program.stablehlo"
CONFIG, CARD = "config.yaml", "model_card.md"

_NAMES = frozenset({WEIGHTS, PROGRAM, CONFIG, CARD})
_LARGEST_TEXT = 10_000_000  # bytes of the manifest, the config or the card
_LARGEST_PROGRAM = 2_000_000_000  # bytes
_HEADER = 10_000_000  # bytes of the weights' file beyond its arrays


class BrokenBundleError(RuntimeError):
    """A bundle that is not what its manifest says."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Test(_Part):
    objective: Annotated[str, Field(max_length=200)]
    value: float
    examples: Annotated[int, Field(ge=0)]


class _Program(_Part):
    inputs: Annotated[list[str | int], Field(min_length=1, max_length=64)]


class _Weights(_Part):
    bytes: Annotated[int, Field(ge=0)]
    layouts: dict[str, dict[str, Any]]
    input_limits: Any


class _Device(_Part):
    batch: Annotated[int, Field(ge=1)]
    grid: Annotated[float, Field(ge=0)]
    measure: bool | None
    parts: bool
    elsewhere: bool
    scored_with: dict[str, str | None]
    profile: Annotated[str, Field(max_length=64)]


class _Measurement(_Part):
    objective: Annotated[str, Field(max_length=200)]
    value: float
    unit: Annotated[str, Field(max_length=200)] = ""
    provenance: Literal["measured", "compiled", "modelled"]
    target: Annotated[str, Field(max_length=500)] | None = None


class _Manifest(_Part):
    """What is read of a manifest; all else in it is for people."""

    task: Annotated[str, Field(max_length=500)]
    target: Annotated[str, Field(max_length=500)]
    candidate: dict[str, Any]
    measurements: Annotated[list[_Measurement], Field(max_length=1000)]
    device: _Device | None = None
    test: _Test
    program: _Program
    weights: _Weights
    checksums: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]
    versions: dict[str, Annotated[str, Field(max_length=200)]] = Field(default_factory=dict)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle.

    Raises:
        UsageError: the folder is no bundle, or one of another version.
        BrokenBundleError: something is missing in it, or is of another kind.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{str(folder)!r} is no bundle: it has no {MANIFEST}; check the path")
    _check_plain(path, MANIFEST, _LARGEST_TEXT)
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{str(path)!r} is not JSON ({shortened(str(error))}): export the bundle again"
        ) from None
    form = manifest.get("format") if isinstance(manifest, dict) else None
    if form != FORMAT or type(form) is not int:
        raise UsageError(
            f"{str(path)!r} has bundle format {shown(form)}, and this version of paretax reads "
            f"format {FORMAT}: use the paretax that wrote it"
        )
    try:
        _Manifest.model_validate(manifest)
    except ValidationError as error:
        raise _readable(error) from None
    read: dict[str, Any] = manifest
    return read


def _readable(error: ValidationError) -> BrokenBundleError:
    first = error.errors()[0]
    place = shortened(".".join(map(str, first["loc"])))
    if first["type"] == "missing":
        return BrokenBundleError(f"the manifest lacks {place}")
    return BrokenBundleError(
        f"the manifest's {place}: {first['msg'][0].lower()}{first['msg'][1:]}, got "
        f"{shown(first['input'])}"
    )


def check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every file with its checksum.

    Raises:
        BrokenBundleError: one is missing, has changed, is not in the manifest, is no plain file,
            is none of a bundle's, or is larger than is said.
    """
    listed: Mapping[str, str] = manifest["checksums"]
    present = _files(folder)
    for name, expected in listed.items():
        if name not in _NAMES:
            raise BrokenBundleError(f"the file {shown(name, str)} is none that a bundle has")
        if name not in present:
            raise BrokenBundleError(f"the file {name} is missing")
        _check_plain(folder / name, name, _largest(name, manifest))
        if checksum(folder / name) != expected:
            raise BrokenBundleError(f"the file {name} has changed: its checksum is off")
    for name in sorted(_NAMES - set(listed)):
        what = "is not in the manifest" if name in present else "is missing"
        raise BrokenBundleError(f"the file {name} {what}")
    for name in sorted(present - set(listed) - {MANIFEST}):
        raise BrokenBundleError(f"the file {shortened(name)} is not in the manifest")


def digest(folder: Path) -> str:
    """What a whole bundle is known by: the SHA-256 of its manifest, which has that of each file."""
    return checksum(folder / MANIFEST)


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> set[str]:
    """All that is in a folder and no folder itself, links and pipes among it."""
    found = set()
    for place, folders, files in os.walk(folder):
        for name in (*files, *folders):
            path = Path(place) / name
            if name in files or path.is_symlink():
                found.add(path.relative_to(folder).as_posix())
    return found


def _largest(name: str, manifest: Mapping[str, Any]) -> int:
    if name == WEIGHTS:
        return int(manifest["weights"]["bytes"]) + _HEADER
    return _LARGEST_PROGRAM if name == PROGRAM else _LARGEST_TEXT


def _check_plain(path: Path, name: str, largest: int) -> None:
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise BrokenBundleError(f"the file {name} is a link or a device, and no plain file")
    if about.st_size > largest:
        raise BrokenBundleError(
            f"the file {name} has {about.st_size:,} bytes, and at most {largest:,} are read"
        )
