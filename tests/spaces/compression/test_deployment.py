"""What is deployed: its shapes, the products of its program, and its look-ups."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paretax.spaces.compression import compress, deploy, deployed_shapes, grid, widths_of
from paretax.spaces.recipe import Recipe
from paretax.spaces.sites import find_sites

if TYPE_CHECKING:
    from tests.spaces.compression.conftest import Both, Programs
    from tests.spaces.conftest import Example

close = np.testing.assert_allclose


@pytest.mark.parametrize("weight_bits", [4, 32])
@pytest.mark.parametrize("activation_bits", [4, 32])
@pytest.mark.parametrize("name", ["nnx", "stack"])
def test_shapes_and_dtypes(
    request: pytest.FixtureRequest, both: Both, name: str, weight_bits: int, activation_bits: int
) -> None:
    programs: Programs = request.getfixturevalue(f"{name}_programs")
    recipe = programs.recipe(both(weight_bits, activation_bits, sparsity=0.5))
    arrays = programs.arrays(recipe)
    shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
    assert {n: (a.shape, a.dtype) for n, a in arrays.items()} == {
        n: (a.shape, a.dtype) for n, a in shapes.items()
    }
    derived = {n + ".scale" for n in programs.sites if weight_bits < 32} | {
        n + ".input"
        for n, site in programs.sites.items()
        if activation_bits < 32 and site.kind != "embedding"
    }
    assert set(arrays) == {*programs.params, *programs.state, *derived}
    for weight, site in programs.sites.items():
        assert arrays[weight].dtype == (jnp.int8 if weight_bits < 32 else jnp.float32)
        assert arrays[weight].shape == site.shape
        if weight_bits < 32:
            assert arrays[f"{weight}.scale"].size == site.channels
        if f"{weight}.input" in derived:
            assert arrays[f"{weight}.input"].shape == (*site.shape[: site.stack], 2)


def products_in(text: str) -> list[str]:
    """The operand and result types of each product, such as "i8 x i8 -> i32"."""
    kinds = "dot_general|convolution"
    pattern = (
        rf"stablehlo\.({kinds})[^\n]*: \(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
    )
    found = []
    for kind, *shapes in re.findall(pattern, text):
        one, other, result = (str(shape).rpartition("x")[2] for shape in shapes)
        found.append(f"{kind}: {one} x {other} -> {result}")
    return found


ATTENTION = ["dot_general: f32 x f32 -> f32"] * 2  # queries by keys, scores by values


def test_the_deployed_program_multiplies_whole_numbers(nnx_programs: Programs, both: Both) -> None:
    programs = nnx_programs

    def lowered(config: Mapping[str, Any]) -> list[str]:
        recipe = programs.recipe(config)
        run: Any = programs.deploy(recipe)
        shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
        return sorted(products_in(run.lower(shapes, programs.inputs).as_text()))

    whole = ["convolution: i8 x i8 -> i32", *["dot_general: i8 x i8 -> i32"] * 5]
    floats = ["convolution: f32 x f32 -> f32", *["dot_general: f32 x f32 -> f32"] * 5]
    assert lowered(both(8, 8)) == sorted(ATTENTION + whole)
    assert lowered(both(2, 3)) == sorted(ATTENTION + whole)
    for config in (both(8, 32), both(32, 8), {}):
        assert lowered(config) == sorted(ATTENTION + floats)
    some = lowered({"weight_bits@attention": 8, "activation_bits@attention": 8})
    assert some == sorted(ATTENTION + whole[1:5] + floats[:2])
    grouped = lowered(both(8, 8, weight_scales="group", group_size=2))
    # Two groups in four products of four inputs; heads of two and the image's channel have one.
    assert grouped == sorted(ATTENTION + whole + ["dot_general: i8 x i8 -> i32"] * 4)
    low = lowered({"precision": "bfloat16"})
    narrow = "convolution: bf16 x bf16 -> bf16"
    assert low == sorted([*ATTENTION, narrow, *["dot_general: bf16 x bf16 -> f32"] * 5])
    eighth = lowered({"precision": "float8"})
    assert eighth == sorted([*ATTENTION, narrow, *["dot_general: f8E4M3FN x f8E4M3FN -> f32"] * 5])


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One line of a compiled program."""

    type: str
    opcode: str
    operands: tuple[str, ...]  # or the number of a parameter
    calls: str | None


