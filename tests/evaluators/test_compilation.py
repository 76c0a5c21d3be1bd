"""Programs that are compiled ahead of time for a target."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from paretax.evaluators import Workbench
from paretax.evaluators.compilation import lower_for
from paretax.hardware_profiles import load_profile

PLAIN = {"width": 4, "depth": 1}


def test_a_fingerprint_is_of_the_target_and_the_program(bench: Workbench) -> None:
    cpu = load_profile("cpu")
    first = lower_for(cpu, bench, PLAIN, 1).fingerprint
    assert lower_for(cpu, bench, {**PLAIN, "sparsity": 0.5}, 1).fingerprint == first
    whole = {**PLAIN, "quantize": True}
    others = [
        lower_for(cpu, bench, {**PLAIN, "width": 5}, 1),
        lower_for(cpu, bench, PLAIN, 2),
        lower_for(cpu, bench, whole, 1),
        lower_for(cpu.model_copy(update={"name": "other"}), bench, PLAIN, 1),
    ]
    found = {first, *(program.fingerprint for program in others)}
    assert len(found) == 5
    narrow = {**whole, "weight_bits": 3, "activation_bits": 4}
    assert lower_for(cpu, bench, narrow, 1).fingerprint == others[2].fingerprint


@pytest.mark.parametrize("form", [{}, {"quantize": True}, {"weight_bits": 8}], ids=str)
def test_a_compiled_program_runs(bench: Workbench, form: dict[str, object]) -> None:
    lowered = lower_for(load_profile("cpu"), bench, {**PLAIN, **form}, 3)
    program = lowered.compile()
    assert program.fingerprint == lowered.fingerprint
    arrays = {n: np.ones(s.shape, s.dtype) for n, s in program.arrays.items()}
    inputs = bench.data.train.inputs[:3]
    outputs = program.executable(arrays, jax.numpy.asarray(inputs))
    assert outputs.shape == (3, 2)
    held = sum(a.nbytes for a in arrays.values()) + inputs.nbytes + outputs.nbytes
    assert program.described.peak_memory >= held
    assert isinstance(program.described.peak_memory, int)


def test_a_larger_batch_needs_more_memory(bench: Workbench) -> None:
    small, large = (lower_for(load_profile("cpu"), bench, PLAIN, b).compile() for b in (1, 64))
    assert large.described.peak_memory - small.described.peak_memory >= 63 * 4 * (30 + 2)
