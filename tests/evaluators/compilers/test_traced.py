"""What a program multiplies, before a compiler widens or spreads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from paretax.evaluators import Target
from paretax.evaluators.compilers import (
    CompiledProgram,
    Compiler,
    PortableProgram,
    Store,
)
from paretax.evaluators.compilers.hlo import kernels_of
from paretax.evaluators.compilers.hlo_dtypes import holds
from paretax.evaluators.compilers.hlo_text import parse_module
from paretax.evaluators.compilers.traced import TracedProduct
from paretax.evaluators.costs import joules
from paretax.evaluators.kernels import Kernel, Product
from paretax.evaluators.latency_model.roofline import Footprint
from paretax.evaluators.latency_model.running import running
from paretax.evaluators.systolic import Array, cycles
from paretax.hardware_profiles import load_profile

NAMES: Mapping[Any, str] = {
    jnp.int8: "int8",
    jnp.bfloat16: "bf16",
    jnp.float16: "fp16",
    jnp.float8_e4m3fn: "fp8",
    jnp.float32: "f32",
}


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(Store(Path(tmp_path_factory.mktemp("compiled"))))


def shape(*lengths: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(lengths, dtype)


def wide(dtype: Any) -> Any:
    return jnp.int32 if dtype == jnp.int8 else jnp.float32


def dense(w: jax.Array, x: jax.Array) -> jax.Array:
    """Inputs that are narrowed beside the product, as candidates' are."""
    return jnp.matmul(x.astype(w.dtype), w, preferred_element_type=wide(w.dtype))


def turned(w: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.einsum("bi,oi->bo", x.astype(w.dtype), w, preferred_element_type=wide(w.dtype))


def convolved(w: jax.Array, x: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x.astype(w.dtype), w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] // w.shape[2],
        preferred_element_type=w.dtype if w.dtype.itemsize == 2 else wide(w.dtype),
    )  # fmt: skip


def scanned(w: jax.Array, x: jax.Array) -> jax.Array:
    last, _ = jax.lax.scan(lambda c, v: (dense(v, c).astype(x.dtype), None), x, w)
    return last


PROGRAMS: Mapping[str, tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...]]] = {
    "dense": (dense, (96, 48), (96,)),
    "turned": (turned, (48, 96), (96,)),
    "convolution": (convolved, (3, 3, 16, 32), (8, 8, 16)),
    "1 x 1": (convolved, (1, 1, 16, 32), (8, 8, 16)),
    "depthwise": (convolved, (3, 3, 1, 16), (8, 8, 16)),
    "scan": (scanned, (3, 48, 48), (48,)),
}


def made(compiler: Compiler, target: str, name: str, dtype: Any, batch: int) -> CompiledProgram:
    function, weights, inputs = PROGRAMS[name]
    args = shape(*weights, dtype=dtype), shape(batch, *inputs)
    return compiler.compile(load_profile(target), PortableProgram(function, args))


SIZES: Mapping[str, tuple[Product, int]] = {  # by hand, at batch 1
    "dense": (Product(m=1, n=48, k=96), 1),
    "turned": (Product(m=1, n=48, k=96), 1),
    "convolution": (Product(m=64, n=32, k=9 * 16, window=9), 1),
    "1 x 1": (Product(m=64, n=32, k=16), 1),
    "depthwise": (Product(groups=16, m=64, n=1, k=9, window=9), 1),
    "scan": (Product(m=1, n=48, k=48), 3),
}


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_array_multiplies_what_the_program_does(
    compiler: Compiler, name: str, batch: int
) -> None:
    """Also where XLA:CPU, which stands for a compiler of arrays, widens or spreads it."""
    profile, (product, count) = load_profile("systolic"), SIZES[name]
    product = replace(product, m=batch * product.m)
    for dtype, called in NAMES.items():
        found = made(compiler, "systolic", name, dtype, batch)
        assert found.products == (TracedProduct(product=product, dtype=called, count=count),)
        (kernel,) = (k for k in running(found, profile) if k.products)
        assert (kernel.products, kernel.dtype, kernel.count) == ((product,), called, count)


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_arm_core_multiplies_in_the_dtype_of_the_program(
    compiler: Compiler, name: str, batch: int
) -> None:
    """Though its kernels read float32 scales and biases beside the operands."""
    for dtype, called in NAMES.items():
        found = made(compiler, "aarch64", name, dtype, batch)
        if name == "depthwise":  # of which IREE has none that gives a wider result
            called = {"int8": "int32", "fp8": "f32"}.get(called, called)
        assert {k.dtype for k in found.kernels if k.products} == {called}, called
        counted = sum(k.count * p.flops for k in found.kernels for p in k.products)
        assert counted == sum(p.flops for p in found.products)


def test_inputs_that_are_wide_stay_wide(compiler: Compiler) -> None:
    def weights_alone(w: jax.Array, x: jax.Array) -> jax.Array:
        return x @ w.astype(jnp.float32)

    args = shape(96, 48, dtype=jnp.int8), shape(1, 96)
    found = compiler.compile(load_profile("systolic"), PortableProgram(weights_alone, args))
    assert [p.dtype for p in found.products] == ["f32"]


def test_of_a_condition_the_dearer_branch_counts() -> None:
    def either(w: jax.Array, x: jax.Array) -> jax.Array:
        found: jax.Array = jax.lax.cond(x.sum() > 0, lambda: jnp.tanh(x @ w) @ w.T, lambda: x * 2.0)
        return found

    found = PortableProgram(jax.jit(either), (shape(8, 4), shape(2, 8))).products
    assert [p.product for p in found] == [Product(m=2, n=4, k=8), Product(m=2, n=8, k=4)]


