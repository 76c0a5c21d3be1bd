"""A naive reading of what a compressed model computes: float64, one operation at a time.

It shares nothing with the product but the trained arrays. Where float64 is not exact enough to say
what the answer is (a value that lies on the edge between two codes), `Reference` is run again with
numbers that differ in the last bits of float32, and examples on which the runs differ are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray
_FORMATS: Mapping[str, Any] = {
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
    "float8": ml_dtypes.float8_e4m3fn,
}
_FLOAT8 = 448.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a candidate asks for at one weight.

    Args:
        weight_bits: 2 to 8; None: floating point.
        input_bits: likewise, of what it is multiplied with.
        precision: the format of floating point; None: the model's own.
        scales: "channel", "tensor" or "group".
        group: neighbours along the last summed axis that share a scale.
    """

    weight_bits: int | None = None
    input_bits: int | None = None
    precision: str | None = None
    scales: str = "channel"
    group: int = 32


def rounded(values: Array, name: str) -> Array:
    """Float64 values that were rounded to a narrower format."""
    if name == "float32":
        return values
    return np.asarray(values).astype(np.float32).astype(_FORMATS[name]).astype(np.float64)


def on_grid(values: Array, largest: Array | float, bits: int) -> Array:
    """The nearest of 2^bits - 1 equal steps from -largest to largest."""
    top = 2.0 ** (bits - 1) - 1
    step = _step(largest, top)
    return np.clip(np.round(values / step), -top, top) * step


def in_float8(values: Array, largest: Array | float) -> Array:
    """Values whose largest magnitude is laid on the largest float8, rounded there."""
    step = _step(largest, _FLOAT8)
    return rounded(np.clip(values / step, -_FLOAT8, _FLOAT8), "float8") * step


def _step(largest: Array | float, top: float) -> Array:
    """What one unit of a grid stands for; 1 where all values are zero, which any step holds."""
    step = np.asarray(largest, np.float64) / top
    return np.where(step >= np.finfo(np.float32).tiny, step, 1.0)


