"""XLA's compilers: for the processor here, and for TPUs and NVIDIA GPUs that are elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from paretax.evaluators.compilers.hlo import kernels_of
from paretax.evaluators.compilers.hlo_text import parse_module
from paretax.evaluators.compilers.program import CompiledProgram

REFUSALS = (jax.errors.JaxRuntimeError, NotImplementedError)
"""What XLA raises where it refuses a program: while compiling, or while lowering."""


def compile_exported(
    exported: bytes, settings: Mapping[str, Any], fingerprint: str
) -> CompiledProgram:
    """Compile what `jax.export` wrote for a device that need not be there.

    Args:
        exported: see `PortableProgram.exported`.
        settings: `platform` cpu, tpu or cuda, `clock` in Hz, and what `target_settings` adds.
        fingerprint: of the result.

    Raises:
        REFUSALS: the compiler refuses the program.
    """
    program = jax.export.deserialize(bytearray(exported))
    platform = settings["platform"]
    shapes = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in program.in_avals]
    if platform != "cpu":
        place = _sharding(settings)
        shapes = [jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place) for s in shapes]
    args, kwargs = jax.tree.unflatten(program.in_tree, shapes)
    traced = jax.jit(program.call).trace(*args, **kwargs)
    lowered = traced.lower(lowering_platforms=(platform,))
    start = time.perf_counter()
    compiled = _compile(lowered, platform)
    return describe(compiled, settings, fingerprint, time.perf_counter() - start)


def _compile(lowered: Any, platform: str) -> Any:
    """Without Triton's products where XLA:GPU finds no tiles for one.

    It chooses tiles by running them where the device is there, and by a rule where it is not, which
    may fail (say for 3136 rows); cuBLAS then multiplies.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if platform != "cuda" or "find output tile sizes" not in str(error):
            raise
        return lowered.compile(compiler_options={"xla_gpu_enable_triton_gemm": False})


def describe(
    compiled: Any, settings: Mapping[str, Any], fingerprint: str, seconds: float
) -> CompiledProgram:
    """What an executable of XLA says of itself.

    Args:
        compiled: JAX's stage.
        settings: see `compile_exported`.
        fingerprint: of the result.
        seconds: that compiling took.
    """
    text = compiled.as_text()
    module = parse_module(text)
    memory = compiled.memory_analysis()
    costs = compiled.cost_analysis() or {}
    clock = settings.get("clock") if settings["platform"] == "tpu" else None
    return CompiledProgram(
        fingerprint=fingerprint,
        kernels=tuple(kernels_of(module, clock)),
        peak_memory=int(
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        ),
        argument_bytes=int(memory.argument_size_in_bytes),
        output_bytes=int(memory.output_size_in_bytes),
        arguments=sum(i.opcode == "parameter" for i in module.entry),
        code_size=int(memory.generated_code_size_in_bytes) or None,
        estimate=costs.get("optimal_seconds") if costs.get("optimal_seconds", 0) > 0 else None,
        seconds=seconds,
        compiler=f"XLA:{settings['platform'].upper()} of jaxlib {version('jaxlib')}",
        text=text,
    )


def _sharding(settings: Mapping[str, Any]) -> NamedSharding:
    """One device of a machine that is described, not there."""
    options: dict[str, Any]
    if settings["platform"] == "cuda":
        options = {
            "topology_name": "described",
            "target_config": settings["target_config"],
            "topology": "1x1x1",
        }
    else:
        options = {"topology_name": settings["topology"]}
    devices = topologies.get_topology_desc(platform=settings["platform"], **options).devices
    return NamedSharding(Mesh(np.array(devices[:1]), ("x",)), PartitionSpec())
