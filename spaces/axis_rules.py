"""Rules: which axes of a primitive's operands and results are the same, one for each primitive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jax.extend.core import JaxprEqn

from paretax.spaces.axes import Atoms, Axes, Axis, flat

Role = Literal["producer", "consumer", "parameter"]


@dataclass(frozen=True, kw_only=True)
class Ties:
    """What is known of a program so far; rules add to it.

    Args:
        atoms: of all axes.
        uses: (axis, name of the parameter, what a product does with the axis), in order of use.
        heads: axes over which two activations are multiplied one by one.
        paired: axes over which products of two activations are summed.
    """

    atoms: Atoms = field(default_factory=Atoms)
    uses: list[tuple[Axis, str, Role]] = field(default_factory=list)
    heads: list[Axis] = field(default_factory=list)
    paired: list[Axis] = field(default_factory=list)


@dataclass(frozen=True)
class Use:
    """An equation with the axes of its operands, and which parameters these are as they are."""

    eqn: JaxprEqn
    axes: Sequence[Axes]
    origins: Sequence[str | None]

    @property
    def params(self) -> Mapping[str, Any]:
        """The equation's parameters."""
        return self.eqn.params

    def shape(self, operand: int) -> tuple[Any, ...]:
        """Of an operand."""
        return shape_of(self.eqn.invars[operand])

    @property
    def out_shape(self) -> tuple[Any, ...]:
        """Of the first result."""
        return shape_of(self.eqn.outvars[0])


def shape_of(var: Any) -> tuple[Any, ...]:
    """A variable's shape; keys and tokens have none."""
    return tuple(getattr(var.aval, "shape", ()))


Rule = Callable[[Ties, Use], list[Axes]]
"""(what is known, an equation) -> the axes of its results."""


_LOOPS = frozenset({"scan", "while", "cond"})


def opaque(ties: Ties, use: Use) -> list[Axes]:
    """The rule of primitives that have none: nothing that it touches may change."""
    name = use.eqn.primitive.name
    reason = f"it enters {name}, which has no rule"
    if name in _LOOPS:
        reason = f"it enters a loop or a branch ({name})"
        for axes, weight in zip(use.axes, use.origins, strict=True):  # so that it is told
            if weight is not None and len(axes) > 1:
                ties.uses.extend([(axis, weight, "producer") for axis in axes])
    ties.atoms.block([axis for axes in use.axes for axis in axes], reason)
    return [ties.atoms.new(shape_of(var), reason) for var in use.eqn.outvars]


def _elementwise(ties: Ties, use: Use) -> list[Axes]:
    """Operands have the rank of the result, with length 1 where they are repeated, or none."""
    rank = len(use.out_shape)
    operands = [i for i, axes in enumerate(use.axes) if axes]
    if any(len(use.axes[i]) != rank for i in operands):
        return opaque(ties, use)
    out = list(ties.atoms.new(use.out_shape)) if not operands else []
    for axis in range(rank) if operands else ():
        full = [i for i in operands if use.shape(i)[axis] == use.out_shape[axis]]
        first, *others = (use.axes[i][axis] for i in full)
        for other in others:
            ties.atoms.unify(first, other)
        out.append(first)
    return [tuple(out)] * len(use.eqn.outvars)


def _independent(ties: Ties, use: Use) -> list[Axes]:
    return list(use.axes)


def _changed(reason: str, axes_of: Callable[[Use], Sequence[int]]) -> Rule:
    """A rule: these axes are blocked, before and after; the others go through."""

    def rule(ties: Ties, use: Use) -> list[Axes]:
        changed = set(axes_of(use))
        ties.atoms.block([use.axes[0][i] for i in changed], reason)
        results = []
        for var in use.eqn.outvars:
            new = ties.atoms.new(shape_of(var))
            ties.atoms.block([new[i] for i in changed], reason)
            results.append(
                tuple(new[i] if i in changed else axis for i, axis in enumerate(use.axes[0]))
            )
        return results

    return rule


def _cut(use: Use) -> list[int]:
    return [i for i, n in enumerate(use.shape(0)) if use.out_shape[i] != n]


def _padded(use: Use) -> list[int]:
    config = use.params["padding_config"]
    return [i for i, amounts in enumerate(config) if any(n != 0 for n in amounts)]


