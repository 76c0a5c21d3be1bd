"""Where zeroed channels add exactly nothing, so that they may as well be absent.

A channel goes when the entries of all parameters that carry it become zero. Other channels do not
notice if every sum over the channels has a factor there that is exactly zero: a weight, or an
activation that is zero whatever the inputs. This walk finds out which activations are, and blocks
what cannot be guaranteed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.spaces.axes import Axes, Axis, occurrences
from paretax.spaces.dataflow import Frame, Program

_ALL = -1  # stands for every atom: the value is zero everywhere
Zeros = frozenset[int]
"""The atoms at whose removed indices a value is zero, wherever one of its axes carries them."""

# f(0, ..., 0) = 0
_KEEP_ZERO = (
    "abs add add_any asin asinh atan atanh cbrt ceil convert_element_type copy copy_p erf expm1 "
    "floor log1p max min neg or reduce_precision round sign sin sinh sqrt square stop_gradient sub "
    "tan tanh xor"
)
# one operand, whose axes are moved, dropped or added to
_KEEP_FIRST = (
    "broadcast_in_dim cummax cummin cumsum dynamic_slice gather reduce_max reduce_min reduce_sum "
    "reduce_window_max reduce_window_min reduce_window_sum reshape rev slice split squeeze "
    "transpose"
)
_NOT_FINITE = frozenset({"acosh", "digamma", "lgamma", "log", "rsqrt"})  # at zero

_MIXED = "a product of two activations sums over it"
_TWICE = "two axes of one activation are it"
_POLE = "it would be divided by zero once removed"


def block_inexact(program: Program, params: Iterable[str]) -> None:
    """Block every atom whose removal could change the rest of the model.

    Args:
        program: whose atoms are blocked.
        params: the arrays that are zeroed where a channel is removed; the state is left as it is.
    """
    zeroed = set(params)
    given = [
        frozenset(occurrences(program.atoms, axes)) if name in zeroed else frozenset()
        for name, axes in program.arrays.items()
    ]
    given += [frozenset()] * (len(program.frame.jaxpr.invars) - len(given))
    _Walk(program).run(program.frame, given)


class _Walk:
    def __init__(self, program: Program) -> None:
        self._atoms = program.atoms

    def run(self, frame: Frame, given: Sequence[Zeros]) -> list[Zeros]:
        zeros: dict[Var, Zeros] = dict.fromkeys(frame.jaxpr.constvars, frozenset())
        zeros.update(zip(frame.jaxpr.invars, given, strict=True))

        def read(var: Any) -> Zeros:
            if isinstance(var, Constant):
                return frozenset({_ALL}) if np.ndim(var.val) == 0 and var.val == 0 else frozenset()
            return zeros[var]

        for i, eqn in enumerate(frame.eqns):
            operands = [read(var) for var in eqn.invars]
            if i in frame.called:
                results = self.run(frame.called[i], operands)
            else:
                axes = [frame.of(var) for var in eqn.invars]
                self._once(axes, [frame.of(var) for var in eqn.outvars])
                self._poles(eqn, axes, operands)
                results = [self._result(eqn, axes, operands)] * len(eqn.outvars)
            zeros.update(zip(eqn.outvars, results, strict=True))
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

    def _poles(self, eqn: JaxprEqn, axes: Sequence[Axes], zeros: Sequence[Zeros]) -> None:
        name = eqn.primitive.name
        at: int | None = None
        if name in _NOT_FINITE or (name == "integer_pow" and eqn.params["y"] < 0) or name == "pow":
            at = 0
        elif name in ("div", "rem"):
            at = 1
        if at is not None:
            leaves = occurrences(self._atoms, axes[at])
            self._atoms.block([(leaf,) for leaf in leaves if leaf in zeros[at]], _POLE)

    def _result(self, eqn: JaxprEqn, axes: Sequence[Axes], zeros: Sequence[Zeros]) -> Zeros:
        name = eqn.primitive.name
        if name in _SUMS:
            return _SUMS[name](self, eqn, axes, zeros)
        if name in ("mul", "and"):
            return zeros[0] | zeros[1]
        if name in ("div", "rem") or name in _KEEP_FIRST.split():
            return zeros[0]
        if name == "integer_pow":
            return zeros[0] if eqn.params["y"] > 0 else frozenset()
        if name in _KEEP_ZERO.split() or name in ("concatenate", "pad"):
            return _common(zeros)
        return _common(zeros[1:]) if name == "select_n" else frozenset()

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


def _common(zeros: Sequence[Zeros]) -> Zeros:
    """At which all operands are zero."""
    some = [z for z in zeros if _ALL not in z]
    return frozenset.intersection(*some) if some else frozenset({_ALL})
