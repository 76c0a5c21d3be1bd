"""Which axes of a traced program are tied to each other, and which of them must stay as they are.

The dependency graph of Fang et al., "DepGraph: Towards Any Structural Pruning" (CVPR 2023,
arXiv:2301.12900), drawn from a jaxpr instead of from layers: `axis_rules` has a rule for
each primitive. Whatever a primitive without a rule touches is blocked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var
from jax.extend.core import Literal as Constant

from paretax.spaces.axes import Atoms, Axes
from paretax.spaces.axis_rules import ELEMENTWISE, RULES, Ties, Use, opaque, shape_of
from paretax.spaces.sites import Arrays, Predict, called_jaxpr, needed

_LAYOUT_NAMES = (
    "broadcast_in_dim dynamic_slice optimization_barrier reshape rev slice split squeeze transpose "
    "unstack"
)
_LAYOUT = frozenset(_LAYOUT_NAMES.split())

Origin = str | bool | None
"""What a value is made of: a parameter's name, where it is that one apart from its layout, a part
of it, or fixed factors; True: of constants and the state alone; None: of anything else."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A jaxpr with the axes of its values.

    Args:
        jaxpr: with all its equations.
        eqns: those that the results depend on.
        consts: the values of its constants.
        axes: of each variable.
        called: the frames of the equations that call a jaxpr, by the equation's position
            among `eqns`.
    """

    jaxpr: Jaxpr
    eqns: Sequence[JaxprEqn]
    consts: Sequence[Any]
    axes: dict[Var, Axes] = field(default_factory=dict)
    called: dict[int, Frame] = field(default_factory=dict)

    def of(self, var: Any) -> Axes:
        """The axes of a variable; a literal is a scalar."""
        return () if isinstance(var, Constant) else self.axes[var]


@dataclass(frozen=True, kw_only=True)
class Program:
    """A traced model.

    Args:
        ties: what its axes are made of, and what becomes of them.
        frame: its equations; the arguments are `arrays` and then the inputs.
        arrays: the axes of the parameters and then of the state, by name.
        outputs: the structure of the outputs.
    """

    ties: Ties
    frame: Frame
    arrays: Mapping[str, Axes]
    outputs: Any

    @property
    def atoms(self) -> Atoms:
        """What its axes are made of."""
        return self.ties.atoms


def trace(predict: Predict, params: Arrays, state: Arrays, inputs: Any) -> Program:
    """Trace a model, and tie the axes of all its values.

    Args:
        predict: the model in inference mode.
        params: arrays or their shapes, by name.
        state: likewise.
        inputs: a batch, or its shape.
    """
    closed, out_shape = jax.make_jaxpr(predict, return_shape=True)(params, state, inputs)
    walk = _Walk()
    names = [*sorted(params), *sorted(state)]
    given = [walk.atoms.new(shape_of(var)) for var in closed.jaxpr.invars]
    walk.atoms.block(
        [axis for axes in given[len(names) :] for axis in axes], "it is an axis of the inputs"
    )
    origins: list[Origin] = [*sorted(params), *[True] * len(state)]
    origins += [None] * (len(given) - len(origins))
    frame, results, _ = walk.run(closed, given, origins)
    walk.atoms.block([axis for axes in results for axis in axes], "it is an output of the model")
    return Program(
        ties=walk.ties,
        frame=frame,
        arrays=dict(zip(names, given, strict=False)),
        outputs=jax.tree.structure(out_shape),
    )


class _Walk:
    def __init__(self) -> None:
        self.ties = Ties()
        self.atoms = self.ties.atoms

    def run(
        self, closed: ClosedJaxpr, given: Sequence[Axes], origins: Sequence[Origin]
    ) -> tuple[Frame, list[Axes], list[Origin]]:
        """Frame, axes of the results, and what each result is made of."""
        jaxpr = closed.jaxpr
        frame = Frame(jaxpr=jaxpr, eqns=needed(jaxpr), consts=closed.consts)
        for var in jaxpr.constvars:
            frame.axes[var] = self.atoms.new(shape_of(var), "a constant of the model has it")
        frame.axes.update(zip(jaxpr.invars, given, strict=True))
        made_of: dict[Var, Origin] = dict.fromkeys(jaxpr.constvars, True)
        made_of.update(zip(jaxpr.invars, origins, strict=True))

        def origin_of(var: Any) -> Origin:
            return True if isinstance(var, Constant) else made_of[var]

        for i, eqn in enumerate(frame.eqns):
            axes = [self._of(frame, var) for var in eqn.invars]
            origin = [origin_of(var) for var in eqn.invars]
            if (inner := called_jaxpr(eqn)) is not None:
                frame.called[i], results, made = self.run(inner, axes, origin)
            else:
                weights = [one if isinstance(one, str) else None for one in origin]
                results = RULES.get(eqn.primitive.name, opaque)(self.ties, Use(eqn, axes, weights))
                made = [_made(eqn, origin)] * len(eqn.outvars)
            frame.axes.update(zip(eqn.outvars, results, strict=True))
            made_of.update(zip(eqn.outvars, made, strict=True))
        outvars = jaxpr.outvars
        return (
            frame,
            [self._of(frame, var) for var in outvars],
            [origin_of(var) for var in outvars],
        )

    def _of(self, frame: Frame, var: Any) -> Axes:
        if isinstance(var, Constant):
            return self.atoms.new(shape_of(var), "a constant of the model has it")
        return frame.axes[var]


def _made(eqn: JaxprEqn, origins: Sequence[Origin]) -> Origin:
    """What the results of an equation without a program of its own are made of."""
    found = {one for one in origins if one is not True}
    if not found:
        return True
    (first, *others) = found
    followed = eqn.primitive.name in ELEMENTWISE or (
        eqn.primitive.name in _LAYOUT and not _grows(eqn)
    )
    return first if followed and not others else None


def _grows(eqn: JaxprEqn) -> bool:
    """Whether entries are repeated, as those of a bias are."""
    return bool(math.prod(shape_of(eqn.outvars[0])) > math.prod(shape_of(eqn.invars[0])))
