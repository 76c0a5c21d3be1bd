"""The joint space: parameters, the conditions between them, and what is forbidden."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

import numpy as np

from paretax.errors import UsageError, shortened, unknown
from paretax.spaces.candidate import Candidate
from paretax.spaces.conditions import Clause, OneOf, Test
from paretax.spaces.parameters import Parameter, Value

_TRIES = 1000  # draws before a space counts as forbidding everything
_COUNT_LIMIT = 200_000  # combinations walked through before a count becomes an upper bound


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many candidates there are.

    Args:
        combinations: of the parameters with finitely many values.
        exact: whether `combinations` is the count, or an upper bound.
        continuous: how many parameters are a continuum on top.
    """

    combinations: int
    exact: bool
    continuous: int

    def describe(self) -> str:
        """The size in words."""
        count = f"{'' if self.exact else 'at most '}{self.combinations:,} combinations"
        if self.continuous:
            count += f" x {self.continuous} continuous parameter{'s'[: self.continuous > 1]}"
        return count


class Space:
    """A product of typed parameters, with conditions and forbidden combinations.

    A parameter is active where its `when` holds on the active values before it; a candidate
    holds the active parameters and no others.

    Args:
        parameters: in the order in which they are shown.
        forbidden: each a mapping of parameters to values, lists of values or
            `{"min": a, "max": b}`; a candidate on which all tests of one hold is not in the space.

    Raises:
        UsageError: a name used twice, a condition on a parameter that is not there, on a value
            that it never takes, or on itself by a cycle.

    Example:
        >>> from paretax.spaces import Categorical, Integer, Space
        >>> space = Space([
        ...     Categorical("quantize", [False, True]),
        ...     Integer("weight_bits", 2, 8, when={"quantize": True}),
        ... ])
        >>> space.size().combinations
        8
        >>> dict(space.candidate({"quantize": False}))
        {'quantize': False}
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        forbidden: Sequence[Clause | Mapping[str, object]] = (),
    ) -> None:
        self.parameters = tuple(parameters)
        self._by_name = {p.name: p for p in self.parameters}
        if not self.parameters:
            raise UsageError("a space needs at least one parameter: add one under `space:`")
        names = [p.name for p in self.parameters]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"a parameter's name must be unique, got {name!r} twice")
        clauses = [
            Clause.make({} if c is None else c, f"forbidden clause {i + 1}")
            for i, c in enumerate(forbidden)
        ]
        self.parameters = tuple(
            p
            if p.when is None
            else replace(p, when=self._checked(_when(p), f"the condition of {p.name!r}"))
            for p in self.parameters
        )
        self._by_name = {p.name: p for p in self.parameters}
        self.forbidden: tuple[Clause, ...] = tuple(
            self._checked(clause, f"forbidden clause {i + 1}")
            for i, clause in enumerate(c for c in clauses if c is not None)
        )
        self._order = self._sorted()

    def _checked(self, given: Clause, where: str) -> Clause:
        """A clause on the values that its parameters have; refused where it can never hold."""
        for name in given.names:
            if name not in self._by_name:
                raise unknown("parameter", name, self._by_name, where)
        clause = given.resolved(lambda name, value: _meant(self._by_name[name], value))
        for name, test in clause.tests:
            parent = self._by_name[name]
            if parent.cardinality is not None and parent.cardinality <= _COUNT_LIMIT:
                possible = any(test.holds(v) for v in parent.grid(parent.cardinality))
            else:
                ends = parent.grid(2)
                possible = any(test.holds(v) for v in ends) or _overlaps(test, ends)
            if not possible:
                raise UsageError(
                    f"{where} can never hold: {name} {shortened(test.describe())}, "
                    f"but {name} takes {shortened(parent.describe())}"
                )
        return clause

    def _sorted(self) -> tuple[Parameter, ...]:
        parents = {p.name: _when(p).names if p.when is not None else () for p in self.parameters}
        sorter = TopologicalSorter(parents)
        try:
            sorter.prepare()
        except CycleError as error:
            cycle = " -> ".join(reversed(error.args[1]))
            raise UsageError(
                f"conditions must not form a cycle, got {cycle}: remove one of these `when`"
            ) from None
        order: list[Parameter] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=list(parents).index)
            order += [self._by_name[name] for name in ready]
            sorter.done(*ready)
        return tuple(order)

    def __len__(self) -> int:
        return len(self.parameters)

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Parameter:
        if name not in self._by_name:
            raise unknown("parameter", name, self._by_name)
        return self._by_name[name]

    @property
    def order(self) -> tuple[Parameter, ...]:
        """The parameters with every parent before its children."""
        return self._order

    @staticmethod
    def is_active(parameter: Parameter, values: Mapping[str, Value]) -> bool:
        """Whether a parameter exists beside these values of its parents."""
        return parameter.when is None or _when(parameter).holds(values)

    def is_forbidden(self, values: Mapping[str, Value]) -> bool:
        """Whether a forbidden clause holds on these values."""
        return any(clause.holds(values) for clause in self.forbidden)

    def candidate(self, values: Mapping[str, object]) -> Candidate:
        """The canonical candidate with these values.

        Raises:
            UsageError: a name that the space does not have, a value outside its domain, a missing
                active parameter, an inactive one that is given, or a forbidden combination.
        """
        for name in values:
            if name not in self._by_name:
                raise unknown("parameter", name, self._by_name, "the candidate")
        chosen: dict[str, Value] = {}
        for parameter in self._order:
            if self.is_active(parameter, chosen):
                if parameter.name not in values:
                    raise UsageError(
                        f"the candidate lacks {parameter.name!r}: give it ({parameter.describe()})"
                    )
                chosen[parameter.name] = parameter.canonical(values[parameter.name])
            elif parameter.name in values:
                raise UsageError(
                    f"parameter {parameter.name!r} exists only when {_when(parameter).describe()}: "
                    "leave it out"
                )
        for clause in self.forbidden:
            if clause.holds(chosen):
                raise UsageError(f"the combination is forbidden: {clause.describe()}")
        return Candidate(chosen)

    def sample(self, rng: np.random.Generator) -> Candidate:
        """A candidate, each active parameter drawn alone; forbidden ones are drawn again.

        Raises:
            UsageError: nothing that is allowed was found in 1,000 draws.
        """
        for _ in range(_TRIES):
            chosen: dict[str, Value] = {}
            for parameter in self._order:
                if self.is_active(parameter, chosen):
                    chosen[parameter.name] = parameter.sample(rng)
            if not self.is_forbidden(chosen):
                return Candidate(chosen)
        raise UsageError(
            f"the forbidden clauses exclude all of {_TRIES} random candidates: loosen them"
        )

    def grid(self, points: int = 3) -> Iterator[Candidate]:
        """All combinations, an ordered parameter taking at most `points` spread values."""

        def walk(index: int, chosen: dict[str, Value]) -> Iterator[Candidate]:
            if index == len(self._order):
                if not self.is_forbidden(chosen):
                    yield Candidate(chosen)
                return
            parameter = self._order[index]
            if not self.is_active(parameter, chosen):
                yield from walk(index + 1, chosen)
                return
            for value in parameter.grid(points):
                yield from walk(index + 1, {**chosen, parameter.name: value})

        return walk(0, {})

    def size(self) -> Size:
        """The number of candidates, exact where that takes at most 200,000 steps."""
        tested = {n for p in self.parameters if p.when is not None for n in _when(p).names}
        tested |= {n for clause in self.forbidden for n in clause.names}
        finite = [p for p in self._order if p.cardinality is not None]
        branching = [p for p in finite if p.name in tested]
        continuous = [p for p in self._order if p.cardinality is None]
        walked = math.prod(p.cardinality or 1 for p in branching)
        if walked > _COUNT_LIMIT or tested & {p.name for p in continuous}:
            bound = math.prod((p.cardinality or 1) + (p.when is not None) for p in finite)
            return Size(combinations=bound, exact=False, continuous=len(continuous))
        others = [p for p in finite if p.name not in tested]

        def count(index: int, chosen: dict[str, Value]) -> int:
            if index == len(branching):
                if self.is_forbidden(chosen):
                    return 0
                free = (p.cardinality or 1 for p in others if self.is_active(p, chosen))
                return math.prod(free)
            parameter = branching[index]
            if not self.is_active(parameter, chosen):
                return count(index + 1, chosen)
            values = parameter.grid(parameter.cardinality or 1)
            return sum(count(index + 1, {**chosen, parameter.name: v}) for v in values)

        return Size(combinations=count(0, {}), exact=True, continuous=len(continuous))

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of `encode`."""
        return tuple(
            itertools.chain.from_iterable(
                [p.name] if p.columns == 1 else [f"{p.name}[{i}]" for i in range(p.columns)]
                for p in self.parameters
            )
        )

    def encode(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Numbers for a surrogate model.

        Returns:
            Array (candidates, columns) of float64: ordered parameters scaled to [0, 1] (on their
            log scale), categorical ones one-hot, NaN where a parameter is inactive.
        """
        rows = [
            [
                number
                for p in self.parameters
                for number in (p.encode(c[p.name]) if p.name in c else (math.nan,) * p.columns)
            ]
            for c in candidates
        ]
        return np.asarray(rows, dtype=np.float64).reshape(len(rows), len(self.columns))

    def decode(self, numbers: np.ndarray) -> list[Candidate]:
        """The nearest candidates to rows of numbers; the inverse of `encode`.

        Args:
            numbers: array (candidates, columns). Columns of inactive parameters are not read.

        Raises:
            UsageError: NaN for an active parameter, or a forbidden combination.
        """
        numbers = np.asarray(numbers, dtype=np.float64).reshape(-1, len(self.columns))
        starts = np.cumsum([0, *(p.columns for p in self.parameters)])
        place = {p.name: slice(starts[i], starts[i + 1]) for i, p in enumerate(self.parameters)}
        found = []
        for row in numbers:
            chosen: dict[str, Value] = {}
            for parameter in self._order:
                if self.is_active(parameter, chosen):
                    cells = row[place[parameter.name]]
                    if np.isnan(cells).any():
                        raise UsageError(f"parameter {parameter.name!r} is active but encoded NaN")
                    chosen[parameter.name] = parameter.decode(cells.tolist())
            found.append(self.candidate(chosen))
        return found


def _when(parameter: Parameter) -> Clause:
    """The condition of a parameter that has one."""
    assert isinstance(parameter.when, Clause)
    return parameter.when


def _meant(parameter: Parameter, value: Value) -> Value:
    """The value of a parameter that a user wrote; itself where the parameter never takes it."""
    try:
        return parameter.canonical(value)
    except UsageError:
        return value


def _overlaps(test: Test, ends: Sequence[Value]) -> bool:
    """Whether a test may hold between the two ends of a range of numbers."""
    low, high = float(ends[0]), float(ends[-1])
    if isinstance(test, OneOf):
        return any(not isinstance(v, str | bool) and low <= v <= high for v in test.values)
    return (test.low is None or test.low <= high) and (test.high is None or test.high >= low)
