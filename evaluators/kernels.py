"""What a compiler made of a program: kernels, with what each computes and moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from paretax.hardware_profiles.profile import KernelKind

WIDTHS = {"int4": 4, "int8": 8, "fp8": 8, "fp16": 16, "bf16": 16, "f64": 64}
"""Bits of the dtypes that do not have 32."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product of matrices, or a convolution as one: `groups` times (m, k) x (k, n).

    Args:
        groups: independent products: batch dimensions of a dot, feature groups of a convolution.
        m: rows: examples, and positions of a convolution's output.
        n: columns: output features of a group.
        k: summed: input features of a group, and positions of a convolution's window.
        window: positions of a convolution's window; 1 for a dot.
    """

    groups: int = 1
    m: int
    n: int
    k: int
    window: int = 1

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.groups * self.m * self.n * self.k

    @property
    def kind(self) -> KernelKind:
        """Of a kernel that is this product."""
        if self.window == 1:
            return "dot"
        return "depthwise" if self.groups > 1 and self.k == self.window else "convolution"


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What a device runs at once: a fusion, a library call, a copy.

    Args:
        name: the compiler's.
        kind: what dominates it.
        dtype: of the operands of its products, or else of what it writes.
        widens: whether it does nothing but widen operands of products, for a device that takes no
            narrow ones.
        library: whose code it is: "xla" for generated code, or "ynn", "cudnn", "triton", ...
        products: in it.
        operations: elementwise and summing arithmetic beside the products; a transcendental
            function counts as one here.
        transcendentals: exponentials, logarithms, roots and the like among them.
        exponentials: exponentials, logarithms and powers among these.
        roots: square and cubic roots among these.
        converted: elements whose dtype changes.
        divided: divisions and remainders among the operations.
        summed: elements that reductions and windows take in.
        permuted: elements whose order changes: transposes, copies to another layout, reversals.
        indexed: elements that are picked or placed: gathers, scatters, slices, pads, joins.
        spread: elements that broadcasts make.
        bytes_read: of its operands, as far as it reads them, padding of the layout included.
        bytes_written: of its results, likewise.
        bytes_arguments: of those read, what the caller gave: weights and inputs.
        bytes_results: of those written, what the caller gets: memory that is fresh in every call.
        bytes_near: of all, what the compiler keeps in memory on the chip.
        overlapped: a copy that runs beside the kernels.
        row_read: elements side by side in memory, of the largest array that it reads.
        row_written: likewise, of the largest that it writes.
        count: how often it runs in a call (the trips of a loop).
        estimate: the compiler's own, in seconds; None: it makes none.
    """

    name: str
    kind: KernelKind
    dtype: str
    widens: bool = False
    library: str = "xla"
    products: tuple[Product, ...] = ()
    operations: int = 0
    transcendentals: int = 0
    exponentials: int = 0
    roots: int = 0
    converted: int = 0
    divided: int = 0
    summed: int = 0
    permuted: int = 0
    indexed: int = 0
    spread: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    bytes_arguments: int = 0
    bytes_results: int = 0
    bytes_near: int = 0
    overlapped: bool = False
    row_read: int = 1
    row_written: int = 1
    count: int = 1
    estimate: float | None = None

    @property
    def flops(self) -> int:
        """Arithmetic of one run: products, and the rest."""
        return sum(p.flops for p in self.products) + self.operations

    @property
    def bytes(self) -> int:
        """Moved by one run."""
        return self.bytes_read + self.bytes_written

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Kernel:
        """The inverse of `to_json`. Raises KeyError for what another version has written."""
        if plain.keys() != _FIELDS:
            raise KeyError("a kernel of another version of paretax")
        products = tuple(Product(**p) for p in plain["products"])
        return cls(**{**plain, "products": products})


_FIELDS = {field.name for field in fields(Kernel)}
