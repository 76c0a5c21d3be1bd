"""A word now and then while programs are compiled."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from paretax.cli.progress import telling
from paretax.evaluators.compilers import Compiler, PortableProgram, Store
from paretax.hardware_profiles import load_profile


def program(size: int) -> PortableProgram:
    shape = jax.ShapeDtypeStruct((size, size), jnp.float32)
    return PortableProgram(lambda a, b: a @ b, (shape, shape))


def test_each_program_that_is_compiled_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    compiler, cpu = Compiler(Store(tmp_path)), load_profile("xeon-8480")
    with telling(every=0):
        for size in (7, 9, 7):  # the last one is known
            compiler.compile(cpu, program(size))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "programs compiled: 1, the last for xeon-8480",
        "programs compiled: 2, the last for xeon-8480",
    ]
    compiler.compile(cpu, program(11))
    assert capsys.readouterr().err == ""
    assert not logging.getLogger("paretax.compilers").handlers


def test_what_is_soon_done_is_not_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with telling(every=1000):
        Compiler(Store(tmp_path)).compile(load_profile("xeon-8480"), program(13))
    assert capsys.readouterr().err == ""
