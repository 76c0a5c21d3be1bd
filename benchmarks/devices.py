"""Measures the networks of `architectures.py` on the accelerator at hand, into a CSV file.

A call is measured twice: waited for, and in a queue of ten. One row a network, batch and dtype;
what the time does not suffice for is left out, and said.

    JAX_PLATFORMS=cuda python benchmarks/devices.py --out benchmarks/measured/h200.csv
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from architectures import NETWORKS, program

COLUMNS = ("network", "device", "jax", "batch", "dtype", "call_us", "queued_us", "compile_s")
QUEUE = 10


def filled(shape: jax.ShapeDtypeStruct, seed: int) -> jax.Array:
    """Random numbers of a size that keeps activations finite."""
    rng = np.random.default_rng(seed)
    if jnp.issubdtype(shape.dtype, jnp.integer):
        return jnp.asarray(rng.integers(0, 1000, shape.shape), shape.dtype)
    scale = float(np.prod(shape.shape[:-1])) ** -0.5 if len(shape.shape) > 1 else 0.5
    return jnp.asarray(scale * rng.standard_normal(shape.shape, np.float32), shape.dtype)


def measured(network: str, batch: int, dtype: str) -> tuple[float, float, float]:
    """Seconds of a call that is waited for, of one in a queue, and of compiling; medians."""
    made = program(network, batch, dtype)
    weights, inputs = made.args
    given = [filled(s, i) for i, s in enumerate(weights)], filled(inputs, len(weights))
    start = time.perf_counter()
    call = jax.jit(made.function).lower(*given).compile()
    compiled = time.perf_counter() - start
    for _ in range(2):
        call(*given).block_until_ready()
    first = _median(lambda: call(*given), 1, 1)
    times = int(min(50, max(5, 0.4 / first)))
    return (
        _median(lambda: call(*given), 1, times),
        _median(lambda: call(*given), QUEUE, 3),
        compiled,
    )


def _median(call: Callable[[], Any], queued: int, times: int) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        for _ in range(queued):
            last = call()
        last.block_until_ready()
        found.append((time.perf_counter() - start) / queued)
    return float(np.median(found))


def main() -> None:
    """Measure what the time suffices for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the CSV file")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1, 256])
    parser.add_argument("--seconds", type=float, default=3600, help="after which no other begins")
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    device = jax.devices()[0].device_kind
    with given.out.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for batch, network, dtype in product(
            given.batches, given.networks, ("bfloat16", "float32")
        ):
            if time.monotonic() >= end:
                raise SystemExit(f"out of time before {network}, batch {batch}, {dtype}")
            call, queued, compiled = measured(network, batch, dtype)
            us = [f"{1e6 * call:.1f}", f"{1e6 * queued:.1f}", f"{compiled:.1f}"]
            rows.writerow([network, device, jax.__version__, batch, dtype, *us])
            file.flush()
            print(network, batch, dtype, f"{us[0]} us, queued {us[1]} us", flush=True)


if __name__ == "__main__":
    main()
