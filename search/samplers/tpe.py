"""Optuna's multi-objective TPE behind the sampler protocol.

Y. Ozaki, Y. Tanigaki, S. Watanabe, M. Nomura and M. Onishi, "Multiobjective Tree-Structured Parzen
Estimator", JAIR 73, 2022, doi:10.1613/jair.1.13188.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from paretax.errors import UsageError
from paretax.search.samplers.options import check_batch, check_whole
from paretax.search.samplers.protocol import Observation
from paretax.spaces import Candidate, Float, Integer, Parameter, Space, Value

_TRIES = 5  # forbidden proposals in a row before a random one is made


@dataclass(frozen=True, kw_only=True)
class _History:
    space: Space
    told: tuple[Observation, ...]


@dataclass(frozen=True, kw_only=True)
class TPESampler:
    """Fills an Optuna study in memory with what was told, and asks it.

    Optuna learns from valid trials; one that broke a limit or failed counts as failed there.

    Args:
        startup: random proposals before the model is used.

    Raises:
        UsageError: Optuna is not installed.
    """

    startup: int = 10
    batch: int | None = None

    def __post_init__(self) -> None:
        check_whole("startup", self.startup, 0)
        check_batch(self.batch)
        try:
            import optuna
        except ModuleNotFoundError as error:
            raise UsageError(
                "the sampler tpe needs Optuna: install paretax[optuna], or take another sampler"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def init(self, space: Space) -> _History:
        return _History(space=space, told=())

    def tell(self, state: _History, observations: Sequence[Observation]) -> _History:
        return replace(state, told=(*state.told, *observations))

    def ask(self, state: _History, count: int, rng: np.random.Generator) -> list[Candidate]:
        import optuna

        scored = [o for o in state.told if o.losses is not None]
        objectives = len(scored[0].losses or ()) if scored else 1
        study = optuna.create_study(
            directions=["minimize"] * objectives,
            sampler=optuna.samplers.TPESampler(
                n_startup_trials=self.startup,
                constant_liar=True,
                seed=int(rng.integers(2**31)),
            ),
        )
        study.add_trials([_past(state.space, o) for o in state.told])
        return [_allowed(state.space, study, rng) for _ in range(count)]


def _allowed(space: Space, study: Any, rng: np.random.Generator) -> Candidate:
    """A proposal of the model; a random one where it insists on what is forbidden.

    The model takes the parameters one by one, so it does not learn which combinations may not be.
    """
    import optuna

    for _ in range(_TRIES):
        trial = study.ask()
        candidate = _suggest(space, trial)
        if candidate is not None:
            return candidate
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return space.sample(rng)


def _suggest(space: Space, trial: Any) -> Candidate | None:
    """One candidate, parents before children; None where it is forbidden."""
    chosen: dict[str, Value] = {}
    for parameter in space.order:
        if space.is_active(parameter, chosen):
            chosen[parameter.name] = parameter.canonical(_draw(parameter, trial))
    return None if space.is_forbidden(chosen) else Candidate(chosen)


def _draw(parameter: Parameter, trial: Any) -> Any:
    domain = _distribution(parameter)
    if isinstance(parameter, Float):
        return trial.suggest_float(
            parameter.name, domain.low, domain.high, log=domain.log, step=domain.step
        )
    if isinstance(parameter, Integer):
        return trial.suggest_int(
            parameter.name, domain.low, domain.high, log=domain.log, step=domain.step
        )
    return parameter.choices[trial.suggest_categorical(parameter.name, domain.choices)]


def _past(space: Space, observation: Observation) -> Any:
    import optuna

    candidate = observation.candidate
    state = optuna.trial.TrialState
    return optuna.trial.create_trial(
        params={name: _number(space[name], value) for name, value in candidate.items()},
        distributions={name: _distribution(space[name]) for name in candidate},
        values=observation.losses if observation.valid else None,
        state=state.COMPLETE if observation.valid else state.FAIL,
    )


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    low, high = parameter.grid(2)[0], parameter.grid(2)[-1]  # the last step may end before `high`
    if isinstance(parameter, Float):
        if parameter.low == parameter.high:
            return FloatDistribution(parameter.low, parameter.high)
        return FloatDistribution(float(low), float(high), log=parameter.log, step=parameter.step)
    if isinstance(parameter, Integer):
        step = int(parameter.step or 1)
        return IntDistribution(int(low), int(high), log=parameter.log, step=step)
    return CategoricalDistribution(tuple(range(len(parameter.choices))))


def _number(parameter: Parameter, value: Value) -> Value:
    """What Optuna is told of a value: of a choice its place, as Optuna takes 1 and True for one."""
    return value if isinstance(parameter, Float | Integer) else parameter.index(value)