def _windowed(use: Use) -> list[int]:
    p = use.params
    numbers = p["window_dimensions"], p["window_strides"], p["base_dilation"], p["padding"]
    return [
        i
        for i, (window, stride, dilation, (low, high)) in enumerate(zip(*numbers, strict=True))
        if not (window == stride == dilation == 1 and low == high == 0)
    ]


def _reduced(ties: Ties, use: Use) -> list[Axes]:
    gone = {int(i) for i in use.params["axes"]}
    ties.atoms.block([use.axes[0][i] for i in gone], "a reduction over it (LayerNorm?)")
    return [tuple(axis for i, axis in enumerate(use.axes[0]) if i not in gone)]


def _concatenated(ties: Ties, use: Use) -> list[Axes]:
    along, reason = use.params["dimension"], "a concatenation along it"
    ties.atoms.block([axes[along] for axes in use.axes], reason)
    first, *others = use.axes
    for other in others:
        for i, axis in enumerate(other):
            if i != along:
                ties.atoms.unify(first[i], axis)
    (new,) = ties.atoms.new((use.out_shape[along],), reason)
    return [(*first[:along], new, *first[along + 1 :])]


def _sorted(ties: Ties, use: Use) -> list[Axes]:
    along = use.params["dimension"]
    for axes in use.axes:
        ties.atoms.block([axes[along]], "it is sorted")
        for one, other in zip(use.axes[0], axes, strict=True):
            ties.atoms.unify(one, other)
    return list(use.axes)


def _reshaped(ties: Ties, use: Use) -> list[Axes]:
    if use.params["dimensions"] is not None:
        return opaque(ties, use)
    out = ties.atoms.new(use.out_shape)
    ties.atoms.unify(flat(ties.atoms, use.axes[0]), flat(ties.atoms, out))
    return [out]


def _transposed(ties: Ties, use: Use) -> list[Axes]:
    return [tuple(use.axes[0][i] for i in use.params["permutation"])]


def _squeezed(ties: Ties, use: Use) -> list[Axes]:
    gone = {i % len(use.axes[0]) for i in use.params["dimensions"]}
    return [tuple(axis for i, axis in enumerate(use.axes[0]) if i not in gone)]


def _unstacked(ties: Ties, use: Use) -> list[Axes]:
    along = use.params["axis"]
    ties.atoms.block([use.axes[0][along]], _INDEXED)
    kept = tuple(axis for i, axis in enumerate(use.axes[0]) if i != along)
    return [kept] * len(use.eqn.outvars)


def _broadcast(ties: Ties, use: Use) -> list[Axes]:
    out = list(ties.atoms.new(use.out_shape))
    for i, at in enumerate(use.params["broadcast_dimensions"]):
        if use.shape(0)[i] == use.out_shape[at]:
            out[at] = use.axes[0][i]
    return [tuple(out)]


def _numbered(ties: Ties, use: Use) -> list[Axes]:
    out = ties.atoms.new(use.out_shape)
    ties.atoms.block([out[use.params["dimension"]]], "it is numbered (iota)")
    return [out]


def _gathered(ties: Ties, use: Use) -> list[Axes]:
    """Axes that are taken whole go through, as an embedding's features do."""
    numbers, sizes, shape = use.params["dimension_numbers"], use.params["slice_sizes"], use.shape(0)
    if numbers.operand_batching_dims:
        return opaque(ties, use)
    whole = {
        i
        for i, n in enumerate(shape)
        if sizes[i] == n
        and i not in numbers.start_index_map
        and i not in numbers.collapsed_slice_dims
    }
    reason = "entries are looked up by their number in it"
    ties.atoms.block([axis for i, axis in enumerate(use.axes[0]) if i not in whole], reason)
    ties.atoms.block(use.axes[1][-1:], reason)
    kept = iter(i for i in range(len(shape)) if i not in numbers.collapsed_slice_dims)
    batch = iter(use.axes[1][:-1])
    out = []
    for at, length in enumerate(use.out_shape):
        if at not in numbers.offset_dims:
            out.append(next(batch))
        elif (i := next(kept)) in whole:
            out.append(use.axes[0][i])
        else:
            out.append(ties.atoms.new((length,), reason)[0])
    if (name := use.origins[0]) is not None:
        ties.uses.extend([(use.axes[0][i], name, "producer") for i in sorted(whole)])
    return [tuple(out)]


