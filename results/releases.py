"""What another release of JAX makes of programs and scores that were written with one."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
from jax import export as jax_export

from paretax.errors import UsageError
from paretax.evaluators.runtime import versions
from paretax.spaces.jax_compat import newest_stablehlo, stablehlo_of

TOLERANCE = 0.01
"""How far a score may be off, as a part of itself, where another jaxlib computes it: its programs
add in another order. The same jaxlib gives the same score."""


def same_jaxlib(then: Mapping[str, str]) -> bool:
    """Whether programs are compiled here as they were where `then` was noted, by package."""
    return then.get("jaxlib") == versions()["jaxlib"]


def same_score(value: float, recorded: float, then: Mapping[str, str]) -> bool:
    """Whether a score is the recorded one: exactly, or within `TOLERANCE` for another jaxlib.

    Args:
        value: found here.
        recorded: found with the versions of `then`.
        then: versions by package.
    """
    if same_jaxlib(then):
        return value == recorded
    return math.isclose(value, recorded, rel_tol=TOLERANCE)


def both_jaxlibs(then: Mapping[str, str]) -> str:
    """A note that another jaxlib is here; empty where it is the same."""
    if same_jaxlib(then):
        return ""
    before, here = then.get("jaxlib", "of a version that was not noted"), versions()["jaxlib"]
    return f"it was recorded with jaxlib {before}, and here it is {here}"


def read_program(content: bytes, name: str, then: Mapping[str, str]) -> jax_export.Exported:
    """A program that `jax.export` wrote.

    Args:
        content: of its file.
        name: of the file or bundle, for errors.
        then: versions by package where it was written; empty where nobody knows.

    Raises:
        UsageError: JAX here does not read what that JAX wrote.
        Exception: whatever JAX raises where it is no program.
    """
    writer = f"JAX {then['jax']}" if "jax" in then else "another JAX"
    again = "or export it again with the JAX that is here"
    try:
        program = jax_export.deserialize(bytearray(content))
        written = stablehlo_of(program)
    except Exception as error:
        if then.get("jax", jax.__version__) == jax.__version__:
            raise
        raise UsageError(
            f"{name!r} was written by {writer}, and JAX {jax.__version__} here does not read it "
            f"({error}): read it with {writer}, {again}"
        ) from error
    if written > newest_stablehlo():
        there, here = (".".join(map(str, n)) for n in (written, newest_stablehlo()))
        raise UsageError(
            f"{name!r} was written by {writer} as StableHLO {there}, and JAX {jax.__version__} "
            f"here reads StableHLO up to {here}: read it with {writer} or a newer one (from JAX "
            f"0.11 on, Python 3.12 is needed), {again}"
        )
    return program
