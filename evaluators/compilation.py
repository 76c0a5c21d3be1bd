"""The deployed program of a candidate, compiled ahead of time for a target."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from paretax.evaluators.compilers.program import CompiledProgram
from paretax.evaluators.compilers.xla import describe
from paretax.evaluators.graph import graph_key
from paretax.evaluators.workbench import Deployed, Workbench
from paretax.hardware_profiles import HardwareProfile
from paretax.spaces.compression import deploy


@dataclass(frozen=True, kw_only=True)
class LoadedProgram:
    """A program that XLA compiled for a device of this machine.

    Args:
        fingerprint: SHA-256 of the target and the program's StableHLO; equal programs, equal costs.
        executable: what runs it: (arrays, inputs) -> outputs.
        arrays: shapes of its arrays.
        described: its kernels and memory.
    """

    fingerprint: str
    executable: Any
    arrays: Mapping[str, jax.ShapeDtypeStruct]
    described: CompiledProgram


def deployed_program(model: Deployed) -> Any:
    """The jitted function (arrays, inputs) -> outputs that is measured and exported."""
    return jax.jit(deploy(model.predict, model.sites, model.recipe, tuple(model.state)))


@dataclass(frozen=True, kw_only=True)
class LoweredProgram:
    """A program before compilation; cheap to make.

    Args:
        fingerprint: see `LoadedProgram`.
        platform: that it is lowered for.
        lowered: JAX's stage.
        arrays: shapes of its arrays.
    """

    fingerprint: str
    platform: str
    lowered: Any
    arrays: Mapping[str, jax.ShapeDtypeStruct]

    def compile(self) -> LoadedProgram:
        """Have XLA compile it."""
        start = time.perf_counter()
        executable = self.lowered.compile()
        seconds = time.perf_counter() - start
        settings = {"platform": self.platform}
        return LoadedProgram(
            fingerprint=self.fingerprint,
            executable=executable,
            arrays=self.arrays,
            described=describe(executable, settings, self.fingerprint, seconds),
        )


def lower_for(
    profile: HardwareProfile, bench: Workbench, candidate: Mapping[str, Any], batch: int
) -> LoweredProgram:
    """The deployed program of a candidate at a batch size, lowered for a target's platform."""
    model = bench.deployed(candidate)
    arrays = bench.arrays(model)
    program = deployed_program(model)
    traced = program.trace(arrays, bench.batch_shape(batch))
    lowered = traced.lower(lowering_platforms=(profile.platform,))
    text = f"{profile.name}\n{lowered.as_text()}"
    if graph_key(traced.jaxpr, derivatives=False) is None:
        text += model.key  # of callbacks, the text has the places alone
    return LoweredProgram(
        fingerprint=hashlib.sha256(text.encode()).hexdigest()[:16],
        platform=profile.platform,
        lowered=lowered,
        arrays=arrays,
    )
