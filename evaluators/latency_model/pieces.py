"""A kernel with several products, as kernels with one each."""

from __future__ import annotations

from dataclasses import replace

from paretax.evaluators.kernels import WIDTHS, Kernel, Product

_SHARED = (
    "operations", "transcendentals", "exponentials", "roots", "converted", "divided", "summed",
    "permuted", "indexed", "spread",
)  # fmt: skip
"""What is divided among the products of a kernel."""


def pieces(kernel: Kernel) -> list[Kernel]:
    """The kernels that a fusion of several products would be without the fusion.

    Which products a compiler fuses differs from model to model, so a fusion as a whole is seldom
    like one that was measured; each of its products often is. The arithmetic beside the products
    is divided among them by the sizes of their results.
    """
    if len(kernel.products) < 2:
        return [kernel]
    results = [p.groups * p.m * p.n for p in kernel.products]
    return [
        _piece(kernel, product, size / sum(results))
        for product, size in zip(kernel.products, results, strict=True)
    ]


def _piece(kernel: Kernel, product: Product, share: float) -> Kernel:
    width = WIDTHS.get(kernel.dtype, 32) / 8
    weights = round(product.groups * product.k * product.n * width)
    inputs = round(product.groups * product.m * product.k / product.window * width)
    return replace(
        kernel,
        kind=product.kind,
        products=(product,),
        bytes_read=inputs + weights,
        bytes_written=4 * product.groups * product.m * product.n,
        bytes_arguments=min(kernel.bytes_arguments, weights),
        bytes_results=0,
        bytes_near=0,
        **{name: round(share * getattr(kernel, name)) for name in _SHARED},
    )