class Compiled:
    """A compiled program's text, computation by computation."""

    def __init__(self, text: str) -> None:
        self.parts: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, str] = {}
        part = ""
        for line in text.splitlines():
            if head := re.match(r"(?:ENTRY )?%(\S+) \(.*\{$", line):
                part = head[1]
                self.parts[part] = {}
            found = re.match(r"\s+(ROOT )?%(\S+) = (\S+) ([\w-]+)\((.*?)\)", line)
            if found:
                calls = re.search(r"calls=%([\w.-]+)", line)
                root, name, kind, opcode, operands = found.groups()
                self.parts[part][name] = Instruction(
                    type=kind.partition("[")[0],
                    opcode=opcode,
                    operands=tuple(re.findall(r"%([\w.-]+)", operands) or [operands]),
                    calls=calls[1] if calls else None,
                )
                if root:
                    self.roots[part] = name

    def caller(self, part: str) -> tuple[str, Instruction] | None:
        """What calls a part, and the part that it stands in; nothing calls the entry."""
        lines = ((whole, this) for whole in self.parts for this in self.parts[whole].values())
        return next(((whole, this) for whole, this in lines if this.calls == part), None)

    def origin(self, part: str, name: str) -> str:
        """The type of an operand before it was widened to another one."""
        this = self.parts[part][name]
        if this.calls is not None:
            return self.origin(this.calls, self.roots[this.calls])
        if this.opcode == "parameter" and (caller := self.caller(part)):
            whole, fusion = caller
            return self.origin(whole, fusion.operands[int(this.operands[0])])
        moved = ("convert", "copy", "transpose", "bitcast", "reshape", "slice", "dynamic-slice")
        if this.opcode in moved and this.type != "s8":
            return self.origin(part, this.operands[0])
        return this.type

    def products(self) -> list[str]:
        """Of every dot and convolution the types of the operands' origins and of the result."""
        return sorted(
            f"{this.opcode}: {' x '.join(self.origin(part, o) for o in this.operands)} "
            f"-> {this.type}"
            for part, lines in self.parts.items()
            for this in lines.values()
            if this.opcode in ("dot", "convolution")
        )


@pytest.mark.parametrize("name", ["nnx", "pair", "stack"])
def test_the_compiled_program_multiplies_whole_numbers(
    request: pytest.FixtureRequest, name: str
) -> None:
    """After all of the compiler's passes: no product at a quantised site is in floating point.

    XLA's CPU compiler multiplies s8 by s8 into s32 in its dots. Convolutions are of s32, and
    their operands are widened from s8 just before.
    """
    programs: Programs = request.getfixturevalue(f"{name}_programs")
    recipe = programs.recipe({"quantize": True})
    shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
    run: Any = programs.deploy(recipe)
    found = Compiled(run.lower(shapes, programs.inputs).compile().as_text()).products()
    kinds = {"dot": "dot", "convolution": "convolution"}
    sites = [kinds[s.kind] for s in programs.sites.values() if s.kind in kinds]
    whole = [f"{kind}: s8 x s8 -> s32" for kind in sites]
    attention = any("attention" in site for site in programs.sites)
    floats = ["dot: f32 x f32 -> f32"] * 2 if attention else []
    assert found == sorted(whole + floats)


def test_the_compiled_float_program_has_no_whole_products(nnx_programs: Programs) -> None:
    """The same reading finds what is not there."""
    programs = nnx_programs
    recipe = Recipe.plain(programs.sites)
    shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
    run: Any = programs.deploy(recipe)
    found = Compiled(run.lower(shapes, programs.inputs).compile().as_text()).products()
    assert found == ["convolution: f32 x f32 -> f32", *["dot: f32 x f32 -> f32"] * 7]


@pytest.mark.parametrize("name", ["nnx", "stack"])
def test_a_symbolic_batch_size(request: pytest.FixtureRequest, both: Both, name: str) -> None:
    programs: Programs = request.getfixturevalue(f"{name}_programs")
    recipe = programs.recipe(both(6, 7, sparsity=0.2))
    (batch,) = jax.export.symbolic_shape("batch")
    shapes = deployed_shapes(recipe, programs.sites, programs.params, programs.state)
    x = programs.inputs
    inputs = jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    exported = jax.export.export(programs.deploy(recipe))(shapes, inputs)  # type: ignore[arg-type]
    arrays = programs.arrays(recipe)
    expected = programs.deployed(recipe)
    for count in (1, 5):
        found = exported.call(arrays, x[:count])
        close(found, expected[:count], rtol=1e-5, atol=1e-5)


def test_a_channel_of_zeros_stays_zero(both: Both) -> None:
    params = {"w": jnp.array([[0.0, 1.0], [0.0, -2.0]])}
    x = jnp.ones((1, 2))

    def predict(p: Any, s: Any, x: Any) -> Any:
        return x @ p["w"]

    sites = find_sites(predict, params, {}, x)
    recipe = Recipe.of(both(8, 8), sites)
    dead = {"w": jnp.zeros(())}  # the calibration data gave nothing but zeros
    steps = grid(recipe, sites, params, dead, widths_of(recipe), {})
    arrays = compress(recipe, sites, params, {}, steps)
    run = deploy(predict, sites, recipe, ())
    close(run(arrays, x), [[0.0, -1.0]], atol=0.02)
    np.testing.assert_array_equal(run(arrays, 0 * x), [[0.0, 0.0]])


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16", "float8"])
def test_look_ups_in_every_format(
    example: Callable[[str], Example], new_programs: type[Programs], precision: str
) -> None:
    """Rows of a table on the grid are rows of codes, times the features' scales."""
    table = example("tokens-nnx").params["embed/embedding"]
    ids = jnp.array([[3, 1], [10, 0]])

    def predict(p: Any, s: Any, x: Any) -> Any:
        return p["e"][x]

    programs = new_programs.of(predict, {"e": table}, {}, ids)
    for config in ({"precision": precision}, {"precision": precision, "weight_bits": 4}):
        recipe = programs.recipe(config)
        arrays = programs.arrays(recipe)
        scale = np.asarray(arrays.get("e.scale", 1.0), np.float32)
        expected = np.asarray(arrays["e"], np.float32)[np.asarray(ids)] * scale
        np.testing.assert_array_equal(programs.deployed(recipe), expected)
        np.testing.assert_array_equal(programs.simulated(recipe), expected)