def _multiplied(ties: Ties, use: Use) -> list[Axes]:
    contracted, batch = use.params["dimension_numbers"]
    left, right = use.axes
    for pairs in (contracted, batch):
        for i, j in zip(*pairs, strict=True):
            ties.atoms.unify(left[i], right[j])
    free = [
        [axis for i, axis in enumerate(axes) if i not in (*contracted[k], *batch[k])]
        for k, axes in enumerate(use.axes)
    ]
    if use.origins[0] is None and use.origins[1] is None:
        ties.heads.extend([left[i] for i in batch[0]])
        ties.paired.extend([left[i] for i in contracted[0]])
    for k, name in enumerate(use.origins):
        if name is not None and use.origins[1 - k] is None:
            _weight(ties, use.axes[k], name, contracted[k])
    return [(*(left[i] for i in batch[0]), *free[0], *free[1])]


def _weight(ties: Ties, axes: Axes, name: str, contracted: Sequence[int]) -> None:
    for i, axis in enumerate(axes):
        ties.uses.append((axis, name, "consumer" if i in contracted else "producer"))


def _convolved(ties: Ties, use: Use) -> list[Axes]:
    """With G groups the inputs are (G, I), the kernel takes I, and gives outputs (G, O)."""
    if use.params["batch_group_count"] != 1:
        return opaque(ties, use)
    numbers, groups = use.params["dimension_numbers"], use.params["feature_group_count"]
    image, kernel = use.axes
    batch, channels = (image[i] for i in numbers.lhs_spec[:2])
    outputs, inputs = (kernel[i] for i in numbers.rhs_spec[:2])
    (group,) = ties.atoms.new((groups,))
    (per_group,) = ties.atoms.new((ties.atoms.length(outputs) // groups,))
    ties.atoms.unify(channels, (*group, *inputs))
    ties.atoms.unify(outputs, (*group, *per_group))
    spatial = [image[i] for i in numbers.lhs_spec[2:]], [kernel[i] for i in numbers.rhs_spec[2:]]
    reason = "a convolution slides along it"
    ties.atoms.block([*spatial[0], *spatial[1]], reason)
    out = list(ties.atoms.new(use.out_shape))
    ties.atoms.block([out[i] for i in numbers.out_spec[2:]], reason)
    out[numbers.out_spec[0]], out[numbers.out_spec[1]] = batch, outputs
    if use.origins[0] is None and (name := use.origins[1]) is not None:
        _weight(ties, kernel, name, numbers.rhs_spec[1:])
    return [tuple(out)]


_ELEMENTWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp "
    "convert_element_type copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 "
    "floor ge gt integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg "
    "nextafter not or pow reduce_precision rem round rsqrt select_n shift_left "
    "shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan "
    "tanh xor"
)
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""Primitives whose result at a place depends on their operands at that place alone."""

_REDUCTIONS = (
    "argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor"
)
_RUNNING = "cumlogsumexp cummax cummin cumprod cumsum"
_WINDOWS = "reduce_window_max reduce_window_min reduce_window_sum"
_INDEXED = "a part of it is taken"
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS.split(), _reduced),
    **dict.fromkeys(
        _RUNNING.split(),
        _changed("a running reduction along it", lambda use: [use.params["axis"]]),
    ),
    **dict.fromkeys(
        _WINDOWS.split(),
        _changed("a window slides along it", _windowed),
    ),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenated,
    "conv_general_dilated": _convolved,
    "dot_general": _multiplied,
    "dynamic_slice": _changed(_INDEXED, _cut),
    "gather": _gathered,
    "iota": _numbered,
    "optimization_barrier": _independent,
    "pad": _changed("it is padded", _padded),
    "reshape": _reshaped,
    "rev": _changed("it is reversed", lambda use: use.params["dimensions"]),
    "slice": _changed(_INDEXED, _cut),
    "sort": _sorted,
    "split": _changed(_INDEXED, lambda use: [use.params["axis"]]),
    "squeeze": _squeezed,
    "transpose": _transposed,
    "unstack": _unstacked,
}