def _largest(w: Array, axes: Sequence[int], asked: Asked, *, table: bool) -> Array:
    """The largest magnitude that each weight's scale covers, in the weight's shape."""
    if asked.scales == "tensor":
        axes = range(w.ndim)
    last = axes[-1] if len(axes) else 0
    length = w.shape[last] if len(axes) else 0
    if _in_groups(length, asked, table=table):
        split = (*w.shape[:last], length // asked.group, asked.group, *w.shape[last + 1 :])
        others = tuple(a if a < last else a + 1 for a in axes if a != last)
        top = np.abs(w.reshape(split)).max(axis=(*others, last + 1), keepdims=True)
        return np.broadcast_to(top, split).reshape(w.shape)
    top = np.abs(w).max(axis=tuple(axes), keepdims=True)
    return np.broadcast_to(top, w.shape)


def _in_groups(length: int, asked: Asked, *, table: bool) -> bool:
    """Whether neighbours along a summed axis of this length share scales."""
    wanted = asked.scales == "group" and not table
    return wanted and length > asked.group and length % asked.group == 0


def _groups(w: Array, axes: Sequence[int], asked: Asked, *, table: bool) -> list[Array]:
    """Where in a weight each group of neighbours lies that share scales; all of it, if none do."""
    length = w.shape[axes[-1]]
    if not _in_groups(length, asked, table=table):
        return [np.ones(w.shape, bool)]
    places = np.arange(length) // asked.group
    shape = [length if axis == axes[-1] else 1 for axis in range(w.ndim)]
    return [
        np.broadcast_to((places == group).reshape(shape), w.shape)
        for group in range(length // asked.group)
    ]


@dataclass(kw_only=True)
class Reference:
    """Runs a model's layers in float64, and does its products as a candidate asks.

    Args:
        weights: the trained arrays as they are deployed, by name.
        asked: by the name of the weight; a weight without one is multiplied as it is.
        dtype: that the model computes in.
        ranges: the largest input of each product, by (name, place in a stack); None: observe it.
        nudge: what float32 may do: every input of a product is moved up or down by this share of
            itself, a weight that is rounded by half of it, and a sum by this share of the sum of
            its terms' magnitudes.
        seed: of what moves up and what down; None: everything the same way.
    """

    weights: Mapping[str, Array]
    asked: Mapping[str, Asked]
    dtype: str = "float32"
    ranges: dict[tuple[str, int], float] | None = None
    nudge: float = 0.0
    seed: int | None = None
    seen: dict[tuple[str, int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._signs = np.random.default_rng(self.seed)

    def array(self, name: str) -> Array:
        """An array as it is, in float64."""
        return np.asarray(self.weights[name]).astype(np.float64)

    def cast(self, values: Array) -> Array:
        """A value as the model's own arithmetic holds it."""
        return rounded(values, self.dtype)

    def _moved(self, values: Array, by: Array, share: float = 1.0) -> Array:
        """Values that are moved up or down by a share of the nudge times `by`."""
        if self.nudge == 0:
            return values
        signs: Array | float = 1.0
        if self.seed is not None:
            signs = 2.0 * self._signs.integers(0, 2, values.shape) - 1
        return values + self.nudge * share * signs * by

    def _sum(self, apply: Callable[[Array, Array], Array], x: Array, w: Array) -> Array:
        return self.cast(self._moved(apply(x, w), apply(np.abs(x), np.abs(w))))

    def _eighths(
        self,
        apply: Callable[[Array, Array], Array],
        x: Array,
        w: Array,
        top: Array,
        reach: float,
        parts: Sequence[Array],
    ) -> Array:
        """A convolution of float8, whose sums are rounded to bfloat16 before they are scaled.

        Args:
            apply: the convolution.
            x: its inputs.
            w: its weights.
            top: the largest magnitude that each weight's scale covers, in the weight's shape.
            reach: likewise of the inputs.
            parts: where in the weight each group lies that has scales of its own.
        """
        steps, x_step = _step(top, _FLOAT8), _step(reach, _FLOAT8)
        w8, x8 = in_float8(w, top) / steps, in_float8(x, reach) / x_step
        total: Array | float = 0.0
        for which in parts:
            part = np.where(which, w8, 0.0)
            scaled = apply(x8 * x_step, part * steps)
            plain = apply(x8, part)
            size = apply(np.abs(x8), np.abs(part))
            scale = np.divide(scaled, plain, out=np.zeros_like(scaled), where=plain != 0)
            total = total + rounded(self._moved(plain, size, 2.0), "bfloat16") * scale
        return self.cast(np.asarray(total))

    def product(
        self,
        name: str,
        x: Array,
        axes: Sequence[int],
        apply: Callable[[Array, Array], Array],
        *,
        at: int | None = None,
        scanned: bool = False,
        grouped: bool = False,
        convolution: bool = False,
    ) -> Array:
        """`apply(x, w)`, linear in both, with both as they are rounded.

        Args:
            name: of the weight.
            x: what it is multiplied with.
            axes: of the weight, over which the product sums; inside a stack, of a slice.
            apply: the product.
            at: the slice of a stack.
            scanned: whether a scan takes the slices; each then has a range of inputs of its own.
            grouped: whether it is a convolution in feature groups, or a table's other use: scales
                of groups of inputs are not for them.
            convolution: whether it is one, whose result in 16 bits is rounded to them.
        """
        w = self.array(name)
        whole = w
        w, place = (w, 0) if at is None else (w[at], at if scanned else 0)
        asked = self.asked.get(name, Asked())
        if self.ranges is None:
            before = self.seen.get((name, place), 0.0)
            self.seen[name, place] = max(before, float(np.abs(self.cast(x)).max()))
            return self.cast(apply(self.cast(x), self.cast(w)))
        x = self.cast(self._moved(x, x))
        if asked.weight_bits is not None or asked.precision == "float8":
            w = self._moved(w, w, 0.5)
        learned = [self.weights.get(f"{name}.{side}_step") for side in ("weight", "input")]
        if asked.weight_bits is None and asked.input_bits is None:
            if asked.precision == "float8":
                top = _largest(w, axes, asked, table=grouped)
                if asked.scales == "tensor" and not scanned:
                    top = np.full(w.shape, np.abs(whole).max())
                if convolution:
                    parts = _groups(w, axes, asked, table=grouped)
                    return self._eighths(apply, x, w, top, self.ranges[name, place], parts)
                w, x = in_float8(w, top), in_float8(x, self.ranges[name, place])
            elif asked.precision is not None:
                x, w = rounded(x, asked.precision), rounded(w, asked.precision)
                if convolution:
                    # Twice as far as its inputs, or the two moves of a sum below zero cancel.
                    y = self._moved(apply(x, w), apply(np.abs(x), np.abs(w)), 2.0)
                    return self.cast(rounded(y, asked.precision))
            else:
                w = self.cast(w)
            return self._sum(apply, x, w)
        if asked.weight_bits is not None:
            top = _largest(w, axes, asked, table=grouped)
            if asked.scales == "tensor" and not scanned:
                top = np.full(w.shape, np.abs(whole).max())
            if learned[0] is not None:
                own = learned[0] if at is None else learned[0][min(at, len(learned[0]) - 1)]
                top = _reach(own, asked.weight_bits, w.shape)
            w = on_grid(w, top, asked.weight_bits)
        if asked.input_bits is not None:
            reach = self.ranges[name, place]
            if learned[1] is not None:
                steps = np.exp(np.asarray(learned[1], np.float64)).reshape(-1)
                reach = float(steps[place if steps.size > 1 else 0])
                reach *= 2.0 ** (asked.input_bits - 1) - 1
            x = on_grid(x, reach, asked.input_bits)
        return self._sum(apply, x, w)

    def rows(self, name: str, places: Array, axes: Sequence[int] = (0,)) -> Array:
        """The rows of a table; `axes` share a scale."""
        w, asked = self.array(name), self.asked.get(name, Asked())
        if self.ranges is not None:
            if asked.weight_bits is not None or asked.precision == "float8":
                w = self._moved(w, w, 0.5)
            if asked.weight_bits is not None:
                learned = self.weights.get(f"{name}.weight_step")
                top = _largest(w, axes, asked, table=True)
                if learned is not None:
                    top = _reach(learned, asked.weight_bits, w.shape)
                w = on_grid(w, top, asked.weight_bits)
            elif asked.precision == "float8" and asked.input_bits is None:
                w = in_float8(w, _largest(w, axes, asked, table=True))
            elif asked.precision is not None and asked.input_bits is None:
                w = rounded(w, asked.precision)
        return self.cast(w[places])


def _reach(logarithms: Array, bits: int, shape: tuple[int, ...]) -> Array:
    """The largest magnitude of learned steps, beside each weight."""
    top = np.exp(np.asarray(logarithms, np.float64)) * (2.0 ** (bits - 1) - 1)
    for axis, (have, want) in enumerate(zip(top.shape, shape, strict=True)):
        if have not in (1, want):
            top = np.repeat(top, want // have, axis=axis)
    return np.broadcast_to(top, shape)


# Plain operations ---------------------------------------------------------------------------------


def dense(x: Array, w: Array) -> Array:
    """(..., in) by (in, out)."""
    return x @ w


def convolution(
    x: Array,
    w: Array,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
    pads: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> Array:
    """Images (batch, H, W, C) by a kernel (h, w, C / groups, out), tap by tap.

    Args:
        x: images.
        w: kernel.
        stride: between outputs, along both axes.
        groups: of features.
        dilation: between the kernel's taps.
        pads: zeros before and after, along both axes; None: as "SAME" wants.
    """
    high, wide = ((n - 1) * dilation + 1 for n in w.shape[:2])
    if pads is None:
        pads = (_same(x.shape[1], high, stride), _same(x.shape[2], wide, stride))
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    rows = (x.shape[1] - high) // stride + 1
    columns = (x.shape[2] - wide) // stride + 1
    inputs, outputs = w.shape[2], w.shape[3] // groups
    out = np.zeros((len(x), rows, columns, w.shape[3]))
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            top, left = i * dilation, j * dilation
            part = x[:, top : top + rows * stride : stride, left : left + columns * stride : stride]
            part = part[:, :rows, :columns]
            for g in range(groups):
                taps = w[i, j, :, g * outputs : (g + 1) * outputs]
                out[..., g * outputs : (g + 1) * outputs] += (
                    part[..., g * inputs : (g + 1) * inputs] @ taps
                )
    return out


def _same(length: int, window: int, stride: int) -> tuple[int, int]:
    total = max(0, (-(-length // stride) - 1) * stride + window - length)
    return total // 2, total - total // 2


def transposed_convolution(x: Array, w: Array, stride: int) -> Array:
    """Images (batch, H, W, C) spread `stride` apart, by a kernel (h, w, C, out), "SAME"."""
    spread = np.zeros((len(x), *((n - 1) * stride + 1 for n in x.shape[1:3]), x.shape[3]))
    spread[:, ::stride, ::stride] = x
    pads = []
    for n in w.shape[:2]:
        total = n + stride - 2
        before = n - 1 if stride > n - 1 else -(-total // 2)
        pads.append((before, total - before))
    return convolution(spread, w, pads=(pads[0], pads[1]))


def softmax(x: Array) -> Array:
    """Along the last axis."""
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(x: Array) -> Array:
    """Logistic."""
    return 1.0 / (1.0 + np.exp(-x))


def gelu(x: Array) -> Array:
    """With the hyperbolic tangent, as JAX's default."""
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + np.tanh(inner))