def test_a_loop_of_unknown_length_counts_as_the_compiler_found(compiler: Compiler) -> None:
    def looped(w: jax.Array, x: jax.Array) -> jax.Array:
        def turn(state: Any) -> Any:
            return state[0] + 1, jnp.tanh(state[1] @ w)

        return jax.lax.while_loop(lambda state: state[0] < 7, turn, (0, x))[1]

    args = shape(48, 48), shape(4, 48)
    found = compiler.compile(load_profile("systolic"), PortableProgram(looped, args))
    assert [p.known for p in found.products] == [False]
    kernels = running(found, load_profile("systolic"))
    assert sum(k.count * p.flops for k in kernels for p in k.products) == 7 * 2 * 4 * 48 * 48


def test_what_stands_beside_the_products_of_an_array(compiler: Compiler) -> None:
    """By hand: one row by 96 x 48 on the array, and nothing beside it but the inputs' rounding."""
    profile = load_profile("systolic")
    found = made(compiler, "systolic", "dense", jnp.int8, 1)
    assert any(k.widens for k in found.kernels)
    product, *rest = running(found, profile)
    taken = cycles(product.products[0], Array.of(profile))
    assert taken.compute == 2 * (96 + 32 + 32 - 2)  # 2 folds of 32 columns
    assert 96 <= sum(k.operations for k in rest) <= 2 * 96
    model = Target.of("systolic", batch=1, measure=False).latency_model
    empty = Footprint(resident=found.peak_memory, temporary=0.0)
    of_rest = sum(model.kernel_seconds(rest, empty)) + len(rest) * profile.launch_overhead
    whole = taken.seconds + profile.launch_overhead + of_rest + model.calling(found)
    assert model.predict(found).seconds == pytest.approx(whole, rel=1e-6)
    # An operation of int8 costs 0.15 pJ, one of float32 2.3; a value has one byte or four of DRAM.
    floats = made(compiler, "systolic", "dense", jnp.float32, 1)
    spent = [joules(running(p, profile), 1.0, profile) for p in (found, floats)]
    of_operations = 2 * 96 * 48 * (2.3e-12 - 0.15e-12)
    of_bytes = (4 - 1) * (96 * 48 + 96) * 163e-12
    assert spent[1] - spent[0] == pytest.approx(of_operations + of_bytes, rel=0.05)


def text(*lines: str) -> list[Kernel]:
    body = "\n".join(f"  {line}" for line in lines)
    return kernels_of(
        parse_module(f"HloModule m\n\nENTRY %main (p: f32[1]) -> f32[1] {{\n{body}\n}}\n")
    )


@pytest.mark.parametrize("name", ["edge-tpu", "systolic"])
def test_what_an_array_does_not_multiply_runs_beside_it(name: str) -> None:
    """By hand: 64 products of 1 x 32 x 16 in float32, at the rate that the profile states."""
    profile = load_profile(name)
    model = Target.of(name, batch=1, measure=False).latency_model
    near = Footprint(resident=0.0, temporary=0.0)

    def seconds(dtype: str) -> float:
        product = Product(groups=64, m=1, n=16, k=32)
        kernel = Kernel(name="dot", kind="dot", dtype=dtype, products=(product,))
        return model.kernel_seconds([kernel], near)[0]

    assert seconds("f32") == pytest.approx(2 * 64 * 32 * 16 / profile.peak["f32"])
    assert seconds("bf16") == seconds("f32")
    whole = cycles(Product(groups=64, m=1, n=16, k=32), Array.of(profile))
    assert seconds("int8") == pytest.approx(whole.total / profile.clock)


def test_only_what_widens_operands_is_left_out() -> None:
    *converts, product = text(
        "%w = s8[96,48]{1,0} parameter(0)",
        "%x = s8[1,96]{1,0} parameter(1)",
        "%a = s32[96,48]{1,0} convert(%w)",
        "%b = s32[1,96]{1,0} convert(%x)",
        "ROOT %d = s32[1,48]{1,0} dot(%b, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
    )
    assert [k.widens for k in converts] == [True, True]
    assert (product.dtype, product.widens) == ("int32", False)
    kept = text(
        "%w = s8[96,48]{1,0} parameter(0)",
        "%x = f32[1,96]{1,0} parameter(1)",
        "%a = f32[96,48]{1,0} convert(%w)",  # the program's own, as it is used elsewhere too
        "%b = bf16[1,96]{1,0} convert(%x)",  # rounds
        "%c = f32[1,96]{1,0} convert(%b)",
        "%s = f32[96,48]{1,0} sine(%a)",
        "%d = f32[1,48]{1,0} dot(%c, %a), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
        "ROOT %t = (f32[1,48]{1,0}, f32[96,48]{1,0}) tuple(%d, %s)",
    )
    assert [k.name for k in kept if k.widens] == ["c"]


@pytest.mark.parametrize(
    ("wide", "narrow", "answer"),
    [
        ("s32", "s8", True), ("s32", "u8", True), ("u32", "s8", False), ("s8", "s32", False),
        ("s8", "u8", False), ("f32", "bf16", True), ("f32", "f16", True), ("bf16", "f16", False),
        ("f16", "bf16", False), ("bf16", "f8e4m3fn", True), ("f16", "s8", True),
        ("bf16", "s8", True), ("bf16", "s16", False), ("f32", "s32", False), ("f64", "s32", True),
        ("f32", "f64", False), ("f32", "f32", True), ("s32", "f32", False),
    ],
)  # fmt: skip
def test_which_types_hold_which(wide: str, narrow: str, answer: bool) -> None:
    assert holds(wide, narrow) is answer
