"""The surroundings of a measurement: XLA's settings, package versions, the machine."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from paretax.hardware_profiles.machine import processor, processor_fingerprint
from paretax.private import private_folder

SINGLE_THREAD = "--xla_cpu_multi_thread_eigen=false"
AS_WRITTEN = "--xla_allow_excess_precision=false"

_PACKAGES = ("paretax", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn", "ray", "optuna")


def worker_environment() -> dict[str, str]:
    """The environment variables under which candidates are trained and measured.

    XLA computes on one thread of the CPU: a worker is one core, a latency is that of one thread,
    and a training gives the same bits again on any number of cores. A value that a model rounds to
    bfloat16 is rounded wherever the program says so: by itself XLA leaves such roundings out within
    what it fuses, and two programs of the same arithmetic may then differ. Where JAX has computed
    in this process already (a notebook), it is too late for that here, and workers do without as
    well: what they score is then what is exported here. What the user has in XLA_FLAGS stays.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    for setting in (SINGLE_THREAD, *([] if _has_computed() else [AS_WRITTEN])):
        if setting.split("=")[0] not in flags:
            flags = f"{flags} {setting}".strip()
    # XLA's own notices (its start, its choice of device) say nothing to the user.
    return {
        "XLA_FLAGS": flags,
        # XLA's flag leaves its library of fused products (YNNPACK) several threads: a program took
        # 480 us where one thread takes 240 (measured). By this, its pool has one.
        "NPROC": "1",
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        # Programs are trained and measured on the CPU, whatever else JAX could start here.
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS") or "cpu",
    }


def _has_computed() -> bool:
    """Whether JAX has read XLA's flags in this process, which it does once."""
    bridge = sys.modules.get("jax._src.xla_bridge")
    return bridge is not None and bool(bridge.backends_are_initialized())


def trains_on_cpu() -> bool:
    """Whether workers compute on the CPU."""
    return worker_environment()["JAX_PLATFORMS"] == "cpu"


def apply_worker_environment() -> None:
    """Set up this process as a worker; has an effect until JAX first computes.

    Programs run on the CPU in the thread that calls them. With JAX's asynchronous dispatch a call
    of 16 us may wake a sleeping core and take 70 us (measured), so latencies had two modes.
    """
    os.environ.update(worker_environment())
    import jax

    # Read from the environment only when JAX is imported, which may have been before. Without it
    # JAX would start every compiler that is installed, and print that their devices are missing.
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return  # the user's own
    folder = cache_folder("programs", processor_fingerprint())
    if not folder.is_dir():
        return  # no place to keep programs: they are compiled again
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def cache_folder(*parts: str) -> Path:
    """Where compiled programs and teachers are kept for other runs of this user, and nobody else.

    Args:
        parts: names of folders within.

    Raises:
        UsageError: it belongs to somebody else.
    """
    chosen = os.environ.get("PARETAX_CACHE")
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(chosen) if chosen else caches / "paretax"
    return private_folder(base, *parts, variable="PARETAX_CACHE", chosen=bool(chosen))


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What this machine is: processor, cores, system, XLA's flags."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
