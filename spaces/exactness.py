"""Where zeroed channels add exactly nothing, so that they may as well be absent.

A channel goes when the entries of all parameters that carry it become zero. Other channels do not
notice if every sum over the channels has a factor there that is exactly zero: a weight, or an
activation that is zero whatever the inputs. This walk finds out which activations are, and blocks
what cannot be guaranteed.

It also follows activations that are another known number there, such as 1e-5 after an epsilon was
added to a variance: between being zeroed and leaving, channels are trained with the others, so no
operation may have an infinite value or slope at that number. The gradient of a square root is
infinite at zero, and infinity times the zero of the next weight is not a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.spaces.axes import Axes, Axis, occurrences
from paretax.spaces.axis_rules import ELEMENTWISE
from paretax.spaces.dataflow import Frame, Program
from paretax.spaces.points import Point, point

_ALL = -1  # stands for every atom: the value is this everywhere
Known = Mapping[int, float]
"""Atoms, with the number that a value is at their removed indices, wherever one of its axes carries
them."""
Zeros = frozenset[int]

# f(0, ..., 0) = 0, with finite slopes
_KEEP_ZERO = (
    "abs add add_any asin asinh atan atanh ceil convert_element_type copy copy_p erf expm1 floor "
    "log1p max min neg or reduce_precision round sign sin sinh square stop_gradient sub tan tanh "
    "xor"
)
# one operand, whose axes are moved, dropped or added to
_KEEP_FIRST = (
    "broadcast_in_dim cummax cummin dynamic_slice reduce_max reduce_min reduce_window_max "
    "reduce_window_min reshape rev slice split squeeze transpose unstack"
)
# likewise, but another number than zero becomes something else
_KEEP_FIRST_ZERO = "cumprod cumsum gather reduce_prod reduce_sum reduce_window_sum"
_DIVIDES = {"div": 1, "rem": 1, "pow": 0}  # the operand at which zero is a pole or may be one

_MIXED = "a product of two activations sums over it"
_TWICE = "two axes of one activation are it"
_POLE = "{name} is not finite at {value:g}, which it would get once removed"
_STEEP = (
    "the slope of {name} is infinite at {value:g}, which it would get once removed, and training "
    "would diverge: add a small constant before it"
)


def block_inexact(program: Program, params: Iterable[str]) -> None:
    """Block every atom whose removal could change the rest of the model.

    Args:
        program: whose atoms are blocked.
        params: the arrays that are zeroed where a channel is removed; the state is left as it is.
    """
    zeroed = set(params)
    given: list[Known] = [
        dict.fromkeys(occurrences(program.atoms, axes), 0.0) if name in zeroed else {}
        for name, axes in program.arrays.items()
    ]
    given += [{}] * (len(program.frame.jaxpr.invars) - len(given))
    _Walk(program).run(program.frame, given)


class _Walk:
    def __init__(self, program: Program) -> None:
        self._atoms = program.atoms
        self._points: dict[tuple[Any, ...], Point | None] = {}

    def run(self, frame: Frame, given: Sequence[Known], smooth: bool = True) -> list[Known]:
        """What is known of the results.

        Args:
            frame: that is walked.
            given: what is known of its operands.
            smooth: whether its gradient is that of its equations; else it has one of its own.
        """
        known: dict[Var, Known] = {
            var: _everywhere(value)
            for var, value in zip(frame.jaxpr.constvars, frame.consts, strict=True)
        }
        known.update(zip(frame.jaxpr.invars, given, strict=True))

        def read(var: Any) -> Known:
            return _everywhere(var.val) if isinstance(var, Constant) else known[var]

        for i, eqn in enumerate(frame.eqns):
            operands = [read(var) for var in eqn.invars]
            if i in frame.called:
                own = eqn.primitive.name.startswith("custom_")
                results = self.run(frame.called[i], operands, smooth and not own)
            else:
                axes = [frame.of(var) for var in eqn.invars]
                self._once(axes, [frame.of(var) for var in eqn.outvars])
                self._divided(eqn, axes, operands)
                results = [self._result(eqn, axes, operands, smooth)] * len(eqn.outvars)
            known.update(zip(eqn.outvars, results, strict=True))
        return [read(var) for var in frame.jaxpr.outvars]

    def _once(self, given: Sequence[Axes], made: Sequence[Axes]) -> None:
        """A removed index of an axis must not meet a kept one of another axis."""
        before: dict[int, int] = {}
        for axes in given:
            for leaf, count in occurrences(self._atoms, axes).items():
                before[leaf] = min(count, before.get(leaf, count))
        for axes in made:
            for leaf, count in occurrences(self._atoms, axes).items():
                if count > before.get(leaf, 1):
                    self._atoms.block([(leaf,)], _TWICE)

    def _divided(self, eqn: JaxprEqn, axes: Sequence[Axes], known: Sequence[Known]) -> None:
        """By zero, whatever is divided."""
        name = eqn.primitive.name
        if name in _DIVIDES:
            leaves, zeros = occurrences(self._atoms, axes[_DIVIDES[name]]), known[_DIVIDES[name]]
            exponents = known[1] if name == "pow" else {}
            found = [x for x in leaves if zeros.get(x) == 0 and _at(exponents, x) is None]
            self._atoms.block([(leaf,) for leaf in found], _POLE.format(name=name, value=0))

    def _result(
        self, eqn: JaxprEqn, axes: Sequence[Axes], known: Sequence[Known], smooth: bool
    ) -> Known:
        name, zeros = eqn.primitive.name, [_zeros(each) for each in known]
        if name in _SUMS:
            return dict.fromkeys(_SUMS[name](self, eqn, axes, zeros), 0.0)
        if name in _KEEP_FIRST.split():
            return known[0]
        if name in _KEEP_FIRST_ZERO.split():
            return dict.fromkeys(zeros[0], 0.0)
        if name in ("concatenate", "pad"):
            return _common(known)
        if name == "select_n":
            return _chosen(*known)
        if name in ELEMENTWISE:
            return self._elementwise(eqn, known, zeros, smooth)
        return {}

    def _elementwise(
        self, eqn: JaxprEqn, known: Sequence[Known], zeros: Sequence[Zeros], smooth: bool
    ) -> Known:
        name = eqn.primitive.name
        found: dict[int, float] = {}
        if name in ("mul", "and"):
            found = dict.fromkeys(zeros[0] | zeros[1], 0.0)
        elif name in ("div", "rem"):
            found = dict.fromkeys(zeros[0], 0.0)
        for leaf in frozenset().union(*known):
            operands = [_at(each, leaf) for each in known]
            numbers = [x for x in operands if x is not None]
            if leaf in found or len(numbers) < len(operands):
                continue
            if name in _KEEP_ZERO.split() and not any(numbers):
                found[leaf] = 0.0
                continue
            here = self._point(eqn, numbers, [i for i, each in enumerate(known) if leaf in each])
            if here is None:
                continue
            if here.is_finite:
                found[leaf] = here.value
            if leaf != _ALL and not (here.is_finite and (here.is_smooth or not smooth)):
                why = _STEEP if here.is_finite else _POLE
                value = next(x for x, each in zip(numbers, known, strict=True) if leaf in each)
                self._atoms.block([(leaf,)], why.format(name=name, value=value))
        return found

    def _point(self, eqn: JaxprEqn, operands: list[float], by: list[int]) -> Point | None:
        """Of equal operations once."""
        dtypes = [str(var.aval) for var in (*eqn.invars, *eqn.outvars)]
        key = (eqn.primitive, str(eqn.params), *dtypes, *operands, *by)
        if key not in self._points:
            self._points[key] = point(eqn, operands, by)
        return self._points[key]

    def _leaves(self, axes: Iterable[Axis]) -> Zeros:
        return frozenset(leaf for axis in axes for leaf in self._atoms.leaves(axis))

    def _dot(self, eqn: JaxprEqn, axes: Sequence[Axes], zeros: Sequence[Zeros]) -> Zeros:
        contracted, batch = eqn.params["dimension_numbers"]
        self._summed(self._leaves(axes[0][i] for i in contracted[0]), zeros)
        left, right = (
            self._leaves(axis for i, axis in enumerate(axes[k]) if i not in contracted[k])
            for k in range(2)
        )
        found = (zeros[0] & (left | {_ALL})) | (zeros[1] & (right | {_ALL}))
        one_by_one = self._leaves(axes[0][i] for i in batch[0])
        return found - ((left & right - one_by_one) - (zeros[0] & zeros[1]))

    def _convolution(self, eqn: JaxprEqn, axes: Sequence[Axes], zeros: Sequence[Zeros]) -> Zeros:
        numbers = eqn.params["dimension_numbers"]
        channels, kernel_inputs = axes[0][numbers.lhs_spec[1]], axes[1][numbers.rhs_spec[1]]
        summed = self._leaves([kernel_inputs])
        self._summed(summed, zeros)
        groups = self._leaves([channels]) - summed
        batch, outputs = axes[0][numbers.lhs_spec[0]], axes[1][numbers.rhs_spec[0]]
        image = self._leaves([batch]) | groups | {_ALL}
        return (zeros[0] & image) | (zeros[1] & (self._leaves([outputs]) | {_ALL}))

    def _summed(self, leaves: Zeros, zeros: Sequence[Zeros]) -> None:
        if _ALL not in zeros[0] | zeros[1]:
            self._atoms.block([(leaf,) for leaf in leaves - zeros[0] - zeros[1]], _MIXED)


_SUMS: dict[str, Callable[[_Walk, JaxprEqn, Sequence[Axes], Sequence[Zeros]], Zeros]] = {
    "conv_general_dilated": _Walk._convolution,
    "dot_general": _Walk._dot,
}


def _everywhere(value: Any) -> Known:
    """What is known of a constant."""
    is_number = np.ndim(value) == 0 and np.issubdtype(np.result_type(value), np.number)
    return {_ALL: float(value)} if is_number and not np.iscomplexobj(value) else {}


def _at(known: Known, leaf: int) -> float | None:
    return known.get(leaf, known.get(_ALL))


def _zeros(known: Known) -> Zeros:
    return frozenset(leaf for leaf, value in known.items() if value == 0)


def _chosen(which: Known, *cases: Known) -> Known:
    """Of `select_n`: of the case that is chosen, where that is known, else what all cases share."""
    found = dict(_common(cases))
    for leaf in frozenset(which).union(*cases):
        number = _at(which, leaf)
        if number is not None and (value := _at(cases[int(number)], leaf)) is not None:
            found[leaf] = value
    return found


def _common(known: Sequence[Known]) -> Known:
    """At which all operands are the same number."""
    leaves = frozenset().union(*known)
    first, *others = known
    return {
        leaf: value
        for leaf in leaves
        if (value := _at(first, leaf)) is not None
        and all(_at(other, leaf) == value for other in others)
    }
