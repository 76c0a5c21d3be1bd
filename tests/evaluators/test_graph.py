"""Graphs in words: equal words are equal programs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.evaluators.compilers import PortableProgram, Store
from paretax.evaluators.graph import graph_key

X = jax.ShapeDtypeStruct((4, 8), jnp.float32)


def key(function: Callable[..., Any], *args: Any) -> str | None:
    return graph_key(jax.make_jaxpr(function)(*(args or (X,))))


def holding(values: Any) -> Callable[[jax.Array], jax.Array]:
    held = jnp.asarray(values)
    return lambda x: x * held


def looping(values: Any) -> Callable[[jax.Array], jax.Array]:
    """The array is held by the graph within the loop."""
    held = jnp.asarray(values)

    def run(x: jax.Array) -> jax.Array:
        found: jax.Array = jax.lax.fori_loop(0, 3, lambda i, y: jax.jit(lambda z: z * held)(y), x)
        return found

    return run


DIFFERENT: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "a literal": lambda x: jnp.tanh(x) * 2.0,
    "another literal": lambda x: jnp.tanh(x) * 2.0000002,
    "an array": holding(np.arange(8.0, dtype=np.float32)),
    "another array": holding(np.arange(1.0, 9.0, dtype=np.float32)),
    "as many bytes": holding(np.arange(8, dtype=np.int32)),
    "an array in a loop": looping(np.arange(8.0, dtype=np.float32)),
    "another array in a loop": looping(np.arange(1.0, 9.0, dtype=np.float32)),
    "a product": lambda x: x @ x.T,
    "a precise product": lambda x: jnp.matmul(x, x.T, precision="highest"),
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "random numbers": lambda x: x + jax.random.normal(jax.random.key(0), x.shape),
    "other random numbers": lambda x: x + jax.random.normal(jax.random.key(1), x.shape),
}


@pytest.mark.parametrize(("one", "other"), [*itertools.combinations(DIFFERENT, 2)])
def test_different_programs_have_different_keys(one: str, other: str) -> None:
    assert key(DIFFERENT[one]) != key(DIFFERENT[other])


@pytest.mark.parametrize("name", DIFFERENT)
def test_equal_programs_have_equal_keys(name: str) -> None:
    function = DIFFERENT[name]
    assert key(function) == key(lambda x: function(x))


def test_the_type_of_the_inputs_counts() -> None:
    assert key(jnp.tanh, X) != key(jnp.tanh, jax.ShapeDtypeStruct((4, 8), jnp.bfloat16))
    assert key(jnp.tanh, X) != key(jnp.tanh, jax.ShapeDtypeStruct((8, 4), jnp.float32))


def test_the_precision_of_products_counts() -> None:
    plain = key(lambda x: x @ x.T)
    with jax.default_matmul_precision("highest"):
        assert key(lambda x: x @ x.T) != plain


def test_settings_of_jax_count() -> None:
    """They may change what a graph is lowered to, though not its text."""
    plain = key(jnp.tanh)
    with jax.default_matmul_precision("highest"):
        assert key(jnp.tanh) != plain


def test_another_process_finds_the_same_key() -> None:
    """Whatever addresses its functions have."""
    code = (
        "import jax, jax.numpy as jnp\n"
        "from paretax.evaluators.graph import graph_key\n"
        "x = jax.ShapeDtypeStruct((4, 8), jnp.float32)\n"
        "print(graph_key(jax.make_jaxpr(jax.nn.relu)(x)))"
    )
    here = {**os.environ, "PYTHONHASHSEED": "7", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=here
    )
    assert done.stdout.strip() == key(jax.nn.relu)


def test_what_was_lowered_once_is_not_lowered_again(tmp_path: Path) -> None:
    first = PortableProgram(jnp.tanh, (X,))
    assert Store(tmp_path).fingerprint(first) == first.fingerprint
    again = PortableProgram(lambda x: jnp.tanh(x), (X,))
    assert Store(tmp_path).fingerprint(again) == first.fingerprint
    assert "fingerprint" not in vars(again)


@pytest.mark.parametrize("content", [b"", b"0123", b"\xff" * 24, b"g" * 24])
def test_a_damaged_note_is_written_again(tmp_path: Path, content: bytes) -> None:
    program = PortableProgram(jnp.tanh, (X,))
    Store(tmp_path).fingerprint(program)
    (note,) = (tmp_path / "graphs").iterdir()
    note.write_bytes(content)
    assert Store(tmp_path).fingerprint(PortableProgram(jnp.tanh, (X,))) == program.fingerprint
    assert note.read_text() == program.fingerprint
