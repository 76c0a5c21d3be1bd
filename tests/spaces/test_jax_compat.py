"""What releases of JAX write in different ways is read the same."""

from __future__ import annotations

from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import pytest

from paretax.spaces.jax_compat import (
    bind,
    closed_jaxpr,
    newest_stablehlo,
    scan_counts,
    stablehlo_of,
    xla_takes,
)


def scanned(consts: int, carried: int, sliced: int) -> Any:
    """The equation of a scan with so many operands of each kind."""

    def body(carry: list[jax.Array], rows: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
        total = sum([*held, *rows], jnp.zeros(()))
        return [c + total for c in carry], total

    held = [jnp.float32(i) for i in range(consts)]

    def function(held_: list[jax.Array], carry: list[jax.Array], rows: list[jax.Array]) -> Any:
        nonlocal held
        held = held_
        return jax.lax.scan(body, carry, rows, length=3)

    args = held, [jnp.ones(())] * carried, [jnp.ones((3,))] * sliced
    (eqn,) = (e for e in jax.make_jaxpr(function)(*args).eqns if e.primitive.name == "scan")
    return eqn


@pytest.mark.parametrize("counts", [(0, 1, 0), (2, 1, 0), (1, 3, 2), (0, 0, 2), (3, 0, 1)])
def test_operands_of_a_scan_are_told_apart(counts: tuple[int, int, int]) -> None:
    eqn = scanned(*counts)
    assert scan_counts(eqn) == counts[:2]
    assert len(eqn.invars) == sum(counts)


def test_an_equation_is_done_again_in_the_surroundings_that_it_was_traced_in() -> None:
    def function(x: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return x @ x

    (eqn,) = jax.make_jaxpr(function)(jnp.ones((2, 2))).eqns
    (again,) = jax.make_jaxpr(lambda x: bind(eqn, [x, x]))(jnp.ones((2, 2))).eqns
    assert again.params == eqn.params
    (found,) = bind(eqn, [jnp.ones((2, 2)), 2 * jnp.eye(2)])
    assert found.tolist() == [[2, 2], [2, 2]]
    (wide,) = bind(eqn, [jnp.ones((2, 2), "bfloat16")] * 2, preferred_element_type="float32")
    assert wide.dtype == jnp.float32


def test_every_result_of_an_equation_is_returned() -> None:
    (eqn,) = jax.make_jaxpr(lambda x: jax.lax.top_k(x, 2))(jnp.arange(4.0)).eqns
    values, places = bind(eqn, [jnp.asarray([3.0, 9.0, 1.0, 7.0])])
    assert values.tolist() == [9, 7]
    assert places.tolist() == [1, 3]


def test_a_graph_within_another_has_its_constants() -> None:
    table = jnp.arange(3.0)
    whole = jax.make_jaxpr(lambda x: x + table)(table)
    assert closed_jaxpr(whole) is whole
    (eqn,) = jax.make_jaxpr(jax.checkpoint(jnp.sin))(1.0).eqns
    inner = closed_jaxpr(eqn.params["jaxpr"])
    assert [e.primitive.name for e in inner.jaxpr.eqns] == ["sin"]
    assert list(inner.consts) == []


def test_options_that_xla_does_not_know_are_told_from_those_that_it_does() -> None:
    assert xla_takes("xla_llvm_disable_expensive_passes", False)
    assert not xla_takes("xla_no_such_option", True)
    with pytest.raises(jax.errors.JaxRuntimeError):  # a value of another kind is no question
        xla_takes("xla_llvm_disable_expensive_passes", "perhaps")


def test_a_program_is_written_in_a_stablehlo_that_is_read_here() -> None:
    exported = jax.export.export(jax.jit(jnp.sin))(jax.ShapeDtypeStruct((2,), jnp.float32))
    assert (0, 9, 0) <= stablehlo_of(exported) <= newest_stablehlo()
