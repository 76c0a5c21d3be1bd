"""What each compiler has to be told of a device."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from paretax.evaluators.compilers.program import MissingExtraError
from paretax.hardware_profiles import HardwareProfile
from paretax.hardware_profiles.machine import processor_fingerprint
from paretax.hardware_profiles.profile import Cuda, Iree, Tpu

_DNN = 9, 10, 0  # of cuDNN, by which XLA chooses kernels


class _Toolkit(NamedTuple):
    """JAX's plug-in for a release of CUDA.

    Args:
        package: what pip calls it.
        modules: that compiling takes: the plug-in, and where NVIDIA's assembler lies.
        runtime: the release that programs are compiled for: major, minor, patch.
    """

    package: str
    modules: tuple[str, str]
    runtime: tuple[int, int, int]


_TOOLKITS = (
    _Toolkit("jax-cuda13-plugin", ("jax_cuda13_plugin", "nvidia.cu13"), (13, 0, 0)),
    _Toolkit("jax-cuda12-plugin", ("jax_cuda12_plugin", "nvidia.cuda_nvcc"), (12, 9, 0)),
)


def target_settings(profile: HardwareProfile) -> dict[str, Any]:
    """The compiler's settings for a device, as plain data. Equal ones, equal programs.

    Raises:
        MissingExtraError: the compiler is not installed.
    """
    match profile.compiler:
        case Tpu(topology=topology):
            _need(profile, "libtpu", "XLA's compiler for TPUs", "tpu")
            return {
                "platform": "tpu",
                "topology": topology,
                "clock": profile.clock,
                "version": _version("libtpu"),
            }
        case Cuda():
            toolkit = next((t for t in _TOOLKITS if all(map(_is_there, t.modules))), None)
            if toolkit is None:
                raise MissingExtraError(profile.name, "XLA's compiler for NVIDIA GPUs", "cuda")
            return {
                "platform": "cuda",
                "target_config": _target_config(profile, profile.compiler, toolkit),
                "version": _version(toolkit.package),
            }
        case Iree(triple=triple, cpu=cpu):
            _need(profile, "iree.compiler", "IREE's compiler", "edge")
            return {
                "platform": "iree",
                "triple": triple,
                "cpu": cpu,
                "version": _version("iree-base-compiler"),
            }
    # XLA's for the processor here; its kernels stand for those of other processors, and its
    # products for what a systolic array multiplies.
    return {
        "platform": "cpu",
        "processor": processor_fingerprint(),
        "flags": os.environ.get("XLA_FLAGS", ""),
        "version": _version("jaxlib"),
    }


@cache
def _version(package: str) -> str:
    """Of an installed package; looked up once, as it takes half a millisecond."""
    return version(package)


@cache
def counting() -> str:
    """A hash of the code that reads kernels and products out of what compilers make.

    What other code has read is compiled again, so that no figure rests on what was counted wrong.
    """
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def settings_key(settings: Mapping[str, Any]) -> str:
    """A hash of the settings, and of the code that reads what a compiler makes under them."""
    about = {**settings, "counting": counting()}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def _need(profile: HardwareProfile, module: str, compiler: str, extra: str) -> None:
    if not _is_there(module):
        raise MissingExtraError(profile.name, compiler, extra)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a parent of it is not there
        return False


def _target_config(profile: HardwareProfile, gpu: Cuda, toolkit: _Toolkit) -> str:
    """XLA's GpuTargetConfigProto in text form."""
    major, _, minor = gpu.capability.partition(".")
    last_on_chip = profile.memories[-2] if len(profile.memories) > 1 else profile.main_memory
    numbers = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 48 * 1024,
        "shared_memory_per_core": int(gpu.shared_memory_per_core),
        "threads_per_core_limit": gpu.threads_per_core,
        "core_count": profile.units,
        "fpus_per_core": gpu.fpus_per_core,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "memory_bandwidth": int(profile.main_memory.bandwidth),
        "l2_cache_size": int(last_on_chip.size),
        "clock_rate_ghz": profile.clock / 1e9,
        "device_memory_size": int(profile.main_memory.size),
        "shared_memory_per_block_optin": int(gpu.shared_memory_per_block),
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
    }
    info = " ".join(f"{name}: {value}" for name, value in numbers.items())
    release = "major: {} minor: {} patch: {}"
    return (
        f"gpu_device_info {{ {info} cuda_compute_capability {{ major: {major} minor: {minor} }} }}"
        ' platform_name: "CUDA"'
        f" dnn_version_info {{ {release.format(*_DNN)} }}"
        f" runtime_version {{ {release.format(*toolkit.runtime)} }}"
        f' device_description_str: "{profile.name}"'
    )
