"""What a program multiplies as it was traced, before any compiler changed it.

Compilers widen operands that their device cannot multiply, and spread grouped convolutions out over
groups that they do not have; a device that takes the products as they are does neither.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from paretax.evaluators.compilers.hlo_products import widest
from paretax.evaluators.kernels import Product
from paretax.spaces.taps import shapes, windows_met

_NAMES = {"float32": "f32", "float64": "f64", "float16": "fp16", "bfloat16": "bf16",
          "uint8": "int8", "uint4": "int4", "uint32": "int32"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TracedProduct:
    """A product of a traced program.

    Args:
        product: its sizes.
        dtype: of its operands, the wider of the two.
        count: how often it is done in a call.
        known: whether the program says how often; it does not in a `while_loop`, where `count` is
            of one turn.
    """

    product: Product
    dtype: str
    count: int = 1
    known: bool = True

    @property
    def flops(self) -> int:
        """Multiplications and additions of a call."""
        return self.count * self.product.flops

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls(**{**plain, "product": Product(**plain["product"])})


def traced_products(jaxpr: Jaxpr, count: int = 1, known: bool = True) -> Iterator[TracedProduct]:
    """The products of a program, in the order of its text.

    Args:
        jaxpr: of the program.
        count: how often it runs.
        known: see `TracedProduct`.
    """
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _PRODUCTS:
            arrays: list[Any] = [var.aval for var in eqn.invars[:2]]
            product = _PRODUCTS[eqn.primitive.name](eqn)
            if product is not None:
                dtype = widest(_name(array.dtype) for array in arrays)
                yield TracedProduct(product=product, dtype=dtype, count=count, known=known)
        elif eqn.primitive.name == "cond":
            branches = [
                list(traced_products(b.jaxpr, count, known)) for b in eqn.params["branches"]
            ]
            yield from max(branches, key=lambda found: sum(p.flops for p in found))
        else:
            turns = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            told = known and eqn.primitive.name != "while"
            for inner in _called(eqn):
                yield from traced_products(inner, count * turns, told)


def _called(eqn: JaxprEqn) -> Iterator[Jaxpr]:
    """The programs that an equation runs; the backward ones of custom derivatives are not."""
    for value in eqn.params.values():
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one


def _name(dtype: Any) -> str:
    name = np.dtype(dtype).name
    return "fp8" if name.startswith("float8") else _NAMES.get(name, name)


def _dot(eqn: JaxprEqn) -> Product | None:
    left, right, _ = shapes(eqn)
    (of_left, of_right), (groups, _) = eqn.params["dimension_numbers"]
    k, g = (math.prod(left[i] for i in axes) for axes in (of_left, groups))
    if 0 in left or 0 in right:
        return None
    of_right = math.prod(right[i] for i in of_right)
    return Product(
        groups=g, m=math.prod(left) // (g * k), n=math.prod(right) // (g * of_right), k=k
    )


def _convolution(eqn: JaxprEqn) -> Product | None:
    inputs, kernel, result = shapes(eqn)
    if 0 in inputs or 0 in kernel or 0 in result:
        return None
    given, numbers = eqn.params, eqn.params["dimension_numbers"]
    groups = given["feature_group_count"] * given["batch_group_count"]
    positions = math.prod(result[i] for i in numbers.out_spec[2:])
    met = windows_met(eqn)
    # Rows of as many taps as an output meets at most on average, as compilers' texts are counted.
    window = max(1, -(-met // positions))
    rows = result[numbers.out_spec[0]] * positions
    return Product(
        groups=groups,
        m=max(1, -(-rows * met // (positions * window))),
        n=max(1, result[numbers.out_spec[1]] // groups),
        k=kernel[numbers.rhs_spec[1]] * window,
        window=window,
    )


_PRODUCTS = {"dot_general": _dot, "conv_general_dilated": _convolution}
