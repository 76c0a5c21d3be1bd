"""A device on which candidates are scored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any, Literal

import yaml

from paretax.errors import UsageError, unknown


@dataclass(frozen=True, kw_only=True)
class HardwareProfile:
    """What is known of a device.

    Args:
        name: under which configs name it.
        description: one line.
        platform: XLA's name of its compiler.
        mode: "measured" runs programs on the device, which must be this machine's.
        sources: where the figures are from.
    """

    name: str
    description: str
    platform: Literal["cpu"]
    mode: Literal["measured"]
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            raise UsageError(
                f"a profile's name must be lower-case letters, digits, - and _, got {self.name!r}"
            )
        if self.platform != "cpu":
            raise unknown("platform", self.platform, ["cpu"], f"profile {self.name!r}")
        if self.mode != "measured":
            raise unknown("mode", self.mode, ["measured"], f"profile {self.name!r}")
        if not self.sources:
            raise UsageError(f"profile {self.name!r} must cite where it is from under `sources`")


def parse_profile(plain: Mapping[str, Any], where: str) -> HardwareProfile:
    """A profile from the data of its YAML file.

    Raises:
        UsageError: a missing or unknown key, or a value that the profile refuses.
    """
    names = [f.name for f in fields(HardwareProfile)]
    for key in plain:
        if key not in names:
            raise unknown("key", key, names, where)
    for name in names:
        if name not in plain:
            raise UsageError(f"{where} lacks the key {name!r}: add it")
    sources = plain["sources"]
    if not isinstance(sources, list):
        raise UsageError(
            f"`sources` of {where} must be a list of where it is from, got {sources!r}"
        )
    return HardwareProfile(**{**plain, "sources": tuple(sources)})


def profile_names() -> tuple[str, ...]:
    """The profiles that paretax ships."""
    folder = files("paretax.hardware_profiles")
    return tuple(sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml")))


def load_profile(name: str) -> HardwareProfile:
    """A shipped profile.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in profile_names():
        raise unknown("target", name, profile_names())
    text = (files("paretax.hardware_profiles") / f"{name}.yaml").read_text("utf-8")
    return parse_profile(yaml.safe_load(text), f"profile {name!r}")
